// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/internal/fusetest"
)

// What is told of capabilities and xattrs of an image is what getcap and
// getfattr say of its mount.
func TestXattrsAgainstGetfattr(t *testing.T) {
	fusetest.Need(t)
	needTools(t, "getcap", "getfattr")
	s := openStore(t)
	arg := fusetest.Image(t, "base")
	dir := mountView(t, s, arg, "")
	st := openStack(t, s, arg)

	var want []string
	for line := range strings.Lines(string(judge(t, dir, nil, "getcap", "-r", "."))) {
		want = append(want, strings.TrimPrefix(strings.TrimSpace(line), "."))
	}
	caps := map[string]string{}
	err := forensics.Lint(t.Context(), st, forensics.LintOptions{}, func(f *forensics.Finding) error {
		if f.Rule.ID == "X4" {
			caps[f.Path] = f.What
		}
		return nil
	})
	var got []string
	if err == nil {
		err = st.Find(t.Context(), &forensics.Match{Cap: true}, forensics.FindOptions{}, func(r *forensics.Record) error {
			got = append(got, r.RawPath()+" "+caps[r.RawPath()])
			return nil
		})
	}
	slices.Sort(want)
	slices.Sort(got)
	if err != nil || len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("%v\n got %q\ngetcap %q", err, got, want)
	}

	want, got = nil, nil
	file := ""
	for line := range strings.Lines(string(judge(t, dir, nil, "getfattr", "-RPhd", "-m", "-", "-e", "hex", "."))) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, "# file: "); ok {
			file = path.Join("/", name)
		} else if line != "" {
			want = append(want, file+" "+line)
		}
	}
	err = st.Tree.Walk(t.Context(), func(e *forensics.Entry) error {
		list, err := st.Tree.Xattrs(e)
		for _, x := range list {
			got = append(got, fmt.Sprintf("/%s %s=0x%x", e.Path, x.Name, x.Value))
		}
		return err
	})
	slices.Sort(want)
	slices.Sort(got)
	if err != nil || len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("%v\n got %q\ngetfattr %q", err, got, want)
	}
}
