// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"context"
	"path/filepath"
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
