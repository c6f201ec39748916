// SPDX-License-Identifier: Apache-2.0

package unionfs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
)

// TestView: what was added shows, with content, hard links and the
// directories on the way.
func TestView(t *testing.T) {
	tars := [][]byte{
		tartest.Tar(t, "a=one d/:0700 d/b=two d/c=>d/b s->a"),
		tartest.Tar(t, "e=>a f=>d/b"),
	}
	dir := memoryDir(t)
	var layers []*index.Layer
	for i, b := range tars {
		path := filepath.Join(dir, fmt.Sprint(i))
		if _, err := index.Scan(bytes.NewReader(b), path, index.Limits{}); err != nil {
			t.Fatal(err)
		}
		l, err := index.Open[index.EntryID](path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		layers = append(layers, l)
	}
	v, err := NewView(context.Background(), layers)
	if err != nil {
		t.Fatal(err)
	}
	add := func(at string, layer int, names ...string) {
		id := index.EntryID(index.RootID)
		for _, name := range names {
			if id, _, err = layers[layer].Lookup(id, name); err != nil || id == 0 {
				t.Fatalf("%q: %d %v", names, id, err)
			}
		}
		if err := v.Add(at, layer, id); err != nil {
			t.Fatal(err)
		}
	}
	add("0/d", 0, "d")
	add("0/d/b", 0, "d", "b")
	add("0/d/c", 0, "d", "c")
	add("0/x/y/s", 0, "s")
	add("1/e", 1, "e")
	add("1/f", 1, "f")
	add("1/b", 0, "d", "b")
	add("2", 1)
	path := filepath.Join(dir, "view")
	w, err := index.Create[index.NodeID](path)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Write(w); err != nil {
		t.Fatal(err)
	}
	tree, err := index.Open[index.NodeID](path)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	f := NewFS(tree, make([]Source, len(tars)), func(i int) (io.ReaderAt, error) { return bytes.NewReader(tars[i]), nil })
	want := "0/ 0/d/:0700 0/d/b*2=two 0/d/c*2=two 0/x/ 0/x/y/ 0/x/y/s->a 1/ 1/e=one 1/b*2=two 1/f*2=two 2/"
	if got := show(t, f); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
