// SPDX-License-Identifier: Apache-2.0

package seek

import (
	"errors"

	"github.com/imgfs/imgfs/layerstore/seek/inflate"
)

const (
	pieceSize  = 256 << 10 // output bytes of a piece
	pieceCount = 4
	maxMarks   = 1024 // marks of a piece, so that empty members or frames fill it too
)

// piece is a stretch of output on its way from decoding to checking. The
// inflate.Window bytes before lo are what came before it (of gzip only).
type piece struct {
	buf    []byte
	lo, hi int
	marks  []mark // sorted by pos
}

type markKind uint8

const (
	memberStart markKind = iota // of gzip; it is a seek point if point is set
	memberEnd
	blockPoint // a seek point inside a member
	windowEnd  // what the last blockPoint's window is needed for is known
	frameStart // of zstd
	frameEnd
)

// mark says what happens before the byte buf[pos].
type mark struct {
	pos      int
	kind     markKind
	point    bool
	hist     int                 // blockPoint: where in buf the member's output begins
	in       int64               // position in the stream: bits for gzip, bytes for zstd
	blockBit int64               // blockPoint: position of the block's header
	size     int64               // frameStart: size that the frame states, or -1
	crc      uint32              // memberEnd: as the trailer has it
	isize    uint32              // memberEnd: as the trailer has it
	refs     *inflate.References // windowEnd: what of the window is copied
}

var errStopped = errors.New("stopped")

// pipeline hands pieces from a decoding goroutine to the caller's.
type pipeline struct {
	free chan *piece
	full chan *piece
	stop chan struct{}
	cur  *piece // the one produce fills
}

// run lets produce fill pieces in a goroutine while consume takes them, in
// order. It returns when both are done, with the error of the one that met it
// first in the order of the stream.
func run(produce func(*pipeline) error, consume func(*piece) error) error {
	pl := &pipeline{
		free: make(chan *piece, pieceCount),
		full: make(chan *piece, pieceCount),
		stop: make(chan struct{}),
	}
	for range pieceCount {
		pl.free <- &piece{buf: make([]byte, inflate.Window+pieceSize+inflate.Slack)}
	}
	done := make(chan error, 1)
	go func() {
		defer close(pl.full)
		pl.next()
		err := produce(pl)
		if err == nil {
			err = pl.emit()
		} else if err != errStopped {
			pl.emit() // what was decoded before the fault comes first
		}
		done <- err
	}()
	var err error
	for p := range pl.full {
		if err == nil {
			if err = consume(p); err != nil {
				close(pl.stop)
			}
		}
		p.marks = p.marks[:0]
		pl.free <- p
	}
	if produced := <-done; err == nil {
		err = produced
	}
	return err
}

// next makes a free piece the current one.
func (pl *pipeline) next() {
	p := <-pl.free
	p.lo, p.hi = inflate.Window, inflate.Window
	pl.cur = p
}

// emit hands the current piece on. It is errStopped if nobody wants it.
func (pl *pipeline) emit() error {
	p := pl.cur
	pl.cur = nil
	select {
	case <-pl.stop:
		return errStopped
	default:
	}
	pl.full <- p // has room for every piece there is
	return nil
}

// room is the half-open range of the current piece that is still to fill.
func (p *piece) room() []byte { return p.buf[p.hi : inflate.Window+pieceSize] }
