// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
)

// contents returns what archive/tar reads of each regular file, in order.
func contents(t *testing.T, raw []byte) (sums [][sha256.Size]byte) {
	t.Helper()
	tr := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return sums
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeGNUSparse || strings.Contains(h.Name, ".wh.") {
			continue
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, sha256.Sum256(b))
	}
}

// sparseTar is a file of 12 bytes at 1000 of 100 000, then two of which one
// has nothing but a hole.
func sparseTar(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	entry := func(name, pack, runs, size string) {
		records := ""
		for _, kv := range []string{"GNU.sparse.map=" + runs, "GNU.sparse.size=" + size, fmt.Sprint("GNU.sparse.numblocks=", (strings.Count(runs, ",")+1)/2)} {
			n := len(kv) + 2
			for len(fmt.Sprint(n))+len(kv)+2 != n {
				n = len(fmt.Sprint(n)) + len(kv) + 2
			}
			records += fmt.Sprintf("%d %s\n", n, kv)
		}
		b.Write(tarHeader("x", 'x', len(records)))
		b.WriteString(records)
		b.Write(make([]byte, -len(records)&511))
		b.Write(tarHeader(name, '0', len(pack)))
		b.WriteString(pack)
		b.Write(make([]byte, -len(pack)&511))
	}
	entry("one", "twelve bytes", "1000,12", "100000")
	entry("two", "ab", "0,1,4096,1", "4097")
	entry("hole", "", "70000,0", "70000")
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

func tarHeader(name string, kind byte, size int) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x0000000000001\x00        ", size))
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// A pass hashes every regular file as it is read, however it lies in the tar.
func TestContentHashes(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 60_000) // several buffers
	tests := map[string][]byte{
		"no files":          tartest.Tar(t, "d/ l->x"),
		"small files":       tartest.Tar(t, "a=x b= c=yy d/e=zzz"),
		"a link":            tartest.Tar(t, "a=x b=>a"),
		"a file replaced":   tartest.Tar(t, "a=x a=y"),
		"whiteouts":         tartest.Tar(t, "a=x .wh.b d/.wh..wh..opq c=y"),
		"over many buffers": tartest.Tar(t, "a=x big="+big+" b="+big[:3*bufferSize/2]+" e= f="+big[:bufferSize]),
		"sparse files":      sparseTar(t),
	}
	for rule, raw := range tests {
		for _, method := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			s, err := Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			g := testStage(t, s)
			l, _, err := g.AddLayer(context.Background(), Layer{DiffID: method.FromBytes(raw)}, bytes.NewReader(raw), index.Limits{})
			if err != nil {
				t.Fatalf("%s: %v", rule, err)
			}
			if err := g.Commit(); err != nil {
				t.Fatal(err)
			}
			checkHashes(t, rule, s, l, contents(t, raw))
			// They are derived, and made anew.
			if err := os.Remove(s.hashPath(l.DiffID)); err != nil {
				t.Fatal(err)
			}
			checkHashes(t, rule+", anew", s, l, contents(t, raw))
			if err := os.WriteFile(s.hashPath(l.DiffID), bytes.Repeat([]byte("x"), 20_000), 0o600); err != nil {
				t.Fatal(err)
			}
			checkHashes(t, rule+", after damage", s, l, contents(t, raw))
		}
	}
}

func checkHashes(t *testing.T, rule string, s *Store, l Layer, want [][sha256.Size]byte) {
	t.Helper()
	h, err := s.OpenHashes(context.Background(), l)
	if err != nil {
		t.Fatalf("%s: %v", rule, err)
	}
	defer h.Close()
	table, err := s.OpenTable(context.Background(), l)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	var got [][sha256.Size]byte
	var n index.Node
	for i := uint32(1); i <= table.Count(); i++ {
		if err := table.Node(index.EntryID(i), &n); err != nil {
			t.Fatal(err)
		}
		sum, ok, err := h.Of(n.Header)
		if err != nil || ok != n.IsRegular() && n.Flags&index.FlagImplied == 0 {
			t.Fatalf("%s: entry %d: %v %v", rule, i, ok, err)
		}
		if n.IsRegular() {
			got = append(got, sum)
		}
	}
	if fmt.Sprintf("%x", got) != fmt.Sprintf("%x", want) || h.Len() != len(want) {
		t.Errorf("%s:\n got %x\nwant %x", rule, got, want)
	}
}

// Holes of exabytes do not make a load endless: such a file has no hash, the
// others have.
func TestHashesOfHoles(t *testing.T) {
	s := newSummer(digest.SHA256)
	var wg sync.WaitGroup
	wg.Go(s.loop)
	s.expect(&index.File{Header: 0, Data: 512, Packed: 10, Size: 1 << 62, Runs: []index.Extent{{Off: 1 << 61, Len: 10, Data: 512}}})
	s.expect(&index.File{Header: 1024, Data: 1536, Packed: 10, Size: 10})
	b := &buffer{b: make([]byte, 2048, bufferSize)}
	b.refs.Store(1)
	s.take(b)
	s.end()
	wg.Wait()
	want := index.FileHash{Sum: sha256.Sum256(make([]byte, 10)), Header: 1024}
	if len(s.files) != 1 || s.files[0] != want {
		t.Errorf("got %v, want one, %v", s.files, want)
	}
}
