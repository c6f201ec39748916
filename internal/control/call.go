// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// maxPiece bounds a piece of a stream.
const maxPiece = 64 << 10

// call serves a call: the stream, then the answer.
func (s *Server) call(c *net.UnixConn, call *Call) {
	if call == nil {
		writeLine(c, answer{Error: "a call of nothing"})
		return
	}
	c.SetDeadline(time.Time{}) // it takes what it takes; a client that goes away ends it
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		var b [1]byte
		c.Read(b[:]) // returns when either side has closed
		cancel()
	}()
	pieces := bufio.NewWriterSize(pieceWriter{c}, maxPiece)
	err := s.h.Call(ctx, call, pieces)
	if ferr := pieces.Flush(); err == nil {
		err = ferr
	}
	c.SetDeadline(time.Now().Add(answerTime))
	if _, werr := c.Write(make([]byte, 4)); werr == nil {
		writeLine(c, answerOf(err))
	}
}

// A pieceWriter writes each piece behind its length.
type pieceWriter struct{ c net.Conn }

func (w pieceWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, maxPiece)
		head := binary.LittleEndian.AppendUint32(nil, uint32(n))
		if _, err := (&net.Buffers{head, p[done : done+n]}).WriteTo(w.c); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// Call has the server of e do what call says and copies the stream to w. The
// error is the server's, or that of w.
func (e *Entry) Call(ctx context.Context, call *Call, w io.Writer) error {
	c, err := e.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	fail := func(err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if hungUp(err) {
			return fmt.Errorf("%s: its server ended meanwhile: %w", e.Dir, err)
		}
		return err
	}
	if err := writeLine(c, request{Verb: verbCall, Call: call}); err != nil {
		return fail(err)
	}
	r := bufio.NewReaderSize(c, maxPiece)
	buf := make([]byte, maxPiece)
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return fail(err)
		}
		n := binary.LittleEndian.Uint32(head[:])
		if n == 0 {
			break
		}
		if n > maxPiece {
			return fmt.Errorf("%s: a piece of %d bytes from its server", e.Dir, n)
		}
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return fail(err)
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
	}
	var a answer
	if err := readLine(r, maxAnswer, &a); err != nil {
		return fail(err)
	}
	if a.Error == "" {
		return nil
	}
	if a.Errno > 0 {
		return &CallError{Text: a.Error, Errno: syscall.Errno(a.Errno)}
	}
	return errors.New(a.Error)
}

// A CallError is an error of a server that has an errno.
type CallError struct {
	Text  string
	Errno syscall.Errno
}

func (e *CallError) Error() string { return e.Text }
func (e *CallError) Unwrap() error { return e.Errno }
