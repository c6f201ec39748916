// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/enginetest"
	"github.com/imgfs/imgfs/internal/tartest"
)

func tempFile() (*os.File, error) {
	f, err := os.CreateTemp("", "engine-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// splitLayer writes a layer as an engine keeps it: split.gz and diff.
func splitLayer(t testing.TB, split []byte, files map[string]string) (*splitTar, string) {
	t.Helper()
	root := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(root, "split.gz"), split, 0o600), os.Mkdir(filepath.Join(root, "diff"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(root, "diff", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	store, err := openRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	s := newSplitTar(&splitTar{store: store, split: "split.gz", diff: "diff", temp: tempFile})
	t.Cleanup(func() { s.Close(); store.Close() })
	return s, root
}

func wholeOf(b interface {
	io.ReaderAt
	Size(context.Context) (int64, error)
}) ([]byte, error) {
	size, err := b.Size(context.Background())
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(b, 0, size))
}

// TestSplitIsTheTar: what tar-split and a directory have is the tar, byte for
// byte, read whole and in random parts.
func TestSplitIsTheTar(t *testing.T) {
	long := strings.Repeat("0123456789", 5000)
	raw := tartest.Tar(t, "./ etc/ etc/passwd=root etc/empty a->etc b=>etc/passwd f| d%1,3 %ff%fe=raw big="+long+" etc/deep/er/x=y <&>=html")
	raw = append(raw, make([]byte, 7000)...) // more padding than is needed
	s, _ := splitLayer(t, enginetest.Split(t, raw), map[string]string{
		"etc/passwd": "root", "\xff\xfe": "raw", "big": long, "etc/deep/er/x": "y", "<&>": "html",
	})
	got, err := wholeOf(s)
	if err != nil || !bytes.Equal(got, raw) {
		t.Fatalf("read %d bytes, %v, want the %d of the tar", len(got), err, len(raw))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		off := r.IntN(len(raw))
		b := make([]byte, r.IntN(3000)+1)
		n, err := s.ReadAt(b, int64(off))
		want := raw[off:min(off+len(b), len(raw))]
		if !bytes.Equal(b[:n], want) || (n < len(b)) != (err == io.EOF) || err != nil && err != io.EOF {
			t.Fatalf("ReadAt(%d, %d) = %d, %v, want %d", len(b), off, n, err, len(want))
		}
	}
	if n, err := s.ReadAt(make([]byte, 1), int64(len(raw))); n != 0 || err != io.EOF {
		t.Errorf("behind the end: %d, %v", n, err)
	}
}

// TestSplitUnreadable: a file that is not what it was is an error that names it,
// and all others can be read.
func TestSplitUnreadable(t *testing.T) {
	raw := tartest.Tar(t, "a=one b=two c=three d/ d/e=four")
	for _, tt := range []struct {
		name   string
		spoil  func(diff string) error
		says   string
		denied bool
	}{
		{"gone", func(d string) error { return os.Remove(d + "/b") }, "lost", false},
		{"another size", func(d string) error { return os.WriteFile(d+"/b", []byte("twoo"), 0o600) }, "has 4 bytes, the layer had 3", false},
		{"a symlink to outside", func(d string) error { return errors.Join(os.Remove(d+"/b"), os.Symlink("/etc/passwd", d+"/b")) }, "symlink", false},
		{"a directory", func(d string) error { return errors.Join(os.Remove(d+"/b"), os.Mkdir(d+"/b", 0o700)) }, "not a regular file", false},
	} {
		s, root := splitLayer(t, enginetest.Split(t, raw), map[string]string{"a": "one", "b": "two", "c": "three", "d/e": "four"})
		if err := tt.spoil(root + "/diff"); err != nil {
			t.Fatal(err)
		}
		_, err := wholeOf(s)
		var u *UnreadableError
		if !errors.As(err, &u) || u.Path != root+"/diff/b" || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) != tt.denied || errors.Is(err, image.ErrMalformed) == tt.denied {
			t.Errorf("%s: %v is another kind of error", tt.name, err)
		}
		for _, text := range []string{"one", "three", "four"} {
			off := bytes.Index(raw, []byte(text))
			b := make([]byte, len(text))
			if _, err := s.ReadAt(b, int64(off)); err != nil || string(b) != text {
				t.Errorf("%s: another file: %q, %v", tt.name, b, err)
			}
		}
		var named []string
		if err := s.EachUnreadable(context.Background(), func(err error) { named = append(named, err.Error()) }); err != nil || len(named) != 1 {
			t.Errorf("%s: unreadable are %q, %v", tt.name, named, err)
		}
	}
}

// TestSplitStaysInside: no name and no link leads out of the unpacked layer.
func TestSplitStaysInside(t *testing.T) {
	for _, name := range []string{"../secret", "/../secret", "up/secret", "abs/secret", "a/../../secret"} {
		lines := fmt.Sprintf(`{"type":1,"name":%q,"size":6,"payload":"","position":0}`, name)
		s, root := splitLayer(t, zipped(t, lines), map[string]string{"a/x": "x"})
		err := errors.Join(os.WriteFile(root+"/secret", []byte("secret"), 0o600),
			os.Symlink("..", root+"/diff/up"), os.Symlink(root, root+"/diff/abs"))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := wholeOf(s); err == nil {
			t.Errorf("%s: read %q", name, b)
		}
	}
}

// TestSplitFollowsInside: a name through a symlink of the layer is found where
// the link leads inside of it.
func TestSplitFollowsInside(t *testing.T) {
	s, root := splitLayer(t, zipped(t, `{"type":1,"name":"lib/x","size":1,"payload":"","position":0}`), map[string]string{"usr/lib/x": "1"})
	if err := os.Symlink("/usr/lib", root+"/diff/lib"); err != nil {
		t.Fatal(err)
	}
	if b, err := wholeOf(s); err != nil || string(b) != "1" {
		t.Errorf("read %q, %v", b, err)
	}
}

func zipped(t testing.TB, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestSplitHostile: what tar-split may say, and may not.
func TestSplitHostile(t *testing.T) {
	const file = `{"type":1,"name":"a","size":%s,"payload":"","position":0}`
	good := zipped(t, `{"type":2,"payload":"YQ==","position":0}`+"\n")
	for _, tt := range []struct {
		name  string
		split []byte
	}{
		{"not gzip", []byte("{}")},
		{"nothing", nil},
		{"cut short", good[:len(good)-9]},
		{"no JSON", zipped(t, "x")},
		{"a list", zipped(t, "[1]")},
		{"a negative size", zipped(t, fmt.Sprintf(file, "-1"))},
		{"a huge size", zipped(t, fmt.Sprintf(file, "9223372036854775807"))},
		{"sizes that are too many together", zipped(t, strings.Repeat(fmt.Sprintf(file, "1099511627775")+"\n", 3))},
		{"a size that is no number", zipped(t, fmt.Sprintf(file, `"1"`))},
		{"no base64", zipped(t, `{"type":2,"payload":"?","position":0}`)},
		{"an unknown segment", zipped(t, `{"type":3}`)},
		{"a long name", zipped(t, `{"type":1,"size":1,"name":"`+strings.Repeat("n", 70000)+`"}`)},
		{"an endless line", zipped(t, `{"type":2,"payload":"`+strings.Repeat("A", maxLine+300<<10))},
	} {
		s, root := splitLayer(t, tt.split, nil)
		_, err := s.Size(context.Background())
		if !errors.Is(err, image.ErrMalformed) || !strings.Contains(err.Error(), root+"/split.gz") {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestSplitOfMany: a million segments are one piece, and take no more memory.
func TestSplitOfMany(t *testing.T) {
	s, _ := splitLayer(t, zipped(t, strings.Repeat(`{"type":2,"payload":"YQ==","position":0}`+"\n", 1_000_000)), nil)
	size, err := s.Size(context.Background())
	if err != nil || size != 1_000_000 || len(s.pieces.offs) != 1 {
		t.Errorf("size %d, %v, %d pieces", size, err, len(s.pieces.offs))
	}
}

// TestSplitNeedsRealDirectories: neither the list nor the layer may be a symlink.
func TestSplitNeedsRealDirectories(t *testing.T) {
	raw := tartest.Tar(t, "a=one")
	for _, name := range []string{"diff", "split.gz"} {
		s, root := splitLayer(t, enginetest.Split(t, raw), map[string]string{"a": "one"})
		path := filepath.Join(root, name)
		if err := errors.Join(os.Rename(path, path+".real"), os.Symlink(name+".real", path)); err != nil {
			t.Fatal(err)
		}
		if _, err := wholeOf(s); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte(`{"type":2,"payload":"YQ==","position":0}` + "\n" + `{"type":1,"name":"a","size":3,"payload":"","position":1}`))
	f.Add([]byte(`{"type":1,"name_raw":"/w==","size":0}`))
	head := bytes.Repeat([]byte{'0'}, 512)
	head[156] = tar.TypeGNUSparse
	f.Add(fmt.Appendf(nil, `{"type":2,"payload":"%s","position":0}`+"\n"+`{"type":1,"name":"a","size":3}`, base64.StdEncoding.EncodeToString(head)))
	root, err := openRoot(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, lines []byte) {
		p, err := newPieces(root, tempFile)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		s := &splitter{p: p}
		for line := range bytes.Lines(lines) {
			if err = s.line(line); err != nil {
				break
			}
		}
		if err := errors.Join(err, s.flush(), p.end()); err != nil {
			return
		}
		if p.size < 0 || p.size > maxTar {
			t.Fatalf("a tar of %d bytes", p.size)
		}
		_, _ = io.Copy(io.Discard, io.NewSectionReader(headerReader{func(context.Context) (*pieces, error) { return p, nil }}, 0, min(p.size, 1<<16)))
		_, _ = p.ReadAt(make([]byte, 100), p.size/2)
	})
}
