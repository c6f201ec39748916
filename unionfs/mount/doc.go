// SPDX-License-Identifier: Apache-2.0

// Package mount serves a tree to the kernel over FUSE. It is the only importer
// of go-fuse, and it uses its raw API: a FUSE NodeID is the tree's node
// number, so there is no table of inodes, nothing to forget, and nothing that
// grows with the files a mount has shown.
//
//	mount.go      Mount, Server: the life of a mount
//	option.go     -o options, to mount(2) and to fusermount3
//	attach.go     the two ways to the kernel: mount(2), fusermount3
//	refusal.go    why a mount is refused, and the cure that fits
//	readonly.go   requests that only a writable mount would take
//	tree.go       a read-only tree: names, attributes, content
//	dir.go        its directories
//	xattr.go      its extended attributes, and where a file came from
//	errno.go      errors and panics to errno: the one place
//
// A tree cannot change, so the kernel is told to keep everything for ever and
// asks each thing once: entries, absent names, attributes, symlinks,
// directories and pages.
//
// The package does not know images, layers' compression, the store, nor
// processes: a server lives in the process that called Mount.
package mount
