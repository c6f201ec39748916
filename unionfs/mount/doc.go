// SPDX-License-Identifier: Apache-2.0

// Package mount serves a tree, or an upper over one, to the kernel over FUSE.
// Its handlers are those of go-fuse's raw API, called by our own loop (devfuse): a
// FUSE NodeID is the tree's or the upper's node number, so there is no table of
// inodes, nothing to count, and nothing that grows with the files a mount has shown.
//
//	mount.go        Mount, Server: the life of a mount
//	option.go       -o options, to mount(2) and to fusermount3
//	attach.go       the two ways to the kernel: mount(2), fusermount3
//	refusal.go      why a mount is refused, and the cure that fits
//	errno.go        errors and panics to errno: the one place
//
//	tree.go         a read-only tree: names, attributes, content
//	dir.go          its directories
//	xattr.go        its extended attributes, and where a file came from
//	readonly.go     requests that only a writable mount would take
//	prefetch.go     content that is given before it is asked for
//	drop.go         content that answers otherwise than it did
//
//	upper.go        MountUpper; an upper: lookups, attributes
//	upper_dir.go    its names and directories
//	upper_xattr.go  its extended attributes
//	upper_file.go   open files: cached by the kernel, or passed through
//	passthrough.go  whether the kernel can pass files through
//	burst.go        who makes small files
//	mapped.go       files that were closed but are still mapped
//	recent.go       files that nobody says are open
//	forget.go       files without a name that the kernel holds no longer
//
// A tree cannot change, and an upper changes through us alone, so the kernel is
// told to keep everything for ever and asks each thing once: entries, absent
// names, attributes, symlinks, directories and pages; small files it is given
// before it asks, to who reads one after the other. What it cannot know is the
// time of a store to a file that is mapped past us.
//
// Lock order, outer first:
//
//	prefetcher.mu         tried only; the kernel may make its holder wait
//	mappedFiles.mu
//	    openFile.mu       held while a file is opened or closed
//	        fileTable.mu  handles, references; nothing is called under it
//
// The package does not know images, layers' compression, the store, nor
// processes: a server lives in the process that called Mount.
package mount
