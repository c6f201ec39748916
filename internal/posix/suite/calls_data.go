// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"bytes"
	"fmt"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

var dataCalls = []call{
	{"mappings and files are one", true, testMmap},
	{"stores through a mapping move times", true, testMmapTimes},
	{"a mapping outlives name and descriptor", true, testMmapUnlinked},
	{"what was cut off does not come back", true, testZeroTail},
	{"holes are found", true, testHoles},
	{"direct and buffered are one", true, testDirect},
	{"copies inside the kernel", true, testCopies},
	{"appending from many sides loses nothing", true, testAppendRace},
	{"vectors and flags of a write", true, testVectors},
	{"far offsets", true, testFar},
	{"sizes that are too big", true, testTooBig},
	{"offsets of descriptors", true, testOffsets},
}

// Mappings are touched by system calls only, through a pipe: the server of a
// page may be a goroutine of this process that waits for the processor.
func (e *env) move(dst, src []byte) {
	e.Helper()
	var p [2]int
	e.must(unix.Pipe2(p[:], unix.O_CLOEXEC))
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	for len(dst) > 0 {
		n, err := unix.Write(p[1], src[:min(len(src), 4096)])
		e.must(err)
		n, err = unix.Read(p[0], dst[:n])
		e.must(err)
		dst, src = dst[n:], src[n:]
	}
}

func (e *env) mmap(fd int, size, prot, how int) []byte {
	e.Helper()
	m, err := unix.Mmap(fd, 0, size, prot, how)
	e.must(err)
	return m
}

func (e *env) load(m []byte, lo, hi int) string {
	e.Helper()
	buf := make([]byte, hi-lo)
	e.move(buf, m[lo:hi])
	return string(buf)
}

const readWrite = unix.PROT_READ | unix.PROT_WRITE

func testMmap(e *env) {
	e.put("f", strings.Repeat("0123456789", 1000))
	fd := e.open("f", unix.O_RDWR, 0)
	shared := e.mmap(fd, 10_000, readWrite, unix.MAP_SHARED)
	defer unix.Munmap(shared)
	private := e.mmap(fd, 10_000, readWrite, unix.MAP_PRIVATE)
	defer unix.Munmap(private)
	equal(e, "load", e.load(shared, 5, 10), "56789")
	e.move(shared[5000:5003], []byte("abc"))
	equal(e, "read what was stored", e.get("f")[5000:5005], "abc34")
	_, err := unix.Pwrite(fd, []byte("xyz"), 8000)
	e.must(err)
	equal(e, "load what was written", e.load(shared, 8000, 8004), "xyz3")
	e.move(private[0:3], []byte("PPP"))
	equal(e, "the file beside a private store", e.get("f")[:5], "01234")
	equal(e, "the private store", e.load(private, 0, 5), "PPP34")
	e.must(unix.Msync(shared, unix.MS_SYNC))
	e.must(unix.Msync(shared, unix.MS_ASYNC))
	r := e.open("f", unix.O_RDONLY, 0)
	_, err = unix.Mmap(r, 0, 4096, readWrite, unix.MAP_SHARED)
	e.want("a writable mapping of a descriptor for reading", err, "EACCES")
	w := e.open("f", unix.O_WRONLY, 0)
	_, err = unix.Mmap(w, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
	e.want("a mapping of a descriptor for writing", err, "EACCES")
	// Behind the end, the rest of the last page is zero and goes nowhere.
	e.put("g", "abc")
	g := e.open("g", unix.O_RDWR, 0)
	tail := e.mmap(g, 4096, readWrite, unix.MAP_SHARED)
	defer unix.Munmap(tail)
	equal(e, "behind the end", e.load(tail, 0, 6), "abc\x00\x00\x00")
	e.move(tail[3:6], []byte("xyz"))
	e.must(unix.Msync(tail, unix.MS_SYNC))
	equal(e, "the file", e.get("g"), "abc")
	e.must(unix.Ftruncate(g, 8))
	equal(e, "size", e.stat("g").Size, 8)
	e.put("h", strings.Repeat("h", 9000))
	h := e.open("h", unix.O_RDWR, 0)
	m := e.mmap(h, 9000, readWrite, unix.MAP_SHARED)
	defer unix.Munmap(m)
	e.move(m[8000:8001], []byte("H"))
	e.must(unix.Ftruncate(h, 4000))
	e.must(unix.Ftruncate(h, 9000))
	equal(e, "a mapping after its file was cut", e.load(m, 3998, 4002), "hh\x00\x00")
	equal(e, "and behind", e.load(m, 8000, 8001), "\x00")
}

func testMmapTimes(e *env) {
	e.put("f", strings.Repeat("x", 8192))
	fd := e.open("f", unix.O_RDWR, 0)
	m := e.mmap(fd, 8192, readWrite, unix.MAP_SHARED)
	e.moved("f", "MC", func() { e.load(m, 0, 10) })
	e.moved("f", "mc", func() {
		e.move(m[:3], []byte("abc"))
		e.must(unix.Msync(m, unix.MS_SYNC))
	})
	e.moved("f", "mc", func() {
		e.move(m[5000:5003], []byte("abc"))
		e.must(unix.Munmap(m))
		e.close(fd)
		fd = e.open("f", unix.O_RDONLY, 0)
		e.must(unix.Fsync(fd))
	})
	tick()
	e.moved("f", "MC", func() { e.must(unix.Fsync(fd)) })
}

func testMmapUnlinked(e *env) {
	e.put("f", strings.Repeat("x", 8192))
	fd := e.open("f", unix.O_RDWR, 0)
	m := e.mmap(fd, 8192, readWrite, unix.MAP_SHARED)
	defer unix.Munmap(m)
	e.must(unix.Unlink("f"))
	e.close(fd)
	e.move(m[4095:4098], []byte("abc"))
	e.must(unix.Msync(m, unix.MS_SYNC))
	equal(e, "load", e.load(m, 4094, 4099), "xabcx")
}

// testZeroTail: bytes behind a new end are gone when the file grows again,
// however it shrinks and grows.
func testZeroTail(e *env) {
	for size := range 3 {
		for how := range 4 {
			name := fmt.Sprintf("f%d-%d", size, how)
			n := []int{5000, 4096, 20_000}[size]
			e.put(name, strings.Repeat("x", n))
			fd := e.open(name, unix.O_RDWR, 0)
			cut := int64(n/2 + 1)
			e.must(unix.Ftruncate(fd, cut))
			switch how {
			case 0:
				e.must(unix.Ftruncate(fd, int64(n)))
			case 1:
				_, err := unix.Pwrite(fd, []byte("y"), int64(n-1))
				e.must(err)
			case 2:
				e.must(unix.Fallocate(fd, 0, 0, int64(n)))
			case 3:
				e.must(unix.Fsync(fd))
				e.must(unix.Ftruncate(fd, int64(n)))
			}
			want := strings.Repeat("x", int(cut)) + strings.Repeat("\x00", n-int(cut))
			if how == 1 {
				want = want[:n-1] + "y"
			}
			if got := e.get(name); got != want {
				e.failf("%s: %d bytes with %d zeros", name, len(got), strings.Count(got, "\x00"))
			}
		}
	}
}

func testHoles(e *env) {
	fd := e.open("f", unix.O_RDWR|unix.O_CREAT, 0o644)
	seek := func(off int64, whence int) string {
		at, err := unix.Seek(fd, off, whence)
		return tell(err, fmt.Sprint(at))
	}
	equal(e, "data in an empty file", seek(0, unix.SEEK_DATA), "ENXIO")
	equal(e, "hole in an empty file", seek(0, unix.SEEK_HOLE), "ENXIO")
	const mib = 1 << 20
	_, err := unix.Pwrite(fd, bytes.Repeat([]byte{'x'}, 8192), 2*mib)
	e.must(err)
	e.must(unix.Ftruncate(fd, 4*mib))
	equal(e, "hole at a hole", seek(100, unix.SEEK_HOLE), "100")
	equal(e, "data at data", seek(2*mib+10, unix.SEEK_DATA), fmt.Sprint(2*mib+10))
	equal(e, "at the end", seek(4*mib, unix.SEEK_DATA), "ENXIO")
	equal(e, "behind the end", seek(4*mib+5, unix.SEEK_HOLE), "ENXIO")
	equal(e, "negative", seek(-1, unix.SEEK_DATA), "ENXIO")
	// Where data begins and ends need not be exact, but must hold all of it.
	lo, err := unix.Seek(fd, 0, unix.SEEK_DATA)
	e.must(err)
	hi, err := unix.Seek(fd, lo, unix.SEEK_HOLE)
	e.must(err)
	if lo > 2*mib || hi < 2*mib+8192 {
		e.failf("data from %d to %d, want from %d to %d", lo, hi, 2*mib, 2*mib+8192)
	}
	e.must(unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4*mib))
	equal(e, "hole where data was", seek(2*mib, unix.SEEK_HOLE), fmt.Sprint(2*mib))
	e.must(unix.Ftruncate(fd, 0))
	e.write(fd, "")
	e.put("g", "data")
	g := e.open("g", unix.O_RDONLY, 0)
	end, err := unix.Seek(g, 1, unix.SEEK_HOLE)
	e.must(err)
	equal(e, "the hole behind a file without", end, 4)
}

// aligned returns a buffer that O_DIRECT takes.
func aligned(n int) []byte {
	buf := make([]byte, n+4096)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(buf)))) & 4095
	return buf[skip : skip+n : skip+n]
}

func testDirect(e *env) {
	e.put("f", strings.Repeat("o", 64<<10))
	direct, err := unix.Open("f", unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err == unix.EINVAL {
		e.skip("no O_DIRECT here")
	}
	e.must(err)
	defer unix.Close(direct)
	plain := e.open("f", unix.O_RDWR, 0)
	m := e.mmap(plain, 64<<10, unix.PROT_READ, unix.MAP_SHARED)
	defer unix.Munmap(m)
	buf := aligned(8192)
	for i := range 8 {
		letter := byte('a' + i)
		for j := range buf {
			buf[j] = letter
		}
		off := int64(i * 8192)
		e.load(m, int(off), int(off)+10) // in the page cache
		n, err := unix.Pwrite(direct, buf, off)
		e.must(err)
		equal(e, "written", n, len(buf))
		some := make([]byte, 10)
		_, err = unix.Pread(plain, some, off+100)
		e.must(err)
		equal(e, "buffered read after a direct write", string(some), strings.Repeat(string(letter), 10))
		equal(e, "load after a direct write", e.load(m, int(off)+50, int(off)+53), strings.Repeat(string(letter), 3))
		_, err = unix.Pwrite(plain, []byte("plain"), off+4096)
		e.must(err)
		n, err = unix.Pread(direct, buf, off)
		e.must(err)
		equal(e, "direct read after a buffered write", string(buf[4096:4102]), "plain"+string(letter))
		equal(e, "read", n, len(buf))
	}
	e.moved("f", "mc", func() { _, err = unix.Pwrite(direct, buf, 0); e.must(err) })
	n, err := unix.Pwrite(direct, buf, 64<<10)
	e.must(err)
	equal(e, "size after a direct write behind the end", e.stat("f").Size, 64<<10+int64(n))
	n, err = unix.Pread(direct, buf, 1<<20)
	e.must(err)
	equal(e, "direct read behind the end", n, 0)
}

func testCopies(e *env) {
	e.put("in", strings.Repeat("0123456789", 5000))
	in, out := e.open("in", unix.O_RDONLY, 0), e.open("out", unix.O_RDWR|unix.O_CREAT, 0o644)
	from, to := int64(10), int64(5)
	for want := 30_000; want > 0; {
		n, err := unix.CopyFileRange(in, &from, out, &to, want, 0)
		e.must(err)
		if n == 0 {
			e.failf("%d bytes are missing from a copy", want)
		}
		want -= n
	}
	got := e.get("out")
	if len(got) != 30_005 || got[:5] != "\x00\x00\x00\x00\x00" || got[5:] != e.get("in")[10:30_010] {
		e.failf("the copy has %d bytes", len(got))
	}
	from, to = 0, 100
	_, err := unix.CopyFileRange(out, &from, out, &to, 1000, 0)
	e.want("onto itself", err, "EINVAL")
	_, err = unix.CopyFileRange(out, nil, in, nil, 10, 0)
	e.want("to what is open for reading", err, "EBADF")
	e.moved("out", "mc", func() {
		from, to = 0, 0
		_, err := unix.CopyFileRange(in, &from, out, &to, 10, 0)
		e.must(err)
	})
	sent := e.open("sent", unix.O_RDWR|unix.O_CREAT, 0o644)
	off := int64(1)
	for want := 49_999; want > 0; {
		n, err := unix.Sendfile(sent, in, &off, want)
		e.must(err)
		want -= n
	}
	equal(e, "sent", e.get("sent") == e.get("in")[1:], true)
	var p [2]int
	e.must(unix.Pipe2(p[:], unix.O_CLOEXEC))
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	spliced := e.open("spliced", unix.O_RDWR|unix.O_CREAT, 0o644)
	off = 0
	n, err := unix.Splice(in, &off, p[1], nil, 4096, 0)
	e.must(err)
	_, err = unix.Splice(p[0], nil, spliced, nil, int(n), 0)
	e.must(err)
	equal(e, "spliced", e.get("spliced") == e.get("in")[:n], true)
}

func testAppendRace(e *env) {
	e.put("f", "")
	var failed atomic.Int32
	e.together(4, func(g int) {
		fd, err := unix.Open(e.dir+"/f", unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
		if err != nil {
			failed.Add(1)
			return
		}
		defer unix.Close(fd)
		line := []byte(strings.Repeat(string(rune('a'+g)), 99) + "\n")
		for range 200 {
			if n, err := unix.Write(fd, line); err != nil || n != len(line) {
				failed.Add(1)
			}
		}
	})
	equal(e, "failed writes", failed.Load(), 0)
	count := map[string]int{}
	for line := range strings.Lines(e.get("f")) {
		count[line]++
	}
	for g := range 4 {
		equal(e, "lines of one writer", count[strings.Repeat(string(rune('a'+g)), 99)+"\n"], 200)
	}
}

func testVectors(e *env) {
	fd := e.open("f", unix.O_RDWR|unix.O_CREAT, 0o644)
	n, err := unix.Writev(fd, [][]byte{[]byte("one"), nil, []byte("two")})
	e.must(err)
	equal(e, "written", n, 6)
	_, err = unix.Pwritev(fd, [][]byte{[]byte("X"), []byte("Y")}, 2)
	e.must(err)
	equal(e, "content", e.get("f"), "onXYwo")
	a, b := make([]byte, 2), make([]byte, 10)
	n, err = unix.Preadv(fd, [][]byte{a, b}, 1)
	e.must(err)
	equal(e, "read", string(a)+string(b[:n-2]), "nXYwo")
	const rwfAppend = 0x10
	_, err = unix.Pwritev2(fd, [][]byte{[]byte("end")}, 0, rwfAppend)
	e.must(err)
	equal(e, "appended by a flag", e.get("f"), "onXYwoend")
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND)
	e.must(err)
	_, err = unix.Pwrite(fd, []byte("!"), 0)
	e.must(err)
	equal(e, "pwrite with O_APPEND appends on Linux", e.get("f"), "onXYwoend!")
}

func testFar(e *env) {
	fd := e.open("f", unix.O_RDWR|unix.O_CREAT, 0o644)
	for _, off := range []int64{1<<31 - 2, 1<<32 - 1, 5 << 30, 1 << 40} {
		_, err := unix.Pwrite(fd, []byte("data"), off)
		e.must(err)
		equal(e, "size", e.fstat(fd).Size, off+4)
		buf := make([]byte, 6)
		n, err := unix.Pread(fd, buf, off-1)
		e.must(err)
		equal(e, "read", string(buf[:n]), "\x00data")
	}
	at, err := unix.Seek(fd, 0, unix.SEEK_END)
	e.must(err)
	equal(e, "end", at, 1<<40+4)
	buf := make([]byte, 4096)
	_, err = unix.Pread(fd, buf, 1<<39)
	e.must(err)
	if !bytes.Equal(buf, make([]byte, 4096)) {
		e.failf("the middle is not zero")
	}
}

func testTooBig(e *env) {
	fd := e.open("f", unix.O_RDWR|unix.O_CREAT, 0o644)
	e.want("ftruncate", unix.Ftruncate(fd, 1<<63-1), "EFBIG")
	e.want("fallocate", unix.Fallocate(fd, 0, 1<<62, 1<<62), "EFBIG")
	_, err := unix.Pwrite(fd, []byte("x"), 1<<63-1)
	if err != unix.EFBIG && err != unix.EINVAL {
		e.failf("write at the end of all numbers: %v", err)
	}
	_, err = unix.Pwrite(fd, []byte("x"), -1)
	e.want("write before the beginning", err, "EINVAL")
	equal(e, "size", e.fstat(fd).Size, 0)
	e.write(fd, "fine")
	equal(e, "content", e.get("f"), "fine")
}

func testOffsets(e *env) {
	e.put("f", "0123456789")
	fd := e.open("f", unix.O_RDWR, 0)
	at := func(off int64, whence int) string {
		n, err := unix.Seek(fd, off, whence)
		return tell(err, fmt.Sprint(n))
	}
	equal(e, "from the end", at(-3, unix.SEEK_END), "7")
	equal(e, "on", at(1, unix.SEEK_CUR), "8")
	equal(e, "before the beginning", at(-9, unix.SEEK_CUR), "EINVAL")
	equal(e, "no such way", at(0, 99), "EINVAL")
	other, err := unix.Dup(fd)
	e.must(err)
	defer unix.Close(other)
	buf := make([]byte, 1)
	_, err = unix.Read(other, buf)
	e.must(err)
	equal(e, "a copy shares the offset", string(buf)+at(0, unix.SEEK_CUR), "89")
	_, err = unix.Pread(fd, buf, 0)
	e.must(err)
	equal(e, "pread leaves it alone", at(0, unix.SEEK_CUR), "9")
	equal(e, "behind the end", at(100, unix.SEEK_SET), "100")
	n, err := unix.Read(fd, buf)
	e.must(err)
	equal(e, "read behind the end", n, 0)
	e.write(fd, "x")
	equal(e, "size", e.fstat(fd).Size, 101)
	dir := e.open(".", unix.O_RDONLY, 0)
	_, err = unix.Read(dir, buf)
	e.want("read a directory", err, "EISDIR")
}
