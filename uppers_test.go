// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/image"
)

// An upperBench is a store with an image "base:1" and the upper "up" over it,
// which has a directory more. No kernel takes part.
type upperBench struct {
	t    *testing.T
	s    *imgfs.Store
	img  *imgfs.Image
	base cow.Base
}

func newUpperBench(t *testing.T) *upperBench {
	t.Helper()
	s := openStore(t)
	mustLoad(t, s, textImage(t, "base:1", "gzip", "etc/ etc/a=a dir/ dir/b=b"))
	img, err := s.OpenImage(context.Background(), "base:1", nil, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	var chain string
	for _, id := range image.ChainIDs(mustInfo(t, s, "base:1").DiffIDs) {
		chain = id.String()
	}
	b := &upperBench{t, s, img, cow.Base{Image: "base:1", ImageID: img.ID.String(), Platform: img.Platform, ChainID: chain}}
	if err := os.Mkdir(filepath.Join(s.Root(), "uppers"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.create("up", b.base)
	u := b.open("up", "")
	b.mkdir(u, "new")
	b.close(u)
	return b
}

func (b *upperBench) dir(name string) string { return filepath.Join(b.s.Root(), "uppers", name) }

func (b *upperBench) create(name string, base cow.Base) {
	b.t.Helper()
	if err := cow.Create(b.dir(name), base); err != nil {
		b.t.Fatal(err)
	}
}

func (b *upperBench) open(name, mountDir string) *cow.Upper {
	b.t.Helper()
	u, err := cow.Open(b.dir(name), b.img.FS, b.base.ChainID, cow.Options{MountDir: mountDir})
	if err != nil {
		b.t.Fatal(err)
	}
	return u
}

func (b *upperBench) close(u *cow.Upper) {
	b.t.Helper()
	if err := u.Close(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *upperBench) mkdir(u *cow.Upper, name string) {
	b.t.Helper()
	var a cow.Attr
	if err := u.Create(cow.Caller{}, cow.RootNode, name, cow.Creation{Mode: syscall.S_IFDIR | 0o755}, &a); err != nil {
		b.t.Fatal(err)
	}
}

func (b *upperBench) changes(arg string) (string, error) {
	var got []string
	err := b.s.Changes(context.Background(), arg, func(c imgfs.Change) error {
		got = append(got, c.Kind+" "+c.Path)
		return nil
	})
	return strings.Join(got, " "), err
}

func TestUppers(t *testing.T) {
	b := newUpperBench(t)
	ctx := context.Background()
	if got, err := b.changes("up"); got != "A /new" || err != nil {
		t.Errorf("changes: %q, %v", got, err)
	}
	list, err := b.s.Uppers(ctx)
	if err != nil || len(list) != 1 || list[0].Name != "up" || list[0].Image != "base:1" || list[0].Changed != 2 || list[0].Size == 0 || list[0].Mount != "" {
		t.Errorf("uppers: %+v, %v", list, err)
	}
	for _, name := range []string{"", ".", "..", "../up", "a/b", "a b", "-a", strings.Repeat("a", 129)} {
		for what, err := range map[string]error{
			"rename": b.s.RenameUpper("up", name), "remove": b.s.RemoveUpper(name), "inspect": second(b.s.Upper(ctx, name)),
		} {
			if !errors.Is(err, imgfs.ErrOption) {
				t.Errorf("%s %q: %v", what, name, err)
			}
		}
	}
	for what, err := range map[string]error{
		"rename": b.s.RenameUpper("none", "other"), "remove": b.s.RemoveUpper("none"), "inspect": second(b.s.Upper(ctx, "none")),
		"reset": b.s.Reset(ctx, "none", nil), "changes": second(b.changes("none")),
	} {
		if !errors.Is(err, imgfs.ErrNoUpper) {
			t.Errorf("%s of no upper: %v", what, err)
		}
	}
	b.create("taken", b.base)
	if err := b.s.RenameUpper("up", "taken"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("rename over another: %v", err)
	}
	if err := errors.Join(b.s.RenameUpper("up", "moved"), b.s.RemoveUpper("taken")); err != nil {
		t.Error(err)
	}
	if got, err := b.changes("moved"); got != "A /new" || err != nil {
		t.Errorf("changes after rename: %q, %v", got, err)
	}
	for path, want := range map[string]string{"none": "neither the image nor the upper", "none/such": "neither the image nor the upper"} {
		if err := b.s.Reset(ctx, "moved", []string{path}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), want) {
			t.Errorf("reset %s: %v", path, err)
		}
	}
	if err := b.s.Reset(ctx, "moved", nil); err != nil {
		t.Error(err)
	}
	if got, err := b.changes("moved"); got != "" || err != nil {
		t.Errorf("changes after reset: %q, %v", got, err)
	}
}

func second[T any](_ T, err error) error { return err }

// TestUpperIsWaitedFor: diff and commit of an upper that another command has
// open begin when that has ended. What would change the upper is refused.
func TestUpperIsWaitedFor(t *testing.T) {
	b := newUpperBench(t)
	u := b.open("up", "")
	ctx := context.Background()
	for what, err := range map[string]error{
		"reset": b.s.Reset(ctx, "up", nil), "reset of a path": b.s.Reset(ctx, "up", []string{"new"}),
		"rename": b.s.RenameUpper("up", "other"), "remove": b.s.RemoveUpper("up"),
	} {
		if !errors.Is(err, cow.ErrInUse) {
			t.Errorf("%s of an upper in use: %v", what, err)
		}
	}
	canceled, cancel := context.WithCancel(ctx)
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := b.s.Changes(canceled, "up", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("changes that are given up: %v", err)
	}
	begun, ended := make(chan bool), make(chan error, 2)
	go func() {
		begun <- true
		got, err := b.changes("up")
		if err == nil && got != "A /late A /new" {
			err = errors.New(got)
		}
		ended <- err
	}()
	go func() {
		begun <- true
		ended <- second(b.s.Commit(ctx, "up", "made:1", imgfs.CommitOptions{}, false))
	}()
	<-begun
	<-begun
	b.mkdir(u, "late")
	b.close(u)
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if _, ok := treeOf(t, b.s, "made:1")["late"]; !ok {
		t.Error("the commit lacks what was changed before it began")
	}
}

// TestUpperOfAFile: where the image file of an upper is gone, the store's image
// with the same ID takes its place.
func TestUpperOfAFile(t *testing.T) {
	b := newUpperBench(t)
	base := b.base
	base.File, base.Image = filepath.Join(t.TempDir(), "gone.tar"), "gone.tar"
	b.create("file", base)
	if got, err := b.changes("file"); got != "" || err != nil {
		t.Errorf("the store has the image: %q, %v", got, err)
	}
	base.ImageID = "sha256:" + strings.Repeat("0", 64)
	b.create("lost", base)
	if _, err := b.changes("lost"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), base.File) || !strings.Contains(err.Error(), base.ImageID) {
		t.Errorf("the store has it not: %v", err)
	}
}

func TestExport(t *testing.T) {
	b := newUpperBench(t)
	ctx := context.Background()
	var tar bytes.Buffer
	if err := b.s.Export(ctx, "up", &tar, imgfs.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "tree.tar")
	if err := os.WriteFile(path, tar.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.s.Import(ctx, path, nil, "again:1", imgfs.LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.s.Commit(ctx, "up", "made:1", imgfs.CommitOptions{}, false); err != nil {
		t.Fatal(err)
	}
	want, got := treeOf(t, b.s, "made:1"), treeOf(t, b.s, "again:1")
	for _, tree := range []map[string]treeFile{want, got} {
		for name, f := range tree {
			f.Ino = 0 // of the order of the tars
			tree[name] = f
		}
	}
	diffTrees(t, "export and import", got, want)
	if err := b.s.Export(ctx, "base:1:/etc", io.Discard, imgfs.ExportOptions{}); !errors.Is(err, imgfs.ErrOption) {
		t.Errorf("export of a part: %v", err)
	}
	if err := b.s.Export(ctx, "none", io.Discard, imgfs.ExportOptions{}); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("export of nothing: %v", err)
	}
}
