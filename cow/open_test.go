// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"testing"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

// emptyTree returns the tree of an image without layers.
func emptyTree(t testing.TB) *unionfs.FS {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tree")
	w, err := index.Create[index.NodeID](path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unionfs.Merge(context.Background(), w, nil, nil); err != nil {
		t.Fatal(err)
	}
	tree, err := index.Open[index.NodeID](path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	return unionfs.NewFS(tree, nil, nil)
}

func TestCreateOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "u")
	if err := Create(dir, Base{Image: "a", ChainID: "sha256:1"}); err != nil {
		t.Fatal(err)
	}
	u, err := Open(dir, emptyTree(t), "sha256:1", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
}

// Whatever upper.json says, it is refused, or it can be written again and the
// upper opened or refused.
func FuzzInfo(f *testing.F) {
	fs := emptyTree(f)
	dir := filepath.Join(f.TempDir(), "u")
	if err := Create(dir, Base{Image: "a", ChainID: "sha256:1"}); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, infoName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"format": 2}`))
	f.Add([]byte(`{"format": 1, "id": "00", "key": "", "tree": "zz", "created": {"Sec": -1, "Nsec": 4294967295}}`))
	id := regexp.MustCompile(`("(?:key|id|tree)": ?")`)
	f.Add(id.ReplaceAll(whole, []byte("${1}00000000"))) // longer than what it fills
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := decodeInfo(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
				t.Fatalf("%v", err)
			}
			return
		}
		text, err := json.Marshal(info)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := decodeInfo(text); err != nil || !reflect.DeepEqual(again, info) {
			t.Fatalf("%s is read as %+v, %v", text, again, err)
		}
		dir := filepath.Join(memoryDir(t), "u")
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, infoName), b, 0o600)); err != nil {
			t.Fatal(err)
		}
		u, err := Open(dir, fs, info.ChainID, Options{})
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		if err := u.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
