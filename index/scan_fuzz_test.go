// SPDX-License-Identifier: Apache-2.0

package index

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"testing/iotest"

	"github.com/imgfs/imgfs/internal/tartest"
)

// memoryDir is a directory where a sync costs nothing, if there is one.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "imgfs")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// sameAsOracle makes sure that a layer is to us what it is to archive/tar.
func sameAsOracle(t *testing.T, b []byte, limits Limits) {
	t.Helper()
	ours, theirs := newScanner(bytes.NewReader(b), limits), newScanner(bytes.NewReader(b), limits)
	theirs.oracle = true
	err, want := ours.scan(), theirs.scan()
	if fmt.Sprint(err) != fmt.Sprint(want) {
		t.Fatalf("%v, archive/tar: %v", err, want)
	}
	if !reflect.DeepEqual(ours.nodes, theirs.nodes) || !reflect.DeepEqual(ours.targets, theirs.targets) ||
		!reflect.DeepEqual(ours.oddities, theirs.oddities) || ours.in.pos != theirs.in.pos || ours.links.n != theirs.links.n {
		t.Fatal("another layer than archive/tar's")
	}
	for i := range ours.links.n {
		a, b := *ours.links.at(i), *theirs.links.at(i)
		if a.hash = b.hash; a != b {
			t.Fatalf("link %+v, archive/tar %+v", a, b)
		}
	}
}

// Any bytes are a layer or a malformed one, with every reader the same; a
// layer's table opens and all of it can be read; what archive/tar cannot walk
// is refused.
func FuzzScan(f *testing.F) {
	for _, text := range []string{
		"", "f=x g=>f l->f d/ d/.wh.x d/.wh..wh..opq", "l->d l/x .wh.l g=>../l/x", "a->b b->a a/x",
		"fifo| null%1,3 ./:0700", "f=1 f=2 f/ f/x f=3", "o=>below o=>o",
	} {
		f.Add(tartest.Tar(f, text))
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "x", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b", "LIBARCHIVE.xattr.c": "d"}},
		{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "g"}},
		{Name: "usr/share/a-name-long-enough-to-need-a-record-of-its-own-because-it-does-not-fit-a-hundred-bytes/file", Typeflag: tar.TypeReg, Format: tar.FormatGNU},
	} {
		if err := w.WriteHeader(h); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	old := make([]byte, 512)
	copy(old, "s")
	copy(old[124:], "00000000003\x00")
	old[156] = 'S'
	copy(old[257:], "ustar  \x00")
	copy(old[386:], "00000000005\x0000000000003\x00")
	copy(old[483:], "00000000100\x00")
	copy(old[148:], "0007133\x00")
	f.Add(append(old, make([]byte, 2048)...))
	for _, b := range plainHeaders(f) {
		f.Add(b)
	}

	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		path := filepath.Join(memoryDir(t), "t")
		limits := Limits{Entries: 10_000}
		_, err := Scan(bytes.NewReader(b), path, limits)
		_, err2 := Scan(iotest.HalfReader(bytes.NewBuffer(b)), path+"2", limits)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("with seek %v, without %v", err, err2)
		}
		sameAsOracle(t, b, limits)
		if err != nil {
			if !errors.Is(err, ErrBadLayer) || !errors.Is(err2, ErrBadLayer) {
				t.Fatalf("%v, %v", err, err2)
			}
			if _, err := os.Stat(path); err == nil {
				t.Fatal("a table of a malformed layer")
			}
			return
		}
		tr := tar.NewReader(bytes.NewReader(b))
		for {
			if _, err := tr.Next(); err == io.EOF {
				break
			} else if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
				t.Fatalf("archive/tar: %v", err)
			}
		}
		one, err1 := os.ReadFile(path)
		two, err2 := os.ReadFile(path + "2")
		if err1 != nil || err2 != nil || !bytes.Equal(one, two) {
			t.Fatal("different tables", err1, err2)
		}
		l, err := Open[EntryID](path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := dump(l, func(key, value string) {
			if value == "?" {
				t.Fatal(key)
			}
		}); err != nil {
			t.Fatal(err)
		}
	})
}
