// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"sync"

	"golang.org/x/sys/unix"
)

// Limits of a tar that is put together.
const (
	maxTar    = 1 << 40   // bytes; a layer may have no more
	maxRaw    = 8 << 30   // bytes of headers and padding
	maxPieces = 100 << 20 // files and what lies between them
	maxName   = 64 << 10  // bytes of the path of a file
)

// pieces are a tar in many places: headers and padding in one temporary file,
// the content of files in a directory.
//
// Of each piece two numbers are in memory; the names of files are in the
// temporary file, too, as records:
//
//	0  1  flags: 1 a stamp follows, 2 the name is one in the store
//	…  40 stamp: device, inode, size, mtime, ctime
//	…  2  length of the name
//	…  …  name
type pieces struct {
	root  *dir // of the files
	store *dir // of files that lie elsewhere; nil if there are none

	offs []int64 // of each piece in the tar, rising
	refs []int64 // >= 0: where its bytes are in the spool; else ^ of where its record is
	size int64   // bytes of the tar

	spool   *os.File
	w       *bufio.Writer // nil when all is written
	spooled int64

	open openFiles
}

func newPieces(root *dir, temp func() (*os.File, error)) (*pieces, error) {
	spool, err := temp()
	if err != nil {
		return nil, err
	}
	return &pieces{root: root, spool: spool, w: bufio.NewWriterSize(spool, 256<<10)}, nil
}

// raw adds bytes.
func (p *pieces) raw(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	k := len(p.offs) - 1
	if k < 0 || p.refs[k] < 0 || p.refs[k]+p.size-p.offs[k] != p.spooled {
		if err := p.piece(p.spooled); err != nil {
			return err
		}
	}
	if p.spooled+int64(len(b)) > maxRaw {
		return malformed("over %d bytes of headers", int64(maxRaw))
	}
	return errors.Join(p.grow(int64(len(b))), p.write(b))
}

// file adds the content of a file: size bytes. A zero st stands for any file
// of that size.
func (p *pieces) file(name string, size int64, st stamp) error { return p.fileOf(0, name, size, st) }

// fromStore is the flag of a file whose name is one in the store.
const fromStore = 2

func (p *pieces) fileOf(flags byte, name string, size int64, st stamp) error {
	switch {
	case size < 0:
		return malformed("%.200q has %d bytes", name, size)
	case len(name) > maxName:
		return malformed("%.50q…: a name of %d bytes", name, len(name))
	case size == 0:
		return nil
	}
	if err := p.piece(^p.spooled); err != nil {
		return err
	}
	record := []byte{flags}
	if st != (stamp{}) {
		record[0] |= 1
		for _, n := range []int64{st.Dev, st.Ino, st.Size, st.Mtime, st.Ctime} {
			record = binary.LittleEndian.AppendUint64(record, uint64(n))
		}
	}
	record = binary.LittleEndian.AppendUint16(record, uint16(len(name)))
	return errors.Join(p.grow(size), p.write(append(record, name...)))
}

func (p *pieces) piece(ref int64) error {
	if len(p.offs) == maxPieces {
		return malformed("over %d files", maxPieces/2)
	}
	p.offs, p.refs = append(p.offs, p.size), append(p.refs, ref)
	return nil
}

func (p *pieces) grow(n int64) error {
	if n > maxTar-p.size {
		return malformed("a layer of over %d bytes", int64(maxTar))
	}
	p.size += n
	return nil
}

func (p *pieces) write(b []byte) error {
	p.spooled += int64(len(b))
	_, err := p.w.Write(b)
	return err
}

// end ends the making.
func (p *pieces) end() error {
	err := p.w.Flush()
	p.w = nil
	return err
}

// Close closes all files but the root.
func (p *pieces) Close() error { return errors.Join(p.open.Close(), p.spool.Close()) }

// ReadAt reads the tar. A file that cannot be read is an UnreadableError.
func (p *pieces) ReadAt(b []byte, off int64) (n int, err error) { return p.readAt(b, off, p.readPiece) }

// headers reads the tar with zeros where the content of files is.
func (p *pieces) headers(b []byte, off int64) (n int, err error) {
	return p.readAt(b, off, func(k int, b []byte, off, size int64) error {
		if p.refs[k] < 0 {
			clear(b)
			return nil
		}
		return p.readPiece(k, b, off, size)
	})
}

// A headerReader reads what get makes, with zeros where the content of files is.
type headerReader struct {
	get func(context.Context) (*pieces, error)
}

func (h headerReader) ReadAt(b []byte, off int64) (int, error) {
	p, err := h.get(context.Background())
	if err != nil {
		return 0, err
	}
	return p.headers(b, off)
}

func (p *pieces) readAt(b []byte, off int64, read func(k int, b []byte, off, size int64) error) (n int, err error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	k := sort.Search(len(p.offs), func(i int) bool { return p.offs[i] > off }) - 1
	for ; n < len(b) && off < p.size; k++ {
		end := p.size
		if k+1 < len(p.offs) {
			end = p.offs[k+1]
		}
		part := b[n:min(int64(len(b)), int64(n)+end-off)]
		if err := read(k, part, off-p.offs[k], end-p.offs[k]); err != nil {
			return n, err
		}
		n, off = n+len(part), off+int64(len(part))
	}
	if n < len(b) {
		err = io.EOF
	}
	return n, err
}

// readPiece reads from off of piece k, which has size bytes.
func (p *pieces) readPiece(k int, b []byte, off, size int64) error {
	if p.refs[k] >= 0 {
		return readFull(p.spool, b, p.refs[k]+off)
	}
	f, err := p.open.get(int64(k), func() (*os.File, error) { return p.openFile(k, size) })
	if err != nil {
		return err
	}
	defer p.open.put(f)
	if err := readFull(f.file, b, off); err != nil {
		return unreadable(f.file.Name(), err)
	}
	return nil
}

// readFull fills b; fewer bytes are an error.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// record returns what is noted of the file of piece k.
func (p *pieces) record(k int) (flags byte, name string, st stamp, err error) {
	at := ^p.refs[k]
	head := make([]byte, 1+40+2)
	n, err := p.spool.ReadAt(head, at)
	if err != nil && err != io.EOF || n < 3 {
		return 0, "", st, errors.Join(err, io.ErrUnexpectedEOF)
	}
	lenAt := 1
	if head[0]&1 != 0 {
		num := func(i int) int64 { return int64(binary.LittleEndian.Uint64(head[1+8*i:])) }
		st = stamp{num(0), num(1), num(2), num(3), num(4)}
		lenAt = 41
	}
	b := make([]byte, binary.LittleEndian.Uint16(head[lenAt:]))
	err = readFull(p.spool, b, at+int64(lenAt)+2)
	return head[0], string(b), st, err
}

// elsewhere is the stamp of a file whose content the directory does not have.
var elsewhere = stamp{Ino: -1}

// openFile opens the file of piece k, which must have size bytes.
func (p *pieces) openFile(k int, size int64) (*os.File, error) {
	flags, name, want, err := p.record(k)
	if err != nil {
		return nil, err
	}
	root, resolve := p.root, uint64(inside)
	if flags&fromStore != 0 {
		root, resolve = p.store, strictly
	}
	host := root.join(name)
	if want == elsewhere {
		return nil, &UnreadableError{host, errors.New("its content is in a lower layer (overlayfs metacopy)")}
	}
	f, err := root.openAt(name, unix.O_RDONLY, resolve)
	if err != nil {
		return nil, unreadable(host, err)
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = errors.New("not a regular file any more")
	case st.Size != size:
		err = fmt.Errorf("has %d bytes, the layer had %d", st.Size, size)
	case want != (stamp{}) && stampOf(&st) != want:
		err = errors.New("was changed while it was in use")
	}
	if err != nil {
		f.Close()
		return nil, &UnreadableError{host, err}
	}
	return f, nil
}

// eachUnreadable calls f for each file that cannot be opened.
func (p *pieces) eachUnreadable(ctx context.Context, f func(error)) error {
	for k := range p.offs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if p.refs[k] >= 0 {
			continue
		}
		end := p.size
		if k+1 < len(p.offs) {
			end = p.offs[k+1]
		}
		file, err := p.openFile(k, end-p.offs[k])
		if err == nil {
			err = file.Close()
		}
		if err != nil {
			f(err)
		}
	}
	return nil
}

// openFiles are files that were read lately.
type openFiles struct {
	mu   sync.Mutex
	list []*openFile // guarded by mu; the latest used last
}

// maxOpen is how many files a layer keeps open.
const maxOpen = 8

type openFile struct {
	key   int64
	file  *os.File
	users int  // guarded by openFiles.mu
	gone  bool // guarded by openFiles.mu; not in the list any more
}

// get returns the file of key, opened by open if it is not; put gives it back.
func (o *openFiles) get(key int64, open func() (*os.File, error)) (*openFile, error) {
	if f := o.find(key); f != nil {
		return f, nil
	}
	file, err := open()
	if err != nil {
		return nil, err
	}
	f := &openFile{key: key, file: file, users: 1}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.list) == maxOpen {
		o.dropLocked()
	}
	o.list = append(o.list, f)
	return f, nil
}

// dropLocked takes the file off the list that was used longest ago.
//
// Preconditions: o.mu is held.
func (o *openFiles) dropLocked() {
	f := o.list[0]
	o.list = append(o.list[:0], o.list[1:]...)
	if f.gone = true; f.users == 0 {
		f.file.Close() // it was only read
	}
}

func (o *openFiles) find(key int64) *openFile {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, f := range o.list {
		if f.key == key {
			o.list = append(append(o.list[:i], o.list[i+1:]...), f)
			f.users++
			return f
		}
	}
	return nil
}

func (o *openFiles) put(f *openFile) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f.users--; f.gone && f.users == 0 {
		f.file.Close() // it was only read
	}
}

// Close closes what is open.
func (o *openFiles) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.list) > 0 {
		o.dropLocked()
	}
	return nil
}

// lazyPieces are the pieces of a layer, made when something of it is asked for.
type lazyPieces struct {
	make func(context.Context) (*pieces, error) // called once, unless ctx ends it; mu is held

	mu     sync.Mutex
	pieces *pieces // guarded by mu; nil before the first need, then it never changes
	failed error   // guarded by mu; why there will be none
}

// get returns the pieces. The lock is held while they are made: who needs them
// has to wait for them.
func (t *lazyPieces) get(ctx context.Context) (*pieces, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pieces != nil || t.failed != nil {
		return t.pieces, t.failed
	}
	p, err := t.make(ctx)
	if err == nil {
		t.pieces = p
	} else if ctx.Err() == nil {
		t.failed = err
	}
	return t.pieces, err
}

// Size returns the size of the tar.
func (t *lazyPieces) Size(ctx context.Context) (int64, error) {
	p, err := t.get(ctx)
	if err != nil {
		return 0, err
	}
	return p.size, nil
}

// ReadAt reads the tar. A file that cannot be read is an UnreadableError.
func (t *lazyPieces) ReadAt(b []byte, off int64) (int, error) {
	p, err := t.get(context.Background())
	if err != nil {
		return 0, err
	}
	return p.ReadAt(b, off)
}

// Headers reads the tar with zeros where the content of files is.
func (t *lazyPieces) Headers() io.ReaderAt { return headerReader{t.get} }

// Close closes what is open.
func (t *lazyPieces) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pieces
	t.pieces, t.failed = nil, os.ErrClosed
	if p == nil {
		return nil
	}
	return errors.Join(p.Close(), p.root.Close())
}
