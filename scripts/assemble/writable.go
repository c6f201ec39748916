// SPDX-License-Identifier: Apache-2.0

package main

import "fmt"

// writable is an image to make changes over: srv/big, a file of 1 GiB;
// srv/tree, 16 000 files in 400 directories, of which the first 175 hold
// 7 000; srv/wide, a directory of 20 000 entries.
func writable() []step {
	const dirs, perDir, wide = 400, 40, 20_000
	return append([]step{
		{"ADD rootfs.tar /", func(l *layer) error {
			root(l)
			l.dir("srv")
			l.dir("srv/tree")
			for dir := range dirs {
				parent := fmt.Sprintf("srv/tree/%03d", dir)
				l.dir(parent)
				for file := range perDir {
					name := fmt.Sprintf("%s/module-%02d.c", parent, file)
					l.file(name, content(name, (dir*perDir+file)*613%16_384))
				}
			}
			return l.err
		}},
		{"COPY wide /srv", func(l *layer) error {
			l.dir("srv/wide")
			for i := range wide {
				l.file(fmt.Sprintf("srv/wide/entry-%05d", i), content(fmt.Sprint(i), i%64))
			}
			return l.err
		}},
		{"COPY big /srv", func(l *layer) error {
			const size, period = 1 << 30, 16 << 20
			big := content("big", period)
			for len(big) < size {
				big = append(big, big[:period]...)
			}
			l.file("srv/big", big)
			return l.err
		}},
	}, oddities()...)
}
