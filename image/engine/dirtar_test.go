// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testOptions spell whiteouts in a way of their own, so that nothing else can.
var testOptions = Options{Temp: tempFile, Whiteout: "WH.", Opaque: "OPAQUE", Root: os.Geteuid() == 0}

func dirLayer(t testing.TB, dotWh bool) (*dirTar, string) {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "diff"), 0o755); err != nil {
		t.Fatal(err)
	}
	store, err := openRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	d := newDirTar(&dirTar{store: store, name: "diff", dotWh: dotWh, owner: owner{uid: uint32(os.Geteuid())}, opt: &testOptions})
	t.Cleanup(func() { d.Close(); store.Close() })
	return d, filepath.Join(root, "diff")
}

// listTar returns the entries of a tar, a line each, by name.
func listTar(t *testing.T, raw []byte) string {
	t.Helper()
	var lines []string
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%c %s %04o", h.Typeflag, h.Name, h.Mode)
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		if h.Typeflag == tar.TypeChar {
			line += fmt.Sprintf(" %d,%d", h.Devmajor, h.Devminor)
		}
		if h.Size > 0 {
			content, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprintf(" %.20q", content)
		}
		var xattrs []string
		for name, value := range h.PAXRecords {
			if name, ok := strings.CutPrefix(name, "SCHILY.xattr."); ok {
				xattrs = append(xattrs, name+"="+value)
			}
		}
		slices.Sort(xattrs)
		lines = append(lines, strings.TrimSpace(line+" "+strings.Join(xattrs, " ")))
	}
	return strings.Join(lines, "\n")
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("devices and trusted xattrs need root")
	}
}

// TestDirTar: a container's changes as overlayfs has them are a layer.
func TestDirTar(t *testing.T) {
	needRoot(t)
	d, dir := dirLayer(t, false)
	p := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Mkdir(p("etc"), 0o750), os.WriteFile(p("etc/b"), []byte("changed"), 0o640), os.Link(p("etc/b"), p("etc/c")),
		os.Symlink("/x", p("etc/link")), unix.Mknod(p("etc/gone"), unix.S_IFCHR, 0), unix.Mknod(p("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), unix.Chmod(p("null"), 0o666),
		unix.Mkfifo(p("pipe"), 0o600), os.Mkdir(p("opaque"), 0o755), unix.Lsetxattr(p("opaque"), "trusted.overlay.opaque", []byte("y"), 0),
		unix.Lsetxattr(p("opaque"), "trusted.overlay.origin", []byte("x"), 0), os.Mkdir(p("user"), 0o755),
		unix.Lsetxattr(p("user"), "user.overlay.opaque", []byte("y"), 0), unix.Lsetxattr(p("user"), "user.mine", []byte("1"), 0),
		os.Mkdir(p("marks"), 0o755), unix.Lsetxattr(p("marks"), "trusted.overlay.opaque", []byte("x"), 0),
		os.WriteFile(p("marks/gone"), nil, 0o644), unix.Lsetxattr(p("marks/gone"), "trusted.overlay.whiteout", nil, 0),
		os.WriteFile(p("tool"), []byte("#!/bin/sh\n"), 0o755), unix.Chmod(p("tool"), 0o4755))
	raw, err := wholeOf(d)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"5 ./ 0755",
		"5 etc/ 0750",
		"5 marks/ 0755",
		"3 null 0666 1,3",
		"5 opaque/ 0755",
		"0 opaque/OPAQUE 0600",
		"6 pipe 0600",
		`0 tool 4755 "#!/bin/sh\n"`,
		"5 user/ 0755 user.mine=1",
		"0 user/OPAQUE 0600",
		`0 etc/b 0640 "changed"`,
		"1 etc/c 0000 -> etc/b",
		"0 etc/WH.gone 0600",
		"2 etc/link 0777 -> /x",
		"0 marks/WH.gone 0600",
	}, "\n")
	if got := listTar(t, raw); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if problems := Problems(d); len(problems) != 0 {
		t.Errorf("problems: %v", problems)
	}
}

// TestDirTarProblems: what a layer cannot tell is said, and the rest is there.
func TestDirTarProblems(t *testing.T) {
	needRoot(t)
	d, dir := dirLayer(t, false)
	p := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.WriteFile(p("WH.evil"), nil, 0o600), os.Mkdir(p("moved"), 0o755),
		unix.Lsetxattr(p("moved"), "trusted.overlay.redirect", []byte("/old"), 0),
		os.WriteFile(p("meta"), []byte("xxxx"), 0o600), unix.Lsetxattr(p("meta"), "trusted.overlay.metacopy", nil, 0),
		os.WriteFile(p("ok"), []byte("fine"), 0o600))
	if _, err := d.Size(context.Background()); err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, problem := range Problems(d) {
		said = append(said, strings.TrimPrefix(problem.Error(), dir))
	}
	want := []string{"/WH.evil: a layer cannot show", "/meta: only its attributes", "/moved: was moved here"}
	if len(said) != len(want) {
		t.Fatalf("problems: %q", said)
	}
	for i := range want {
		if !strings.HasPrefix(said[i], want[i]) {
			t.Errorf("problem %q, want %q", said[i], want[i])
		}
	}
	var u *UnreadableError
	if _, err := wholeOf(d); !errors.As(err, &u) || u.Path != p("meta") {
		t.Errorf("content of a metacopy: %v", err)
	}
}

// TestDirTarMetacopy: a file of which the attributes alone were copied has the
// content that the first layer below has of it.
func TestDirTarMetacopy(t *testing.T) {
	needRoot(t)
	d, dir := dirLayer(t, false)
	root := filepath.Dir(dir)
	must(t, os.Mkdir(root+"/one", 0o755), os.MkdirAll(root+"/two/old", 0o755), os.WriteFile(root+"/two/a", []byte("two"), 0o600),
		os.WriteFile(root+"/one/a", []byte("one"), 0o600), os.WriteFile(root+"/two/old/name", []byte("old"), 0o600))
	for name, redirect := range map[string]string{"a": "", "moved": "/old/name"} {
		must(t, os.WriteFile(dir+"/"+name, nil, 0o755), os.Truncate(dir+"/"+name, 3), unix.Lsetxattr(dir+"/"+name, "trusted.overlay.metacopy", nil, 0))
		if redirect != "" {
			must(t, unix.Lsetxattr(dir+"/"+name, "trusted.overlay.redirect", []byte(redirect), 0))
		}
	}
	d.lower = []string{"one", "two"}
	raw, err := wholeOf(d)
	must(t, err)
	want := "5 ./ 0755\n0 a 0755 \"one\"\n0 moved 0755 \"old\""
	if got := listTar(t, raw); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if problems := Problems(d); len(problems) != 0 {
		t.Errorf("problems: %v", problems)
	}
}

// TestDirTarMarksByName: where fuse-overlayfs cannot make a device it marks by
// names, as a layer does.
func TestDirTarMarksByName(t *testing.T) {
	d, dir := dirLayer(t, true)
	p := func(name string) string { return filepath.Join(dir, name) }
	if os.Geteuid() == 0 {
		must(t, unix.Mknod(p("WH.mark"), unix.S_IFCHR, 0))
	}
	must(t, os.WriteFile(p("WH.gone"), nil, 0o600), os.WriteFile(p("WH.file"), []byte("x"), 0o600),
		os.WriteFile(p("f"), []byte("x"), 0o600), unix.Lsetxattr(p("f"), "user.containers.override_stat", []byte("7:8:04711"), 0))
	raw, err := wholeOf(d)
	if err != nil {
		t.Fatal(err)
	}
	if got := listTar(t, raw); !strings.Contains(got, "0 WH.gone 0600") || !strings.Contains(got, `0 f 4711 "x"`) || strings.Contains(got, "WH.file") {
		t.Errorf("got\n%s", got)
	}
	if len(Problems(d)) != 1 {
		t.Errorf("problems: %v", Problems(d))
	}
}

// TestDirTarOfUser: in a user's own store that user is root; others are as the
// host has them.
func TestDirTarOfUser(t *testing.T) {
	needRoot(t)
	d, dir := dirLayer(t, false)
	d.owner = owner{1000, 1001}
	must(t, os.WriteFile(dir+"/own", nil, 0o600), os.Chown(dir+"/own", 1000, 1001), os.WriteFile(dir+"/other", nil, 0o600), os.Chown(dir+"/other", 100998, 1001))
	raw, err := wholeOf(d)
	must(t, err)
	got := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		got[h.Name] = fmt.Sprintf("%d:%d", h.Uid, h.Gid)
	}
	if got["own"] != "0:0" || got["other"] != "100998:0" {
		t.Errorf("owners %v", got)
	}
}

// TestDirTarIdentity: it is another when something below it has changed.
func TestDirTarIdentity(t *testing.T) {
	d, dir := dirLayer(t, false)
	must(t, os.MkdirAll(dir+"/a/b", 0o755), os.WriteFile(dir+"/a/b/f", []byte("one"), 0o600))
	again := func() string {
		t.Helper()
		other := newDirTar(&dirTar{store: d.store, name: d.name, opt: d.opt})
		defer other.Close()
		id, err := other.Identity()
		must(t, err)
		return id
	}
	first := again()
	if id := again(); id != first {
		t.Errorf("identity %s, then %s", first, id)
	}
	before, err := wholeOf(d)
	must(t, err)
	must(t, os.WriteFile(dir+"/a/b/f", []byte("two"), 0o600))
	if id := again(); id == first {
		t.Error("a file was written, and the identity is the same")
	}
	// The tar that was opened before knows that the file is another.
	d.pieces.open.Close()
	var u *UnreadableError
	if _, err := wholeOf(d); !errors.As(err, &u) {
		t.Errorf("%d bytes were read again: %v", len(before), err)
	}
}

// TestDirTarOverBase: of a driver that copies, what is as in the copy below is
// left out, and what is gone is marked.
func TestDirTarOverBase(t *testing.T) {
	d, dir := dirLayer(t, false)
	base := filepath.Join(filepath.Dir(dir), "base")
	for _, at := range []string{dir, base} {
		must(t, os.MkdirAll(at+"/d/e", 0o755), os.WriteFile(at+"/same", []byte("same"), 0o600), os.WriteFile(at+"/d/other", []byte("1"), 0o600))
		for _, name := range []string{"same", "d/other", "d/e", "d", ""} {
			must(t, os.Chtimes(filepath.Join(at, name), time.Unix(1, 0), time.Unix(1, 0)))
		}
	}
	must(t, os.WriteFile(base+"/gone", nil, 0o600), os.WriteFile(dir+"/d/other", []byte("2"), 0o600), os.WriteFile(dir+"/new", nil, 0o600))
	d.base = "base"
	raw, err := wholeOf(d)
	must(t, err)
	got := listTar(t, raw)
	for line, want := range map[string]bool{"0 WH.gone 0600": true, `0 d/other 0600 "2"`: true, "0 new 0600": true, "same": false, "d/e/": false} {
		if strings.Contains(got, line) != want {
			t.Errorf("%q is there: %v, want %v, in\n%s", line, !want, want, got)
		}
	}
}
