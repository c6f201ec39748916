// SPDX-License-Identifier: Apache-2.0

// Package cow is the upper: a writable file system over a tree that never
// changes. What differs from the tree is kept as data, in a directory of its
// own, and can be written out as a layer.
//
// Metadata is a delta: inodes, directory entries and xattrs that are not in
// it are as in the tree. It lies in three parts, asked in this order: the
// active delta in memory, a frozen one while it is being folded, and the
// checkpoint, a bbolt file. Each change is one frame of a journal, written
// before it is answered. File content is copied by block into one sparse file
// for each changed file.
//
// The package knows neither FUSE nor images.
//
// Lock order, outer first:
//
//	content.mu                content and size of one regular file
//	    content.fdMu          the descriptor of its data file
//	        Upper.mu          names, inodes, xattrs, maps of blocks
//	            content.mapMu
//	            journal       appends
//	            dataStore.mu  which descriptors are open
//
// No disk is waited for under Upper.mu but for the one write of a frame. A sync
// of the journal takes neither content.mu nor Upper.mu, so that it may be waited
// for under the former.
package cow
