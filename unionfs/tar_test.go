// SPDX-License-Identifier: Apache-2.0

package unionfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
)

// header makes one raw header block, GNU's where type is 'S', else ustar's.
func header(name string, typ byte, size int64, patch ...func(b []byte)) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x0000000000001\x00", size))
	b[156] = typ
	copy(b[257:], "ustar\x0000")
	if typ == 'S' {
		copy(b[257:], "ustar  \x00")
	}
	for _, f := range patch {
		f(b)
	}
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func put(off int, s string) func([]byte) { return func(b []byte) { copy(b[off:], s) } }

// pad is text filled up with zeros to whole blocks.
func pad(text string) []byte {
	b := []byte(text)
	return append(b, make([]byte, (512-len(b)%512)%512)...)
}

// pax is an extended header with records "key=value".
func pax(typ byte, records ...string) []byte {
	var text strings.Builder
	for _, r := range records {
		n := len(r) + 3
		for len(fmt.Sprint(n))+2+len(r) != n {
			n++
		}
		fmt.Fprintf(&text, "%d %s\n", n, r)
	}
	return append(header("pax", typ, int64(text.Len())), pad(text.String())...)
}

func file(name, text string) []byte {
	return append(header(name, '0', int64(len(text))), pad(text)...)
}

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

var end = make([]byte, 1024)

func TestTarRows(t *testing.T) {
	gnuLong := func(typ byte, name string) []byte {
		return append(header("././@LongLink", typ, int64(len(name)+1)), pad(name+"\x00")...)
	}
	long := strings.Repeat("long/", 40) + "name"
	longWant := ""
	for i := range 40 {
		longWant += strings.Repeat("long/", i+1) + " "
	}
	at := func(name string, typ byte, size int64, patch ...func([]byte)) [][]byte {
		return [][]byte{cat(header(name, typ, size, patch...), end)}
	}
	tests := []struct {
		id   string
		tars [][]byte
		want string
		odd  bool
	}{
		{"X1", [][]byte{cat(pax('x', "SCHILY.xattr.user.b=2", "SCHILY.xattr.user.a=1"), file("f", "x"), end)}, "f=x{user.a=1,user.b=2}", false},
		{"X1 on a directory and the root", [][]byte{cat(pax('x', "SCHILY.xattr.user.r=1"), header("./", '5', 0), pax('x', "SCHILY.xattr.user.d=1"), header("d/", '5', 0), end)}, "d/:0644{user.d=1}", false},
		{"X2", [][]byte{cat(file("d/a", "x"), end), cat(pax('x', "SCHILY.xattr.trusted.overlay.opaque=y"), header("d/", '5', 0, put(100, "0000755")), end)}, "d/{trusted.overlay.opaque=y} d/a=x", false},
		{"X3", [][]byte{cat(pax('x', "SCHILY.xattr.user.overlay.whiteout="), file("f", ""), end)}, "f{user.overlay.whiteout=}", false},
		{"X4", [][]byte{cat(pax('x', "SCHILY.xattr.security.capability=\x01\x00\x00\x02\x00\x20"), file("f", ""), end)}, "f{security.capability=\x01\x00\x00\x02\x00\x20}", false},
		{"X5", [][]byte{cat(pax('x', "LIBARCHIVE.xattr.user.a=MQ=="), file("f", ""), end)}, "f", true},
		{"X6", [][]byte{
			cat(pax('x', "SCHILY.xattr.user.a=1", "SCHILY.xattr.user.b=1"), header("d/", '5', 0, put(100, "0000755")), end),
			cat(pax('x', "SCHILY.xattr.user.b=2"), header("d/", '5', 0, put(100, "0000755")), end),
		}, "d/{user.b=2}", false},
		{"X6 an implied directory keeps them", [][]byte{
			cat(pax('x', "SCHILY.xattr.user.a=1"), header("d/", '5', 0, put(100, "0000755")), end),
			cat(file("d/f", ""), end),
		}, "d/{user.a=1} d/f", false},
		{"X7", [][]byte{cat(pax('x', "SCHILY.xattr.user.a=1", "SCHILY.xattr.trusted.b=1"), header("l", '2', 0, put(157, "f")), end)}, "l->f{trusted.b=1}", true},
		{"X7 on a device", [][]byte{cat(pax('x', "SCHILY.xattr.user.a=1"), header("p", '6', 0), end)}, "p|", true},
		{"a value may hold any byte", [][]byte{cat(pax('x', "SCHILY.xattr.user.a=\x00\n=\xff"), file("f", ""), end)}, "f{user.a=\x00\n=\xff}", false},

		{"T1", [][]byte{cat(pax('x', "size=3", "path=g"), header("f", '0', 0), pad("abc"), file("h", "x"), end)}, "g=abc h=x", false},
		{"T2", [][]byte{cat(pax('x', "path=a"), pax('x', "path=b"), file("f", "x"), end)}, "b=x", false},
		{"T3", [][]byte{cat(gnuLong('L', long), file("short", "x"), end)}, longWant + long + "=x", false},
		{"T3 target", [][]byte{cat(gnuLong('K', strings.Repeat("t", 300)), header("l", '2', 0, put(157, "t")), end)}, "l->" + strings.Repeat("t", 300), false},
		{"T4", [][]byte{cat(pax('g', "path=g"), file("f", "x"), file("h", "y"), end)}, "f=x h=y", true},
		{"T4 without a path", [][]byte{cat(pax('g', "comment=c"), file("f", "x"), end)}, "f=x", false},
		{"T5 type 7", [][]byte{cat(header("f", '7', 1), pad("x"), file("g", "y"), end)}, "f=x g=y", false},
		{"T5", [][]byte{cat(header("f", 'Z', 3), pad("abc"), file("g", "y"), end)}, "g=y", true},
		{"T6", [][]byte{cat(file("f", "x"), end, file("g", "y"), end)}, "f=x", true},
		{"T6 zeros", [][]byte{cat(file("f", "x"), end, make([]byte, 10240))}, "f=x", false},
		{"T7", [][]byte{cat(file("f", "x"), make([]byte, 512), file("g", "y"), end)}, "refused: offset 1024", false},
		{"T8", [][]byte{file("f", "x")}, "f=x", false},
		{"T8 one block", [][]byte{cat(file("f", "x"), make([]byte, 512))}, "f=x", false},
		{"T9 in the content", [][]byte{cat(file("f", "x"), header("g", '0', 5000), pad("y"))}, "refused: cut short", false},
		{"T8 in the padding", [][]byte{cat(file("f", "x"), header("g", '0', 5), []byte("yyyyy"))}, "f=x g=yyyyy", false},
		{"T9 in a header", [][]byte{cat(file("f", "x"), header("g", '0', 0)[:100])}, "refused: cut short", false},
		{"T9 behind an extended header", [][]byte{cat(file("f", "x"), pax('x', "path=g"))}, "refused: offset 1024: extended headers without an entry", false},
		{"T9 an extended header before the end", [][]byte{cat(file("f", "x"), gnuLong('L', "n"), end)}, "refused: extended headers", false},
		{"T9 in an extended header", [][]byte{cat(pax('x', "path=g", "x="+strings.Repeat("y", 1000))[:1024])}, "refused: cut short", false},
		{"T10", [][]byte{end}, "", false},
		{"T10 no byte", [][]byte{{}}, "", false},
		{"T11", [][]byte{cat(file("f", "x"), []byte("g"), file("f", "x")[1:], end)}, "refused: offset 1024", false},
		{"T12", [][]byte{cat(header("d/", '5', 512, put(100, "0000755")), file("f", "x"), end)}, "d/ f=x", true},
		{"T13", [][]byte{cat(header("d/", '0', 0), end)}, "d", false},
		{"T13 old", at("d/", 0, 0, put(100, "0000755")), "d/", false},
		{"T14", at("f", 0, 0, put(257, "\x00\x00\x00\x00\x00\x00\x00\x00")), "f", false},
		{"T15", [][]byte{cat(file("f", "x"), header("g", '1', 1, put(157, "f")), pad("y"), end)}, "refused: content", false},
		{"T16", [][]byte{cat(header("f", '0', 0, put(124, "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03"), put(108, "\x80\x00\x00\x00\x00\x20\x00\x00")), pad("abc"), end)}, "f@2097152:0=abc", false},
		{"T16 negative", at("f", '0', 0, put(124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")), "refused: header", false},
		{"a size that overflows", [][]byte{cat(pax('x', "size=9223372036854775807"), header("f", '0', 0), end)}, "refused: limit", false},
		{"a size over the limit", [][]byte{cat(pax('x', "size=2199023255552"), header("f", '0', 0), end)}, "refused: limit", false},
		{"an owner that does not fit", at("f", '0', 0, put(108, "\x80\x00\x00\x01\x00\x00\x00\x00")), "refused: owner", false},
		{"a device that does not fit", [][]byte{cat(header("f", '3', 0, put(329, "0010000\x000000000")), end)}, "refused: device", false},
		{"a symlink to nothing", at("l", '2', 0), "refused: bad link", false},

		{"S2 xattr", [][]byte{cat(pax('x', "SCHILY.xattr.user.a="+strings.Repeat("v", 64<<10+1)), file("f", ""), end)}, "refused: limit", false},
		{"S2 xattr just fits", [][]byte{cat(pax('x', "SCHILY.xattr.user.a="+strings.Repeat("v", 64<<10)), file("f", ""), end)}, "f{user.a=" + strings.Repeat("v", 64<<10) + "}", false},
		{"S2 xattr name", [][]byte{cat(pax('x', "SCHILY.xattr.user."+strings.Repeat("n", 251)+"=v"), file("f", ""), end)}, "refused: limit", false},
		{"S2 link", [][]byte{cat(gnuLong('K', strings.Repeat("t", 4096)), header("l", '1', 0, put(157, "t")), end)}, "refused: limit", false},
		{"S2 components", [][]byte{cat(gnuLong('L', strings.Repeat("c/", 1024)+"f"), file("s", ""), end)}, "refused: limit", false},
		{"S2 records", [][]byte{cat(pax('x', "comment="+strings.Repeat("c", 1<<20)), file("f", ""), end)}, "refused: too long", false},
		{"P9", [][]byte{cat(header("", '0', 0, put(100, "0000644")), end)}, "refused: empty name", false},
		{"W21 twice, in another layer", [][]byte{tartest.Tar(t, "t/ t/t"), tartest.Tar(t, "t/.wh.t .wh.t")}, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.id, func(t *testing.T) {
			f, odd, err := stack(t, tt.tars...)
			if refused, ok := strings.CutPrefix(tt.want, "refused: "); ok {
				if !errors.Is(err, index.ErrBadLayer) || !strings.Contains(err.Error(), refused) {
					t.Fatalf("got %v, want %s", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := show(t, f); got != tt.want {
				t.Errorf("\n got %.3000q\nwant %.3000q", got, tt.want)
			}
			if tt.odd != (odd > 0) {
				t.Errorf("%d oddities reported", odd)
			}
		})
	}
}

// M4: the root takes the attributes of "./", of the topmost layer that has it.
func TestRootEntry(t *testing.T) {
	for _, tt := range []struct {
		layers         string
		mode, uid, gid uint32
	}{
		{"f", 0o755, 0, 0},
		{"./:0700@5:6 f", 0o700, 5, 6},
		{"f ./:1777", 0o1777, 0, 0},
		{"./:0700@5:6 || f", 0o700, 5, 6},
		{"./:0700@5:6 || .wh..wh..opq f", 0o700, 5, 6},
		{"./:0700@5:6 || /:0711", 0o711, 0, 0},
	} {
		var tars [][]byte
		for _, l := range strings.Split(tt.layers, " || ") {
			tars = append(tars, tartest.Tar(t, l))
		}
		f, _, err := stack(t, tars...)
		if err != nil {
			t.Fatal(err)
		}
		var n index.Node
		if err := f.Tree.Node(index.RootID, &n); err != nil {
			t.Fatal(err)
		}
		if n.Mode != index.ModeDir|tt.mode || n.UID != tt.uid || n.GID != tt.gid || n.Parent != index.RootID {
			t.Errorf("M4 %q: %o %d:%d", tt.layers, n.Mode, n.UID, n.GID)
		}
	}
}

func TestTimes(t *testing.T) {
	for _, tt := range []struct {
		text string
		sec  int64
		nsec uint32
	}{
		{"1.000000002", 1, 2},
		{"-1.5", -2, 500_000_000},
		{"-62135596800", -62135596800, 0},
		{"253402300800.123456789", 253402300800, 123_456_789},
		{"1.1234567891", 1, 123_456_789},
		{"9223372036854775807", math.MaxInt64, 0},
	} {
		f, _, err := stack(t, cat(pax('x', "mtime="+tt.text), file("f", ""), end))
		if err != nil {
			t.Fatalf("T17 %s: %v", tt.text, err)
		}
		var n index.Node
		id, err := f.Resolve("f", false)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Tree.Node(id, &n); err != nil || n.Mtime != tt.sec || n.MtimeNsec != tt.nsec {
			t.Errorf("T17 %s: got %d.%09d", tt.text, n.Mtime, n.MtimeNsec)
		}
	}
}

// oldSparse makes an entry of GNU's old form from runs of (offset, length);
// its data are the runs' numbers.
func oldSparse(name string, size int64, runs [][2]int64) []byte {
	var fields, data string
	for i, r := range runs {
		fields += fmt.Sprintf("%011o\x00%011o\x00", r[0], r[1])
		data += strings.Repeat(string(rune('a'+i%26)), int(r[1]))
	}
	first, rest := fields, ""
	if len(runs) > 4 {
		first, rest = fields[:96], fields[96:]
	}
	b := header(name, 'S', int64(len(data)), put(386, first), put(483, fmt.Sprintf("%011o\x00", size)), func(b []byte) {
		if rest != "" {
			b[482] = 1
		}
	})
	for rest != "" {
		blk := make([]byte, 512)
		n := copy(blk[:504], rest)
		if rest = rest[n:]; rest != "" {
			blk[504] = 1
		}
		b = append(b, blk...)
	}
	return append(b, pad(data)...)
}

func runs(n int, gap int64) (list [][2]int64) {
	for i := range n {
		list = append(list, [2]int64{int64(i) * gap, 3})
	}
	return list
}

// sparse1 makes an entry of PAX form 1.0.
func sparse1(name string, size int64, list [][2]int64, more ...string) []byte {
	text, data := fmt.Sprintf("%d\n", len(list)), ""
	for i, r := range list {
		text += fmt.Sprintf("%d\n%d\n", r[0], r[1])
		data += strings.Repeat(string(rune('a'+i%26)), int(r[1]))
	}
	body := append(pad(text), data...)
	return cat(
		pax('x', append([]string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=" + name, fmt.Sprintf("GNU.sparse.realsize=%d", size)}, more...)...),
		header("GNUSparseFile.0/x", '0', int64(len(body))), pad(string(body)))
}

// sparseText is what such an entry must read as.
func sparseText(size int64, list [][2]int64) []byte {
	b := make([]byte, size)
	for i, r := range list {
		copy(b[r[0]:r[0]+r[1]], strings.Repeat(string(rune('a'+i%26)), int(r[1])))
	}
	return b
}

// S1: sparse files of each form, between other entries and behind other
// headers.
func TestSparse(t *testing.T) {
	records := func(list [][2]int64, version string) (r []string) {
		var m []string
		for _, e := range list {
			if version == "0.0" {
				r = append(r, fmt.Sprint("GNU.sparse.offset=", e[0]), fmt.Sprint("GNU.sparse.numbytes=", e[1]))
			}
			m = append(m, fmt.Sprint(e[0]), fmt.Sprint(e[1]))
		}
		if version == "0.1" {
			r = append(r, "GNU.sparse.map="+strings.Join(m, ","), "GNU.sparse.name=s")
		}
		return append([]string{"GNU.sparse.size=9000", fmt.Sprint("GNU.sparse.numblocks=", len(list))}, r...)
	}
	packed := func(list [][2]int64) []byte {
		data := ""
		for i, r := range list {
			data += strings.Repeat(string(rune('a'+i%26)), int(r[1]))
		}
		return append(header("s", '0', int64(len(data))), pad(data)...)
	}
	type list = [][2]int64
	for _, n := range []int{0, 1, 4, 5, 25, 26, 100} {
		l := runs(n, 77)
		if n == 1 {
			l = list{{8000, 3}}
		}
		want := sparseText(9000, l)
		for id, entry := range map[string][]byte{
			"old":                 oldSparse("s", 9000, l),
			"old, empty run last": oldSparse("s", 9000, append(l[:len(l):len(l)], [2]int64{9000, 0})),
			"0.0":                 cat(pax('x', records(l, "0.0")...), packed(l)),
			"0.1":                 cat(pax('x', records(l, "0.1")...), packed(l)),
			"1.0":                 sparse1("s", 9000, l),
			"old, long name":      cat(append(header("././@LongLink", 'L', 2), pad("s\x00")...), oldSparse("other", 9000, l)),
			"1.0, global header":  cat(pax('g', "comment=x"), sparse1("s", 9000, l)),
			"old, records":        cat(pax('x', "comment="+strings.Repeat("c", 3000)), oldSparse("s", 9000, l)),
		} {
			t.Run(fmt.Sprint(id, "/runs=", n), func(t *testing.T) {
				if n == 0 && strings.HasPrefix(id, "0.") {
					t.Skip("no map: an ordinary file to archive/tar and so to the engines")
				}
				f, _, err := stack(t, cat(file("a", strings.Repeat("A", 600)), entry, file("b", "B"), entry, file("c", "C"), end))
				if err != nil {
					t.Fatal(err)
				}
				checkFile(t, f, "a", bytes.Repeat([]byte("A"), 600), nil)
				checkFile(t, f, "b", []byte("B"), nil)
				checkFile(t, f, "c", []byte("C"), nil)
				checkFile(t, f, "s", want, l)
			})
		}
	}
}

// checkFile compares content, read in odd pieces, and, if list is not nil,
// what Seek says.
func checkFile(t *testing.T, f *FS, name string, want []byte, list [][2]int64) {
	t.Helper()
	id, err := f.Resolve(name, false)
	if err != nil {
		t.Fatal(err)
	}
	var n index.Node
	if err := f.Tree.Node(id, &n); err != nil {
		t.Fatal(err)
	}
	if n.Size != int64(len(want)) {
		t.Fatalf("%s: %d bytes, want %d", name, n.Size, len(want))
	}
	for _, piece := range []int{1, 7, 512, len(want) + 10} {
		var got []byte
		buf := make([]byte, piece)
		for off := int64(0); ; {
			m, err := f.ReadAt(&n, buf, off)
			got = append(got, buf[:m]...)
			if off += int64(m); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%s in pieces of %d: other content", name, piece)
		}
		if piece == 1 && len(want) > 10_000 {
			t.Fatal("too long for this test")
		}
	}
	if list == nil {
		return
	}
	isData := make([]bool, len(want))
	for _, r := range list {
		for i := range r[1] {
			isData[r[0]+i] = true
		}
	}
	for off := int64(0); off < n.Size; off += 13 {
		wantData, wantHole := off, off
		for wantData < n.Size && !isData[wantData] {
			wantData++
		}
		for wantHole < n.Size && isData[wantHole] {
			wantHole++
		}
		data, err := f.Seek(&n, off, true)
		if wantData == n.Size && err != syscall.ENXIO || wantData < n.Size && (err != nil || data != wantData) {
			t.Fatalf("%s: data from %d: %d %v, want %d", name, off, data, err, wantData)
		}
		if hole, err := f.Seek(&n, off, false); err != nil || hole != wantHole {
			t.Fatalf("%s: hole from %d: %d %v, want %d", name, off, hole, err, wantHole)
		}
	}
	if _, err := f.Seek(&n, n.Size, false); err != syscall.ENXIO {
		t.Errorf("%s: a hole at the end: %v", name, err)
	}
}

// S1, hostile: a map that does not fit is refused.
func TestSparseRefused(t *testing.T) {
	type list = [][2]int64
	for id, entry := range map[string][]byte{
		"overlap":             oldSparse("s", 100, list{{0, 10}, {5, 10}}),
		"overlap 1.0":         sparse1("s", 100, list{{0, 10}, {5, 10}}),
		"out of order":        oldSparse("s", 100, list{{50, 10}, {5, 10}}),
		"beyond the size":     oldSparse("s", 100, list{{95, 10}}),
		"beyond the size 1.0": sparse1("s", 100, list{{95, 10}}),
		"more data":           cat(header("s", 'S', 600, put(386, fmt.Sprintf("%011o\x00%011o\x00", 0, 10)), put(483, fmt.Sprintf("%011o\x00", 1000))), make([]byte, 1024)),
		"less data":           cat(header("s", 'S', 5, put(386, fmt.Sprintf("%011o\x00%011o\x00", 0, 10)), put(483, fmt.Sprintf("%011o\x00", 1000))), make([]byte, 512)),
		"negative":            cat(header("s", 'S', 0, put(386, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), put(483, fmt.Sprintf("%011o\x00", 1000)))),
		"negative 1.0":        cat(pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=9"), header("s", '0', 512), pad("1\n-1\n1\n")),
		"negative size":       cat(pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=-9"), header("s", '0', 512), pad("0\n")),
		"many runs said":      cat(pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=9"), header("s", '0', 512), pad("4611686018427387904\n")),
		"no number":           cat(pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=9"), header("s", '0', 512), pad("x\n")),
		"a map without end":   cat(pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=9"), header("s", '0', 2<<20), bytes.Repeat([]byte("9"), 2<<20)),
		"odd map":             cat(pax('x', "GNU.sparse.map=1,2,3", "GNU.sparse.numblocks=1", "GNU.sparse.size=9"), file("s", "x")),
		"wrong count":         cat(pax('x', "GNU.sparse.map=1,2", "GNU.sparse.numblocks=7", "GNU.sparse.size=9"), file("s", "xx")),
		"records' size":       cat(pax('x', "size=512"), oldSparse("s", 100, list{{0, 10}}), make([]byte, 512)),
		"NUL in the name":     sparse1("s\x00t", 100, list{{0, 10}}),
	} {
		t.Run(id, func(t *testing.T) {
			_, _, err := stack(t, cat(entry, file("f", "x"), end))
			if !errors.Is(err, index.ErrBadLayer) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A hole of 8 EiB is read and asked in bounded time.
func TestSparseHuge(t *testing.T) {
	f, _, err := stack(t, cat(sparse1("s", math.MaxInt64, [][2]int64{{math.MaxInt64 - 2, 2}}), end))
	if err != nil {
		t.Fatal(err)
	}
	id, _ := f.Resolve("s", false)
	var n index.Node
	if err := f.Tree.Node(id, &n); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if m, err := f.ReadAt(&n, buf, math.MaxInt64-2); m != 2 || err != io.EOF || string(buf[:2]) != "aa" {
		t.Errorf("read %d %v %q", m, err, buf[:m])
	}
	if off, err := f.Seek(&n, 5, true); err != nil || off != math.MaxInt64-2 {
		t.Errorf("data at %d %v", off, err)
	}
	if off, err := f.Seek(&n, math.MaxInt64-1, false); err != syscall.ENXIO && off != math.MaxInt64 {
		t.Errorf("hole at %d %v", off, err)
	}
}

// A map of a million empty runs must not stay in memory.
func TestSparseEmptyRuns(t *testing.T) {
	text := "200000\n" + strings.Repeat("0\n0\n", 200_000)
	b := cat(pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=s", "GNU.sparse.realsize=9"),
		header("x", '0', int64(len(pad(text)))), pad(text), file("f", "x"), end)
	f, _, err := stack(t, b)
	if err != nil {
		t.Fatal(err)
	}
	checkFile(t, f, "s", make([]byte, 9), [][2]int64{})
	checkFile(t, f, "f", []byte("x"), nil)
}

// S1 by the tool itself.
func TestSparseByTar(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	want := make([]byte, 9<<20)
	fd, err := os.Create(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		off := i * 200_000
		n := copy(want[off:], bytes.Repeat([]byte{byte(i + 1)}, 5000))
		if _, err := fd.WriteAt(want[off:off+n], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(fd.Truncate(int64(len(want))), fd.Close(), os.WriteFile(filepath.Join(dir, "z"), []byte("z"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"--format=gnu", "--format=pax --sparse-version=0.0", "--format=pax --sparse-version=0.1", "--format=pax --sparse-version=1.0"} {
		t.Run(args, func(t *testing.T) {
			b, err := exec.Command("tar", append(strings.Fields(args), "--sparse", "-C", dir, "-c", "s", "z")...).Output()
			if err != nil {
				t.Skip(err)
			}
			if len(b) > 5<<20 {
				t.Skip("this file system makes no holes")
			}
			f, _, err := stack(t, b)
			if err != nil {
				t.Fatal(err)
			}
			checkFile(t, f, "z", []byte("z"), nil)
			id, err := f.Resolve("s", false)
			if err != nil {
				t.Fatal(err)
			}
			var n index.Node
			if err := f.Tree.Node(id, &n); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, n.Size)
			if _, err := f.ReadAt(&n, got, 0); err != nil && err != io.EOF || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if hole, err := f.Seek(&n, 0, false); err != nil || hole < 5000 || hole > 8192 {
				t.Errorf("hole at %d %v", hole, err)
			}
		})
	}
}

// Limits of a layer.
func TestLimits(t *testing.T) {
	b := tartest.Tar(t, "a/b/c f")
	for _, tt := range []struct {
		limits index.Limits
		ok     bool
	}{
		{index.Limits{}, true},
		{index.Limits{Size: int64(len(b)), Entries: 4}, true},
		{index.Limits{Size: int64(len(b)) - 1}, false},
		{index.Limits{Entries: 1}, false},
		{index.Limits{Entries: 2}, false}, // a, a/b, a/b/c and f
	} {
		_, err := index.Scan(bytes.NewReader(b), filepath.Join(t.TempDir(), "t"), tt.limits)
		if tt.ok != (err == nil) || err != nil && (!errors.Is(err, index.ErrLimit) || !errors.Is(err, index.ErrBadLayer)) {
			t.Errorf("%+v: %v", tt.limits, err)
		}
	}
}

// An open that failed is tried again, one that worked is not.
func TestLayerIsOpenedAgain(t *testing.T) {
	b := tartest.Tar(t, "f=x")
	f, _, err := stack(t, b)
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	f = NewFS(f.Tree, make([]Source, 1), func(int) (io.ReaderAt, error) {
		if calls++; calls == 1 {
			return nil, io.ErrNoProgress
		}
		return bytes.NewReader(b), nil
	})
	if _, err := f.Layer(0); err != io.ErrNoProgress {
		t.Errorf("first: %v", err)
	}
	for range 3 {
		if _, err := f.Layer(0); err != nil {
			t.Errorf("then: %v", err)
		}
	}
	if calls != 2 {
		t.Errorf("%d calls", calls)
	}
}

func TestResolve(t *testing.T) {
	f, _, err := stack(t, tartest.Tar(t, "d/ d/f=x d/abs->/d/f d/up->../../../d/f loop->loop dir->d toFile->d/f/ l2->dir"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path   string
		follow bool
		want   error
	}{
		{"", true, nil}, {"/", true, nil}, {"d/f", true, nil}, {"/d//./f", true, nil}, {"../../d/f", true, nil},
		{"d/abs", true, nil}, {"d/up", true, nil}, {"l2/abs", true, nil}, {"loop", false, nil}, {"dir/", false, nil},
		{"loop", true, syscall.ELOOP}, {"loop/x", false, syscall.ELOOP},
		{"x", true, os.ErrNotExist}, {"d/x/y", true, os.ErrNotExist}, {"d/f/x", true, syscall.ENOTDIR},
		{"d/f/", true, syscall.ENOTDIR}, {"d/f/.", true, syscall.ENOTDIR}, {"d/f/..", true, syscall.ENOTDIR},
		{"toFile", true, syscall.ENOTDIR}, {"toFile", false, nil},
		{strings.Repeat("./", 5000), true, syscall.ENAMETOOLONG},
	} {
		_, err := f.Resolve(tt.path, tt.follow)
		if !errors.Is(err, tt.want) {
			t.Errorf("%.40q: %v, want %v", tt.path, err, tt.want)
		}
	}
	sub, err := f.Sub("l2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sub.Resolve("../../f", true); err != nil {
		t.Errorf("a part: %v", err)
	}
	if _, err := f.Sub("d/f"); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("a part that is a file: %v", err)
	}
}
