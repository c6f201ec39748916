// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/imgfs/imgfs/image"
)

// A splitTar is a layer that is kept unpacked, as the tar that it was. What
// unpacking lost is in a file of tar-split, gzipped JSON, an object a line:
//
//	{"type":2,"payload":BASE64,…}                  bytes as they were
//	{"type":1,"name":PATH,"size":N,…}              here came the content of that file
//	{"type":1,"name_raw":BASE64,"size":N,…}        the same, of a name that is not UTF-8
//
// That it is still the same tar, the diffID alone proves. Nothing is read
// before the first byte is asked for.
type splitTar struct {
	store *dir   // of the file
	split string // its name
	diff  string // the name of the unpacked layer in the store
	temp  func() (*os.File, error)

	lazyPieces
	sparse string // the first sparse file; set with pieces, and then it never changes
}

// newSplitTar makes t, which is filled in, ready.
func newSplitTar(t *splitTar) *splitTar {
	t.make = t.read
	return t
}

// maxLine is how long a line of tar-split may be: bytes between two files come
// in one.
const maxLine = 16 << 20

// Name returns the path of the file of tar-split.
func (t *splitTar) Name() string { return t.store.join(t.split) }

// Identity tells this layer from any other, and from itself after its store
// changed. The files in it are not asked: the diffID is what proves them.
func (t *splitTar) Identity() (string, error) {
	split, err := t.store.stamp(t.split)
	if err != nil {
		return "", err
	}
	diff, err := t.store.stamp(t.diff)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("tar-split %v %s %d %d", split, t.store.join(t.diff), diff.Dev, diff.Ino), nil
}

// EachUnreadable calls f for each file that cannot be read.
func (t *splitTar) EachUnreadable(ctx context.Context, f func(error)) error {
	p, err := t.get(ctx)
	if err != nil {
		return err
	}
	return p.eachUnreadable(ctx, f)
}

func (t *splitTar) read(ctx context.Context) (_ *pieces, err error) {
	root, err := t.store.sub(t.diff)
	if err != nil {
		return nil, unreadable(t.store.join(t.diff), err)
	}
	p, err := newPieces(root, t.temp)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close(), root.Close())
		}
	}()
	f, err := t.store.open(t.split)
	if err != nil {
		return nil, unreadable(t.Name(), err)
	}
	defer f.Close()
	s := &splitter{p: p}
	if err := s.read(ctx, f); err != nil {
		return nil, fmt.Errorf("%s: %w", t.Name(), err)
	}
	t.sparse = s.sparse
	return p, p.end()
}

// read reads a file of tar-split.
func (t *splitter) read(ctx context.Context, r io.Reader) error {
	z, err := gzip.NewReader(bufio.NewReaderSize(r, 64<<10))
	if err != nil {
		return malformed("%w", err)
	}
	lines := bufio.NewReaderSize(z, 256<<10)
	var line []byte
	for n := 1; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		line, err = readLine(lines, line[:0])
		if err == io.EOF {
			return t.flush()
		}
		if err == nil && len(line) > 0 {
			err = t.line(line)
		}
		if err != nil {
			return splitError(n, err)
		}
	}
}

func splitError(n int, err error) error {
	if errors.Is(err, image.ErrMalformed) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) ||
		errors.Is(err, io.ErrUnexpectedEOF) || isCorrupt(err) {
		return malformed("line %d: %w", n, err)
	}
	return err
}

// readLine reads to the next newline, which it leaves out, or the end. The
// error is io.EOF if there is nothing more.
func readLine(r *bufio.Reader, line []byte) ([]byte, error) {
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case err == io.EOF && len(line) > 0:
			return line, nil
		case err != bufio.ErrBufferFull:
			return nil, err
		case len(line) > maxLine:
			return nil, malformed("over %d bytes", maxLine)
		}
	}
}

// A splitter makes pieces of the lines of tar-split.
type splitter struct {
	p    *pieces
	buf  []byte // of one line
	head []byte // what came since the last file
	pad  int    // how much of that pads the last file
	skip int    // how much is to come that pads a file of another size
	lost bool   // head is not all that came

	sparse string // the first sparse file; "" = there is none
}

// maxHead is how much before a file is looked at: PAX records take 1 MiB.
const maxHead = 4 << 20

// The beginning and the end of what nearly every other line is.
var rawHead, rawTail = []byte(`{"type":2,"payload":"`), []byte(`,"position":`)

// line takes a line of tar-split.
func (t *splitter) line(line []byte) (err error) {
	if text, ok := bytes.CutPrefix(line, rawHead); ok {
		text, rest, ok := bytes.Cut(text, []byte{'"'})
		if ok && bytes.HasPrefix(rest, rawTail) {
			if t.buf, err = base64.StdEncoding.AppendDecode(t.buf[:0], text); err != nil {
				return malformed("%w", err)
			}
			return t.raw(t.buf)
		}
	}
	var s struct {
		Type    int    `json:"type"`
		Name    string `json:"name"`
		NameRaw []byte `json:"name_raw"`
		Size    int64  `json:"size"`
		Payload []byte `json:"payload"`
	}
	if err := json.Unmarshal(line, &s); err != nil {
		return malformed("%w", err)
	}
	switch s.Type {
	case 1:
		if len(s.NameRaw) > 0 {
			s.Name = string(s.NameRaw)
		}
		return t.file(s.Name, s.Size)
	case 2:
		return t.raw(s.Payload)
	}
	return malformed("segment of type %d", s.Type)
}

// raw takes bytes as they were.
func (t *splitter) raw(b []byte) error {
	n := min(t.skip, len(b))
	t.skip -= n
	t.head = append(t.head, b[n:]...)
	if len(t.head) <= maxHead {
		return nil
	}
	t.lost = true
	return t.flush()
}

func (t *splitter) flush() error {
	err := t.p.raw(t.head)
	t.head = t.head[:0]
	return err
}

// file takes the content of a file. A sparse one is a file as any other here:
// tar-split knows its size with the holes, and has lost where they were.
func (t *splitter) file(name string, size int64) error {
	var h *tar.Header
	var packed int64
	if size > 0 && !t.lost {
		h, packed = sparseHeader(t.head[min(t.pad, len(t.head)):])
	}
	if h == nil {
		err := t.flush()
		t.pad, t.lost = int(max(0, -size&511)), false
		return errors.Join(err, t.p.file(name, size, stamp{}))
	}
	if t.sparse == "" {
		t.sparse = name
	}
	h.Size = size
	var b bytes.Buffer
	b.Write(t.head[:t.pad])
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		return malformed("the header of sparse file %.200q: %w", name, err)
	}
	t.head, t.pad, t.skip = t.head[:0], 0, int(-packed&511)
	return errors.Join(t.p.raw(b.Bytes()), t.p.file(name, size, stamp{}), t.p.raw(make([]byte, -size&511)))
}

// sparseHeader returns the header of a sparse file as that of a plain one, if
// head is one, and how many bytes the file has in the tar.
func sparseHeader(head []byte) (h *tar.Header, packed int64) {
	main := mainHeader(head)
	if main == nil || main[156] != tar.TypeGNUSparse && !bytes.Contains(head, []byte("GNU.sparse.")) {
		return nil, 0
	}
	packed, err := strconv.ParseInt(strings.Trim(string(main[124:136]), " \x00"), 8, 64)
	if err != nil || packed < 0 {
		return nil, 0
	}
	// The map of a sparse file of PAX 1.0 begins its content: one of no runs.
	noRuns := append([]byte("0\n"), make([]byte, 510)...)
	h, err = tar.NewReader(io.MultiReader(bytes.NewReader(head), bytes.NewReader(noRuns))).Next()
	if err != nil {
		return nil, 0
	}
	h.Typeflag, h.Format = tar.TypeReg, tar.FormatPAX
	return h, packed
}

// mainHeader returns the first header in head that is no extension of another,
// nil if there is none.
func mainHeader(head []byte) []byte {
	for len(head) >= 512 {
		switch head[156] {
		case tar.TypeXHeader, tar.TypeXGlobalHeader, tar.TypeGNULongName, tar.TypeGNULongLink:
			size, err := strconv.ParseInt(strings.Trim(string(head[124:136]), " \x00"), 8, 32)
			if err != nil || size < 0 || 512+(size+511)&^511 > int64(len(head)) {
				return nil
			}
			head = head[512+(size+511)&^511:]
		default:
			return head[:512]
		}
	}
	return nil
}

// Unproven says why the tar cannot be what the diffID says, though all that is
// in it is there; "" if it can.
func (t *splitTar) Unproven(ctx context.Context) (string, error) {
	if _, err := t.get(ctx); err != nil || t.sparse == "" {
		return "", err
	}
	return fmt.Sprintf("has sparse files (%q), which tar-split does not hold as they were: its diffID cannot be proven", t.sparse), nil
}
