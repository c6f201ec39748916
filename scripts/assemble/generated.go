// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"fmt"
	"strings"
	"time"
)

// capNetRaw is security.capability of cap_net_raw+ep (version 2), as ping has.
const capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// kinds adds a directory srv/kinds that holds every type of entry and every
// attribute that a layer can carry. Every shape begins with it.
func kinds(l *layer) {
	const d = "srv/kinds/"
	l.dir("srv")
	l.dir(d, mode(0o1777), mtime(time.Unix(1_700_000_000, 123_456_789)))
	l.file(d+"plain", []byte("plain\n"), owner(1000, 100))
	l.file(d+"empty", nil)
	l.file(d+"setuid", []byte("#!/bin/sh\n"), mode(0o4755))
	l.file(d+"setgid", []byte("#!/bin/sh\n"), mode(0o2755), owner(0, 42))
	l.file(d+"secret", []byte("for root alone\n"), mode(0o600))
	l.file(d+"capable", []byte("\x7fELF, says it\n"), mode(0o755), xattr("security.capability", capNetRaw))
	l.file(d+"attributes", []byte("with xattrs\n"), xattr("user.colour", "blue"), xattr("user.empty", ""),
		xattr("user.binary", "\x01\x02\xff"), xattr("user.long", strings.Repeat("x", 1000)))
	l.dir(d+"attributed-directory", xattr("user.colour", "green"))
	l.file(d+"before-1970", nil, mtime(time.Unix(-86_400, 5)))
	l.file(d+"far-ahead", nil, mtime(time.Unix(9_999_999_999, 999_999_999)))
	l.file(d+"big-owner", nil, owner(4_000_000_000, 3_000_000_000), func(h *tar.Header) { h.Format = tar.FormatPAX })
	l.file(d+"one-block", content("one-block", 512))
	l.file(d+"several-chunks", content("several-chunks", 5<<20))
	l.file(d+"zeros", make([]byte, 3<<20))

	l.link(d+"hard-1", d+"plain")
	l.link(d+"hard-2", d+"hard-1")
	l.dir(d + "other")
	l.link(d+"other/hard-3", d+"plain")
	l.symlink(d+"absolute", "/srv/kinds/plain")
	l.symlink(d+"relative", "other/../plain")
	l.symlink(d+"dangling", "nowhere", owner(1000, 1000))
	l.symlink(d+"loop", "loop")
	l.symlink(d+"long-target", strings.Repeat("a/", 1000)+"b")
	l.link(d+"hard-to-symlink", d+"relative")

	l.device(d+"char", tar.TypeChar, 1, 3, mode(0o666))
	l.device(d+"char-0-0", tar.TypeChar, 0, 0)
	l.device(d+"block", tar.TypeBlock, 259, 70_000, func(h *tar.Header) { h.Format = tar.FormatGNU })
	l.device(d+"fifo", tar.TypeFifo, 0, 0, mode(0o644))

	l.sparse(d+"sparse", 10<<20, span{0, content("s1", 4096)}, span{5 << 20, content("s2", 8192)}, span{10 << 20, nil})
	l.sparse(d+"all-hole", 1<<20, span{1 << 20, nil})

	l.file(d+strings.Repeat("n", 255), []byte("a name of 255 bytes\n"))
	deepDir := d + strings.Repeat("deep/", 150)
	l.file(deepDir+"bottom", []byte("a path of many parts, its directories only implied\n"))
	l.file(d+"New\nline \x1b[31mred\x1b[0m", []byte("escape me when printed\n"))
	l.file(d+"latin1-\xe9", []byte("not UTF-8\n"), func(h *tar.Header) { h.Format = tar.FormatGNU })
	l.file(d+"grün-日本語", []byte("UTF-8\n"))
	l.file(d+"Case", []byte("upper\n"))
	l.file(d+"case", []byte("lower\n"))
	l.file(d+"..dots..", []byte("an ordinary name\n"))
}

// history adds a directory srv/history, after kinds, as the first of two layers leave it;
// rewrite is the second. What each name shows in the end is said by its name.
func history(l *layer) {
	const d = "srv/history/"
	l.dir(d)
	l.file(d+"unchanged", []byte("old\n"))
	l.file(d+"replaced", []byte("old\n"), xattr("user.age", "old"))
	l.file(d+"gone", []byte("old\n"))
	l.dir(d + "gone-with-all")
	l.file(d+"gone-with-all/a", []byte("old\n"))
	l.dir(d+"opaque", mode(0o700))
	l.file(d+"opaque/gone", []byte("old\n"))
	l.dir(d + "opaque/gone-too")
	l.file(d+"opaque/gone-too/a", []byte("old\n"))
	l.dir(d + "merged")
	l.file(d+"merged/old", []byte("old\n"))
	l.dir(d + "now-a-file")
	l.file(d+"now-a-file/gone", []byte("old\n"))
	l.file(d+"now-a-directory", []byte("old\n"))
	l.symlink(d+"link-now-a-directory", "merged")
	l.file(d+"three-names-1", []byte("shared\n"))
	l.link(d+"three-names-2", d+"three-names-1")
	l.link(d+"three-names-3", d+"three-names-1")
	l.file(d+"now-setuid", []byte("old\n"))
	l.dir(d+"removed-and-made-again", mode(0o700))
	l.file(d+"removed-and-made-again/gone", []byte("old\n"))
}

func rewrite(l *layer) {
	const d = "srv/history/"
	l.dir(d, mode(0o750))
	l.file(d+"replaced", []byte("new\n"), xattr("user.youth", "new"))
	l.remove(d + "gone")
	l.remove(d + "gone-with-all")
	l.hideBelow(d + "opaque")
	l.file(d+"opaque/new", []byte("new\n"))
	l.file(d+"merged/new", []byte("new\n"))
	l.file(d+"now-a-file", []byte("new\n"))
	l.dir(d + "now-a-directory")
	l.file(d+"now-a-directory/new", []byte("new\n"))
	l.dir(d + "link-now-a-directory")
	l.file(d+"link-now-a-directory/new", []byte("new\n"))
	l.remove(d + "three-names-2")
	l.file(d+"three-names-3", []byte("new\n"))
	l.file(d+"now-setuid", []byte("old\n"), mode(0o4755))
	l.remove(d + "removed-and-made-again")
	l.dir(d + "removed-and-made-again")
	l.file(d+"removed-and-made-again/new", []byte("new\n"))
}

// root adds what every generated image has at its top.
func root(l *layer) {
	l.dir("./")
	for _, d := range []string{"bin", "dev", "etc", "usr", "usr/share", "var"} {
		l.dir(d)
	}
	l.dir("tmp", mode(0o1777))
	l.dir("root", mode(0o700))
	l.file("etc/os-release", []byte("ID=imgfs-test\nPRETTY_NAME=\"a generated test image\"\n"))
}

// oddities are the two layers that every shape has besides its own.
func oddities() []step {
	return []step{
		{"COPY kinds history /srv", func(l *layer) error { kinds(l); history(l); return nil }},
		{"RUN rewrite /srv/history", func(l *layer) error { rewrite(l); return nil }},
	}
}

// tiny is four layers with some 300 entries.
func tiny() []step {
	return append([]step{
		{"ADD rootfs.tar /", func(l *layer) error {
			root(l)
			for i := range 200 {
				name := fmt.Sprintf("usr/share/tiny/%02d/%d.txt", i%10, i)
				l.file(name, content(name, i*40))
			}
			return nil
		}},
	}, append(oddities(), step{"RUN rm -r /usr/share/tiny/03", func(l *layer) error {
		l.remove("usr/share/tiny/03")
		return nil
	}})...)
}

// deep is 120 layers over 12 000 files. Each layer changes some files, removes
// some and adds some; every tenth empties a directory by an opaque marker.
func deep() []step {
	const dirs, perDir, layers = 120, 100, 120
	name := func(dir, file int) string { return fmt.Sprintf("usr/share/deep/%03d/file-%04d", dir, file) }
	steps := append([]step{{"ADD rootfs.tar /", func(l *layer) error {
		root(l)
		l.dir("usr/share/deep")
		for dir := range dirs {
			l.dir(fmt.Sprintf("usr/share/deep/%03d", dir))
			for file := range perDir {
				l.file(name(dir, file), content(name(dir, file), 200+file*30))
			}
		}
		return nil
	}}}, oddities()...)
	for n := len(steps); n < layers; n++ {
		steps = append(steps, step{fmt.Sprintf("RUN step %d", n), func(l *layer) error {
			for i := range 40 {
				l.file(name((n*7+i)%dirs, i), content(fmt.Sprint(n, i), 1000+i*50))
				l.file(fmt.Sprintf("usr/share/deep/%03d/new-in-%03d-%02d", n%dirs, n, i), content(fmt.Sprint("new", n, i), 2000))
			}
			for i := range 5 {
				l.remove(name((n*11)%dirs, 60+(n+i)%40))
			}
			if n%10 == 0 {
				d := fmt.Sprintf("usr/share/deep/%03d", (n+60)%dirs)
				l.dir(d, mode(0o711))
				l.hideBelow(d)
				l.file(d+"/alone", []byte("the rest is gone\n"))
			}
			return nil
		}})
	}
	return steps
}

// many is 500 000 files and more: 480 directories of 1 000, one of 20 000.
func many() []step {
	const dirs, perDir, big = 480, 1000, 20_000
	fill := func(lo, hi int) func(*layer) error {
		return func(l *layer) error {
			l.dir("usr/share/many")
			for dir := lo; dir < hi; dir++ {
				parent := fmt.Sprintf("usr/share/many/%02d/%03d", dir/20, dir)
				if dir%20 == 0 {
					l.dir(fmt.Sprintf("usr/share/many/%02d", dir/20))
				}
				l.dir(parent)
				for file := range perDir {
					name := fmt.Sprintf("%s/module-%d.d%d", parent, file, dir)
					l.file(name, content(name, file%400), mtime(epoch.Add(time.Duration(dir*perDir+file)*time.Second)))
				}
			}
			return l.err
		}
	}
	steps := []step{{"ADD rootfs.tar /", func(l *layer) error {
		root(l)
		l.dir("usr/share/big")
		for i := range big {
			l.file(fmt.Sprintf("usr/share/big/entry-%05d", i), content(fmt.Sprint(i), i%64))
		}
		return l.err
	}}}
	for lo := 0; lo < dirs; lo += dirs / 4 {
		steps = append(steps, step{fmt.Sprintf("COPY many/%d /usr/share/many", lo), fill(lo, lo+dirs/4)})
	}
	return append(steps, oddities()...)
}
