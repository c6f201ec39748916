// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const dpkgStatus = "var/lib/dpkg/status"

// base is a Debian root filesystem, then the oddities, then a layer that
// removes documentation as image builders do.
func base(rootTar string) ([]step, error) {
	doc, err := docDirs(rootTar)
	if err != nil {
		return nil, err
	}
	first := step{"ADD debian.tar /", func(l *layer) error { return copyTar(l, rootTar) }}
	last := step{"RUN rm -r some of /usr/share/doc", func(l *layer) error {
		for i, d := range doc {
			switch i % 4 {
			case 0:
				l.remove(d)
			case 1:
				l.dir(d)
				l.hideBelow(d)
				l.file(d+"/README", []byte("removed\n"))
			}
		}
		return l.err
	}}
	return append([]step{first}, append(oddities(), last)...), nil
}

// app is base with a layer for each directory of packages, and one of
// generated files with a big one among them.
func app(rootTar, packages string) ([]step, error) {
	steps, err := base(rootTar)
	if err != nil {
		return nil, err
	}
	status, err := readFromTar(rootTar, dpkgStatus)
	if err != nil {
		return nil, err
	}
	layers, err := os.ReadDir(packages)
	if err != nil {
		return nil, err
	}
	for _, entry := range layers {
		debs, err := filepath.Glob(filepath.Join(packages, entry.Name(), "*.deb"))
		if err != nil {
			return nil, err
		}
		slices.Sort(debs)
		if status, err = installed(status, debs); err != nil {
			return nil, err
		}
		_, name, _ := strings.Cut(entry.Name(), "-")
		now := status
		steps = append(steps, step{"RUN apt-get install -y " + name, func(l *layer) error {
			return installLayer(l, debs, now)
		}})
	}
	return append(steps, step{"COPY app /srv/app", func(l *layer) error {
		l.dir("srv/app")
		for i := range 4000 {
			name := fmt.Sprintf("srv/app/lib/%02d/module-%d.py", i%40, i)
			l.file(name, content(name, 500+i))
		}
		l.file("srv/app/model.bin", content("model", 96<<20), owner(1000, 1000))
		return l.err
	}}), nil
}

// copyTar copies the entries of a plain tar, without sockets' leavings and with
// clean names.
func copyTar(l *layer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return copyEntries(l, f, func(h *tar.Header) bool { return true })
}

// copyEntries copies those entries of a tar that keep says yes to.
func copyEntries(l *layer, r io.Reader, keep func(*tar.Header) bool) error {
	tr := tar.NewReader(r)
	for l.err == nil {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		h.Name = strings.TrimPrefix(h.Name, "./")
		if h.Typeflag == tar.TypeLink {
			h.Linkname = strings.TrimPrefix(h.Linkname, "./")
		}
		if h.Name == "" {
			h.Name = "./"
		}
		if !keep(h) {
			continue
		}
		h.Format = tar.FormatUnknown
		if l.err = l.tw.WriteHeader(h); l.err == nil {
			_, l.err = io.Copy(l.tw, tr)
		}
	}
	return l.err
}

// docDirs returns the directories of usr/share/doc, sorted.
func docDirs(rootTar string) ([]string, error) {
	var dirs []string
	err := eachHeader(rootTar, func(h *tar.Header, _ io.Reader) error {
		if name := path.Clean(h.Name); h.Typeflag == tar.TypeDir && path.Dir(name) == "usr/share/doc" {
			dirs = append(dirs, name)
		}
		return nil
	})
	slices.Sort(dirs)
	return dirs, err
}

func readFromTar(name, want string) ([]byte, error) {
	var b []byte
	err := eachHeader(name, func(h *tar.Header, r io.Reader) (err error) {
		if path.Clean(h.Name) == want {
			b, err = io.ReadAll(r)
		}
		return err
	})
	if err == nil && b == nil {
		err = fmt.Errorf("%s: no %s in it", name, want)
	}
	return b, err
}

func eachHeader(name string, do func(*tar.Header, io.Reader) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := do(h, tr); err != nil {
			return err
		}
	}
}

// installed returns the dpkg database after the installation of debs.
func installed(status []byte, debs []string) ([]byte, error) {
	out := bytes.NewBuffer(append(bytes.TrimRight(slices.Clone(status), "\n"), "\n\n"...))
	for _, deb := range debs {
		fields, err := exec.Command("dpkg-deb", "-f", deb).Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", deb, err)
		}
		first, rest, _ := bytes.Cut(fields, []byte("\n"))
		fmt.Fprintf(out, "%s\nStatus: install ok installed\n%s\n\n", first, bytes.TrimRight(rest, "\n"))
	}
	return out.Bytes(), nil
}

// installLayer writes the files of several packages as their unpacking would
// leave them on a Debian with merged /usr, each directory once.
func installLayer(l *layer, debs []string, status []byte) error {
	seen := map[string]bool{"./": true}
	for _, deb := range debs {
		if err := installDeb(l, deb, seen); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(deb), err)
		}
	}
	l.file(dpkgStatus, status)
	return l.err
}

func installDeb(l *layer, deb string, seen map[string]bool) (err error) {
	cmd := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_, drain := io.Copy(io.Discard, out)
		err = errors.Join(err, drain, cmd.Wait())
	}()
	return copyEntries(l, out, func(h *tar.Header) bool {
		h.Name = mergeUsr(h.Name)
		if h.Typeflag == tar.TypeLink {
			h.Linkname = mergeUsr(h.Linkname)
		}
		if seen[h.Name] {
			return false
		}
		seen[h.Name] = true
		return true
	})
}

// mergeUsr moves bin, sbin and lib* of the root to usr, where the base's
// symlinks point.
func mergeUsr(name string) string {
	first, _, _ := strings.Cut(name, "/")
	if first == "bin" || first == "sbin" || strings.HasPrefix(first, "lib") {
		return "usr/" + name
	}
	return name
}
