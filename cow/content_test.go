// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

// A lowFile is a regular file of a tree made by hand. Its content is data, or
// pattern in runs with holes between.
type lowFile struct {
	data []byte
	runs [][2]int64 // sparse: [off, end)
	size int64      // of a sparse one
}

// lowFS returns a tree with files "0", "1" … in its root, their nodes are 2, 3 …
// Reads of a layer go through the function that wrap returns, if there is one.
func lowFS(tb testing.TB, wrap func(io.ReaderAt) io.ReaderAt, files ...lowFile) *unionfs.FS {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "tree")
	w, err := index.Create[index.NodeID](path)
	if err != nil {
		tb.Fatal(err)
	}
	var names []index.DirEntry[index.NodeID]
	for k := range files {
		names = append(names, index.DirEntry[index.NodeID]{ID: index.NodeID(k + 2), Type: unix.DT_REG, Name: fmt.Sprint(k)})
	}
	block, err := w.Dir(names)
	if err != nil {
		tb.Fatal(err)
	}
	root := index.Node{Mode: index.ModeDir | 0o755, Nlink: 2}
	root.SetDir(block, 0)
	if err := w.Node(&root); err != nil {
		tb.Fatal(err)
	}
	var layer []byte
	for k, f := range files {
		n := index.Node{Mode: index.ModeRegular | 0o644, Nlink: 1, Mtime: 1e9, Size: int64(len(f.data)), Data: int64(len(layer)), Header: int64(k) << 10}
		var extents []index.Extent
		if f.size > 0 {
			n.Size, extents = f.size, []index.Extent{}
			for _, r := range f.runs {
				extents = append(extents, index.Extent{Off: r[0], Len: r[1] - r[0], Data: int64(len(layer))})
				layer = append(layer, pattern(r[1]-r[0])...)
			}
		} else {
			layer = append(layer, f.data...)
		}
		if err := w.SetExtra(&n, nil, extents); err != nil {
			tb.Fatal(err)
		}
		if err := w.Node(&n); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(index.Meta{Kind: "tree"}); err != nil {
		tb.Fatal(err)
	}
	tree, err := index.Open[index.NodeID](path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { tree.Close() })
	var r io.ReaderAt = bytes.NewReader(layer)
	if wrap != nil {
		r = wrap(r)
	}
	return unionfs.NewFS(tree, make([]unionfs.Source, 1), func(int) (io.ReaderAt, error) { return r, nil })
}

// pattern returns n bytes of which none is zero.
func pattern(n int64) []byte {
	b := make([]byte, n)
	for k := range b {
		b[k] = byte(k*7)%255 + 1
	}
	return b
}

// content of a low file, as it should be read.
func (f *lowFile) bytes() []byte {
	if f.size == 0 {
		return bytes.Clone(f.data)
	}
	b := make([]byte, f.size)
	for _, r := range f.runs {
		copy(b[r[0]:], pattern(r[1]-r[0]))
	}
	return b
}

// newContentUpper opens an upper over fs in dir.
func newContentUpper(tb testing.TB, fs *unionfs.FS, dir string) *Upper {
	tb.Helper()
	if _, err := os.Stat(dir); err != nil {
		if err := Create(dir, Base{Image: "test", ChainID: "sha256:1"}); err != nil {
			tb.Fatal(err)
		}
	}
	u, err := Open(dir, fs, "sha256:1", Options{Log: tb.Logf})
	if err != nil {
		tb.Fatal(err)
	}
	closeLater(tb, u)
	return u
}

// closeLater closes u at the end of the test, unless it was closed or killed.
func closeLater(tb testing.TB, u *Upper) {
	tb.Cleanup(func() {
		select {
		case <-u.stop:
		default:
			if err := u.Close(); err != nil {
				tb.Errorf("close: %v", err)
			}
		}
	})
}

func openFile(tb testing.TB, u *Upper, n Node) *File {
	tb.Helper()
	f, err := u.Open(n, true)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func readAll(tb testing.TB, f *File, size int) []byte {
	tb.Helper()
	b := make([]byte, size+100)
	n, err := f.ReadAt(b, 0)
	if err != io.EOF {
		tb.Fatalf("read to the end: %d bytes, %v", n, err)
	}
	return b[:n]
}

// A play is one file under random changes beside a plain slice.
type play struct {
	tb   testing.TB
	u    *Upper
	n    Node
	f    *File
	want []byte
	rnd  *rand.Rand
	max  int64
	log  []string
	buf  []byte
}

func newPlay(tb testing.TB, files []lowFile, k int, seed uint64) *play {
	tb.Helper()
	u := newContentUpper(tb, lowFS(tb, nil, files...), filepath.Join(memoryDir(tb), "u"))
	n := Node(k + 2)
	p := &play{tb: tb, u: u, n: n, f: openFile(tb, u, n), want: files[k].bytes(), rnd: rand.New(rand.NewPCG(seed, uint64(k))), max: 600_000}
	if len(p.want) < maxInline && seed%2 == 0 {
		p.max = 2 * maxInline // so that it grows out of its record now and then
	}
	return p
}

// again ends the upper and opens it again.
func (p *play) again(end func()) {
	p.tb.Helper()
	dir, fs := p.u.dir, p.u.fs
	end()
	p.u = newContentUpper(p.tb, fs, dir)
	p.f = openFile(p.tb, p.u, p.n)
}

func (p *play) fatal(format string, args ...any) {
	p.tb.Helper()
	for _, l := range p.log[max(0, len(p.log)-25):] {
		p.tb.Log(l)
	}
	p.tb.Fatalf(format, args...)
}

// at returns an offset, often one near the edge of a block or of the file.
func (p *play) at() int64 {
	switch p.rnd.IntN(4) {
	case 0:
		return p.rnd.Int64N(p.max)
	case 1:
		return p.rnd.Int64N(p.max/blockSize) * blockSize
	case 2:
		return max(0, p.rnd.Int64N(p.max/blockSize)*blockSize+p.rnd.Int64N(5)-2)
	}
	return max(0, int64(len(p.want))+p.rnd.Int64N(7)-3)
}

func (p *play) length() int64 { return min(p.anyLength(), p.max/4) }

func (p *play) anyLength() int64 {
	switch p.rnd.IntN(4) {
	case 0:
		return 1 + p.rnd.Int64N(16)
	case 1:
		return blockSize * (1 + p.rnd.Int64N(6))
	case 2:
		return 1 + p.rnd.Int64N(20*blockSize)
	}
	return 1 + p.rnd.Int64N(blockSize)
}

// noise returns n random bytes, each or'ed with set.
func noise(rnd *rand.Rand, n int64, set byte) []byte {
	b := make([]byte, n+8)
	for k := int64(0); k < n; k += 8 {
		binary.LittleEndian.PutUint64(b[k:], rnd.Uint64()|uint64(set)*0x0101010101010101)
	}
	return b[:n]
}

func (p *play) grow(size int64) {
	if n := size - int64(len(p.want)); n > 0 {
		p.want = append(p.want, make([]byte, n)...)
	}
}

func (p *play) step() {
	off, n := p.at(), p.length()
	switch k := p.rnd.IntN(20); k {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		b := noise(p.rnd, n, 0)
		p.log = append(p.log, fmt.Sprintf("write %d+%d of %d", off, n, len(p.want)))
		if got, err := p.f.WriteAt(b, off); got != len(b) || err != nil {
			p.fatal("write %d+%d: %d, %v", off, n, got, err)
		}
		p.grow(off + n)
		copy(p.want[off:], b)
	case 8, 9:
		if p.rnd.IntN(6) == 0 {
			off = 0
		}
		p.log = append(p.log, fmt.Sprintf("truncate %d of %d", off, len(p.want)))
		if err := p.u.truncate(p.n, off); err != nil {
			p.fatal("truncate %d: %v", off, err)
		}
		p.grow(off)
		p.want = p.want[:off]
	case 10, 11, 12:
		mode := []uint32{punchHole, zeroRange, zeroRange | keepSize, 0, keepSize}[p.rnd.IntN(5)]
		p.log = append(p.log, fmt.Sprintf("fallocate %#x %d+%d of %d", mode, off, n, len(p.want)))
		if err := p.f.Allocate(mode, off, n); err != nil {
			p.fatal("fallocate %#x %d+%d: %v", mode, off, n, err)
		}
		if mode&keepSize == 0 {
			p.grow(off + n)
		}
		if mode&^keepSize != 0 && off < int64(len(p.want)) {
			clear(p.want[off:min(off+n, int64(len(p.want)))])
		}
	case 13:
		p.log = append(p.log, "sync")
		if err := p.f.Sync(p.rnd.IntN(2) == 0); err != nil {
			p.fatal("sync: %v", err)
		}
	case 14:
		p.log = append(p.log, "reopen")
		if err := p.f.Close(); err != nil {
			p.fatal("close: %v", err)
		}
		p.f = openFile(p.tb, p.u, p.n)
	case 15:
		b := make([]byte, n)
		got, err := p.f.ReadAt(b, off)
		var want []byte
		if off < int64(len(p.want)) {
			want = p.want[off:min(off+n, int64(len(p.want)))]
		}
		if !bytes.Equal(b[:got], want) || (err == io.EOF) != (len(want) < len(b)) || err != nil && err != io.EOF {
			p.fatal("read %d+%d: %d bytes, want %d, %v, first difference %d", off, n, got, len(want), err, differ(b[:got], want))
		}
		return
	case 16:
		p.seek(off)
		return
	case 17:
		p.f.c.closeFD()
		return
	case 18:
		if p.rnd.IntN(3) > 0 {
			return
		}
		p.log = append(p.log, "kill")
		p.again(func() { kill(p.u); p.scribble() })
	case 19:
		if p.rnd.IntN(5) > 0 {
			return
		}
		p.log = append(p.log, "close the upper")
		p.again(func() {
			if err := p.f.Close(); err != nil {
				p.fatal("close: %v", err)
			}
			if err := p.u.Close(); err != nil {
				p.fatal("close the upper: %v", err)
			}
		})
	}
	p.check()
}

// scribble writes into the data file what changes may have written that the end
// of the server kept from the journal: to blocks that are not in the map, and
// behind the size.
func (p *play) scribble() {
	c := p.f.c
	if c.local || !c.hasData {
		return
	}
	f, err := os.OpenFile(filepath.Join(p.u.dir, "data", dataName(p.n)), os.O_WRONLY, 0)
	if err != nil {
		p.fatal("%v", err)
	}
	defer f.Close()
	end := blocksOf(c.size)
	for b := uint64(0); b < end; {
		local, next, err := c.run(b, end)
		if err != nil {
			p.fatal("%v", err)
		}
		if !local && p.rnd.IntN(2) == 0 {
			if _, err := f.WriteAt(noise(p.rnd, min(int64(next-b)*blockSize, c.size-int64(b)*blockSize), 1), int64(b)*blockSize); err != nil {
				p.fatal("%v", err)
			}
		}
		b = next
	}
	if p.rnd.IntN(2) == 0 {
		if _, err := f.WriteAt(noise(p.rnd, 10_000, 1), c.size+p.rnd.Int64N(5000)); err != nil {
			p.fatal("%v", err)
		}
	}
}

func (p *play) check() {
	if len(p.buf) < len(p.want)+1 {
		p.buf = make([]byte, len(p.want)+1<<20)
	}
	n, err := p.f.ReadAt(p.buf, 0)
	if err != io.EOF {
		p.fatal("read to the end: %d, %v", n, err)
	}
	if got := p.buf[:n]; !bytes.Equal(got, p.want) {
		p.fatal("content: %d bytes, want %d, first difference at %d", len(got), len(p.want), differ(got, p.want))
	}
	if got := p.size(); got != int64(len(p.want)) {
		p.fatal("size %d, want %d", got, len(p.want))
	}
}

func (p *play) size() int64 {
	var a Attr
	if err := p.u.Attr(p.n, &a); err != nil {
		p.fatal("attr: %v", err)
	}
	return a.Size
}

// seek checks the laws of SEEK_DATA and SEEK_HOLE from off on.
func (p *play) seek(off int64) {
	size := int64(len(p.want))
	data, err := p.f.SeekData(off, true)
	hole, err2 := p.f.SeekData(off, false)
	switch {
	case off >= size:
		if err != syscall.ENXIO || err2 != syscall.ENXIO {
			p.fatal("seek from %d of %d: %v, %v", off, size, err, err2)
		}
		return
	case err2 != nil || hole < off || hole > size:
		p.fatal("hole from %d of %d: %d, %v", off, size, hole, err2)
	case err == syscall.ENXIO:
		data = size
	case err != nil || data < off || data >= size:
		p.fatal("data from %d of %d: %d, %v", off, size, data, err)
	}
	if data != off && hole != off {
		p.fatal("at %d of %d is neither data (%d) nor a hole (%d)", off, size, data, hole)
	}
	for k, b := range p.want[off:data] {
		if b != 0 {
			p.fatal("from %d of %d on data at %d, but byte %d is %d", off, size, data, off+int64(k), b)
		}
	}
}

func differ(a, b []byte) int {
	for k := range min(len(a), len(b)) {
		if a[k] != b[k] {
			return k
		}
	}
	return min(len(a), len(b))
}

// kinds are files of the layers, small and large, odd and sparse.
func kinds() []lowFile {
	return []lowFile{
		{data: nil},
		{data: pattern(1)},
		{data: pattern(5000)},
		{data: pattern(copyWhole)},
		{data: pattern(copyWhole + 1)},
		{data: pattern(300_001)},
		{size: 400_000},
		{size: 500_123, runs: [][2]int64{{0, 4096}, {10_000, 90_001}, {200_000, 200_001}, {450_000, 500_123}}},
		{size: 700_000, runs: [][2]int64{{300_000, 400_000}}},
	}
}

func TestContentModel(t *testing.T) {
	files := kinds()
	for k := range files {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("file=%d/seed=%d", k, seed), func(t *testing.T) {
				t.Parallel()
				p := newPlay(t, files, k, seed)
				p.check()
				for range 150 {
					p.step()
				}
				if err := p.f.Close(); err != nil {
					t.Fatal(err)
				}
				if len(p.u.files) != 0 {
					t.Errorf("%d contents stay", len(p.u.files))
				}
			})
		}
	}
}

// Many read, one changes: a reader sees each block whole, as it was or as it
// is.
func TestContentRace(t *testing.T) {
	const size = 1 << 20
	u := newContentUpper(t, lowFS(t, nil, lowFile{data: bytes.Repeat([]byte{1}, size)}), filepath.Join(t.TempDir(), "u"))
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		f := openFile(t, u, 2)
		wg.Go(func() {
			defer f.Close()
			b := make([]byte, blockSize)
			for k := 0; !stop.Load(); k++ {
				off := int64(k*37%256) * blockSize
				if n, err := f.ReadAt(b, off); n != len(b) || err != nil {
					t.Errorf("read: %d, %v", n, err)
					return
				}
				if !bytes.Equal(b, bytes.Repeat(b[:1], blockSize)) || b[0] == 0 {
					t.Errorf("block %d is torn", off/blockSize)
					return
				}
				if k%64 == 0 {
					if _, err := f.SeekData(off, false); err != nil {
						t.Error(err)
					}
					var a Attr
					if err := u.Attr(2, &a); err != nil || a.Size != size {
						t.Error(a, err)
					}
					runtime.Gosched()
				}
			}
		})
	}
	f := openFile(t, u, 2)
	for k := range 600 {
		b := bytes.Repeat([]byte{byte(k%250 + 2)}, blockSize)
		if _, err := f.WriteAt(b, int64(k*101%256)*blockSize); err != nil {
			t.Fatal(err)
		}
		if k%100 == 99 {
			if err := f.Sync(false); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop.Store(true)
	wg.Wait()
	if !f.c.local {
		t.Error("wholly written, and not local")
	}
	f.Close()
}

func TestReadLowAllocatesNothing(t *testing.T) {
	u := newContentUpper(t, lowFS(t, nil, lowFile{data: pattern(1 << 20)}), filepath.Join(t.TempDir(), "u"))
	f := openFile(t, u, 2)
	defer f.Close()
	b := make([]byte, 64<<10)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := f.ReadAt(b, 4096); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a read", n)
	}
}

// onDisk returns how many bytes the data file of n takes.
func onDisk(t *testing.T, u *Upper, n Node) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(u.dir, "data", dataName(n)), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestAppendToGiant(t *testing.T) {
	const size = 1 << 30
	var reads atomic.Int64
	u := newContentUpper(t, lowFS(t, func(r io.ReaderAt) io.ReaderAt { return countedReader{r, &reads} },
		lowFile{size: size, runs: [][2]int64{{size - 1000, size}}}), filepath.Join(t.TempDir(), "u"))
	f := openFile(t, u, 2)
	defer f.Close()
	if n, err := f.WriteAt([]byte{'x'}, size); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if n := onDisk(t, u, 2); n > 64<<10 {
		t.Errorf("one byte behind a gigabyte takes %d bytes of disk", n)
	}
	if n := reads.Load(); n > blockSize {
		t.Errorf("%d bytes were read for it", n)
	}
	b := make([]byte, 2000)
	if n, err := f.ReadAt(b, size-999); n != 1000 || err != io.EOF || b[999] != 'x' || b[0] == 0 {
		t.Errorf("read back %d bytes, %v", n, err)
	}
	var a Attr
	if err := u.Attr(2, &a); err != nil || a.Size != size+1 {
		t.Errorf("size %d, %v", a.Size, err)
	}
}

type countedReader struct {
	io.ReaderAt
	n *atomic.Int64
}

func (r countedReader) ReadAt(p []byte, off int64) (int, error) {
	r.n.Add(int64(len(p)))
	return r.ReaderAt.ReadAt(p, off)
}

func TestWholeBlocksAreNotRead(t *testing.T) {
	var reads atomic.Int64
	u := newContentUpper(t, lowFS(t, func(r io.ReaderAt) io.ReaderAt { return countedReader{r, &reads} },
		lowFile{data: pattern(1 << 20)}), filepath.Join(t.TempDir(), "u"))
	f := openFile(t, u, 2)
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 64<<10), 128<<10); err != nil {
		t.Fatal(err)
	}
	if n := reads.Load(); n != 0 {
		t.Errorf("whole blocks: %d bytes were read", n)
	}
	if _, err := f.WriteAt(make([]byte, 10), 5000); err != nil {
		t.Fatal(err)
	}
	if n := reads.Load(); n > blockSize {
		t.Errorf("ten bytes: %d bytes were read", n)
	}
}

var errDisk = errors.New("the disk is gone")

type brokenReader struct{}

func (brokenReader) ReadAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("%w: %w", errDisk, syscall.ENOENT)
}

// A layer that cannot be read is EIO, whatever it says itself, and changes
// nothing.
func TestBrokenLayer(t *testing.T) {
	u := newContentUpper(t, lowFS(t, func(io.ReaderAt) io.ReaderAt { return brokenReader{} },
		lowFile{data: pattern(1000)}, lowFile{data: pattern(1 << 20)}), filepath.Join(t.TempDir(), "u"))
	for _, n := range []Node{2, 3} {
		f := openFile(t, u, n)
		b := make([]byte, 10)
		if n, err := f.ReadAt(b, 0); n != 0 || !errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ENOENT) || !errors.Is(err, errDisk) {
			t.Errorf("read: %d, %v", n, err)
		}
		if n, err := f.WriteAt(b, 5); n != 0 || !errors.Is(err, syscall.EIO) {
			t.Errorf("write: %d, %v", n, err)
		}
		if f.c.hasData || f.c.local {
			t.Error("a write that failed left something")
		}
		if _, err := os.Stat(filepath.Join(u.dir, "data", dataName(n))); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("data file: %v", err)
		}
		f.Close()
	}
}

// What Backing gives is the file itself, also to who has it open otherwise.
func TestBacking(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "u")
	if err := Create(dir, Base{ChainID: "sha256:1"}); err != nil {
		t.Fatal(err)
	}
	u, err := Open(dir, lowFS(t, nil, lowFile{data: pattern(10)}, lowFile{data: pattern(1 << 20)}), "sha256:1", Options{Log: t.Logf, Passthrough: true})
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, u)
	for _, n := range []Node{2, 3} {
		f := openFile(t, u, n)
		if _, ok, err := f.Backing(); ok || err != nil {
			t.Errorf("a file of the layers has a backing file: %v, %v", ok, err)
		}
		if err := u.truncate(n, 0); err != nil {
			t.Fatal(err)
		}
		checkBacking(t, u, f)
		f.Close()
	}
	// Written to here and there, then cut: the backing waits for the disk.
	var a Attr
	f, err := u.CreateFile(Caller{}, RootNode, "new", Creation{Mode: 0o600}, &a)
	if err != nil {
		t.Fatal(err)
	}
	checkBacking(t, u, f)
	f.Close()
	if len(u.data.fresh)+len(u.data.open) != 0 {
		t.Errorf("left are %d and %d descriptors", len(u.data.fresh), len(u.data.open))
	}
}

func TestBackingOfWhatWasMixed(t *testing.T) {
	u := newContentUpper(t, lowFS(t, nil, lowFile{data: pattern(1 << 20)}), filepath.Join(t.TempDir(), "u"))
	f := openFile(t, u, 2)
	if _, err := f.WriteAt([]byte("x"), 700_000); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := f.Backing(); ok || err != nil {
		t.Errorf("a mixed file has a backing file: %v, %v", ok, err)
	}
	if err := u.truncate(2, 0); err != nil {
		t.Fatal(err)
	}
	if f.c.local {
		t.Error("local while what was cut off must stay")
	}
	checkBacking(t, u, f)
	f.Close()
}

func checkBacking(t *testing.T, u *Upper, f *File) {
	t.Helper()
	fd, ok, err := f.Backing()
	if !ok || err != nil {
		t.Fatal(fd, ok, err)
	}
	if n, err := unix.Pwrite(fd, []byte("direct"), 1); n != 6 || err != nil {
		t.Error(n, err)
	}
	if got := readAll(t, f, 10); string(got) != "\x00direct" {
		t.Errorf("%q", got)
	}
	var a Attr
	if err := u.Attr(f.Node(), &a); err != nil || a.Size != 7 {
		t.Error(a, err)
	}
}

// When changes are refused, those of content are too, also where no frame would
// say so.
func TestRefusedChanges(t *testing.T) {
	u := newContentUpper(t, lowFS(t, nil, lowFile{data: pattern(10)}, lowFile{data: pattern(1 << 20)}), filepath.Join(t.TempDir(), "u"))
	f, g := openFile(t, u, 2), openFile(t, u, 3)
	defer f.Close()
	defer g.Close()
	if _, err := f.WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	u.poison(syscall.EROFS)
	for _, f := range []*File{f, g} {
		if n, err := f.WriteAt([]byte("y"), 0); n != 0 || err != syscall.EROFS {
			t.Errorf("write: %d, %v", n, err)
		}
		if err := f.Allocate(punchHole, 0, 5000); err != syscall.EROFS {
			t.Errorf("fallocate: %v", err)
		}
		if err := u.truncate(f.Node(), 5); err != syscall.EROFS {
			t.Errorf("truncate: %v", err)
		}
	}
	if got := readAll(t, f, 10); string(got) != "x"+string(pattern(10)[1:]) {
		t.Errorf("%q", got)
	}
}
