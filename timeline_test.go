// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/internal/fusetest"
	"github.com/imgfs/imgfs/internal/tartest"
)

// writeTimeline writes the timeline of an image in a form, and counts the
// lines about what shows.
func writeTimeline(t testing.TB, s *imgfs.Store, arg, form string) (out []byte, rows int) {
	t.Helper()
	var b bytes.Buffer
	write := map[string]func(io.Writer, *forensics.Moment) error{
		"bodyfile": forensics.WriteBodyfile, "mtree": forensics.WriteMtree, "sha256sum": forensics.WriteSums,
	}[form]
	if form == "mtree" {
		b.WriteString(forensics.MtreeHeader)
	}
	opt := forensics.TimelineOptions{Hash: form != "bodyfile"}
	err := openStack(t, s, arg).Timeline(context.Background(), opt, func(m *forensics.Moment) error {
		before := b.Len()
		err := write(&b, m)
		if b.Len() > before && m.Record.State == "live" {
			rows++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), rows
}

// TestFindAgainstFind compares find with GNU find over the mounted image.
func TestFindAgainstFind(t *testing.T) {
	fusetest.Need(t)
	needTools(t, "find", "grep")
	s := openStore(t)
	arg := fusetest.Image(t, "base")
	dir := mountView(t, s, arg, "")
	st := openStack(t, s, arg)
	perm := func(text string) forensics.Perm {
		p, err := forensics.ParsePerm(text)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	size := func(text string) forensics.Range {
		r, err := forensics.ParseSize(text)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, tt := range []struct {
		flags string
		match forensics.Match
	}{
		{"", forensics.Match{}},
		{"-type d", forensics.Match{Types: "d"}},
		{"-type l,p,c,b", forensics.Match{Types: "lpcb"}},
		{"-name *.so*", forensics.Match{Names: []string{"*.so*"}}},
		{"-name [a-f]?s*", forensics.Match{Names: []string{"[a-f]?s*"}}},
		{"-type f -size +1000000c", forensics.Match{Size: size("+1000000")}},
		{"-type f -size -10c", forensics.Match{Size: size("-10")}},
		{"-type f -size 4096c", forensics.Match{Size: size("4k")}},
		{"-type f -perm -4000", forensics.Match{Types: "f", Perm: perm("setuid")}},
		{"-type d -perm /7000", forensics.Match{Types: "d", Perm: perm("/7000")}},
		{"-type f -perm 600", forensics.Match{Types: "f", Perm: perm("600")}},
		{"-gid 42", forensics.Match{GIDs: []uint32{42}}},
		{"-uid 100", forensics.Match{UIDs: []uint32{100}}},
	} {
		args := append([]string{"find", "."}, strings.Fields(tt.flags)...)
		args = append(args, "-printf", "/%P\\0")
		want := strings.Split(strings.TrimSuffix(string(judge(t, dir, nil, args...)), "\x00"), "\x00")
		var got []string
		err := st.Find(context.Background(), &tt.match, forensics.FindOptions{}, func(r *forensics.Record) error {
			got = append(got, r.RawPath())
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(want)
		slices.Sort(got)
		if len(want) == 1 && want[0] == "" {
			want = nil
		}
		if !slices.Equal(got, want) {
			t.Errorf("find %s: %d files, want %d\n got %.300q\nwant %.300q", tt.flags, len(got), len(want), got, want)
		}
	}
}

// TestFindByHash compares searches by hashes with a walk of everything, where
// a layer has links into those below it, and where none has.
func TestFindByHash(t *testing.T) {
	b := newOCI(t)
	var layers []packedLayer
	for _, text := range []string{"etc/ etc/a=1 etc/b=2 h=>etc/a d/ d/x=1 d/y/ d/y/z=3", "etc/a=11 .wh.d", "etc/a/ etc/a/x=2 d=4 n=11"} {
		layers = append(layers, packed(t, tartest.Tar(t, text), "gzip"))
	}
	unlinked := b.write(named(b.image("linux/amd64", layers, nil), "docker.io/test/unlinked:latest"))
	for _, path := range []string{stackImage(t), unlinked} {
		findByHash(t, path)
	}
}

func findByHash(t *testing.T, path string) {
	s := openStore(t)
	st := openStack(t, s, path)
	find := func(sums ...string) (found []string) {
		m := &forensics.Match{Sums: forensics.Sums{}}
		for _, sum := range sums {
			if err := m.Sums.Add(sum); err != nil {
				t.Fatal(err)
			}
		}
		m.Sums.Sort()
		err := st.Find(context.Background(), m, forensics.FindOptions{Deleted: true, Hash: true}, func(r *forensics.Record) error {
			found = append(found, fmt.Sprintf("%s %d %s %s", r.Path, r.Layer, r.State, r.SHA256))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	var all, sums []string
	err := st.Find(context.Background(), &forensics.Match{Types: "f"}, forensics.FindOptions{Deleted: true, Hash: true}, func(r *forensics.Record) error {
		all = append(all, fmt.Sprintf("%s %d %s %s", r.Path, r.Layer, r.State, r.SHA256))
		sums = append(sums, r.SHA256)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := find(sums...); len(all) < 8 || !slices.Equal(got, all) {
		t.Errorf("by all hashes\n got %q\nwant %q", got, all)
	}
	for _, sum := range sums {
		var want []string
		for _, line := range all {
			if strings.HasSuffix(line, sum) {
				want = append(want, line)
			}
		}
		if got := find(sum); !slices.Equal(got, want) {
			t.Errorf("by %s\n got %q\nwant %q", sum, got, want)
		}
	}
}
