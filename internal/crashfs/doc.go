// SPDX-License-Identifier: Apache-2.0

// Package crashfs is a disk whose power can be cut, for tests alone: a FUSE
// loopback over a real directory that records every change and every sync in
// order, and a generator of the directories that a disk may leave when power
// is lost between any two of them.
//
// # Recording
//
// Mount starts the loopback in a process of its own, since what is under test
// maps files of it, and a process must not serve what it maps. That process is
// the test's own binary:
//
//	func TestMain(m *testing.M) {
//		if crashfs.IsServer() {
//			os.Exit(crashfs.Serve())
//		}
//		os.Exit(m.Run())
//	}
//
// A record is in the log before the call is answered, so FS.Pos after a call
// is a cut that has it. Changes are applied one at a time; a sync covers what
// was answered before it began, not before it ended. Writes come in pieces of
// at most 1 MiB.
//
// syncfs(2) and sync(2) never reach a FUSE server (the kernel sends SYNCFS
// only for virtiofs and fuseblk): what is under test has to call FS.SyncFS in
// their place. mmap is for reading only: stores to a map would come too late.
//
// # What a loss of power leaves
//
// The rules are those of ext4 with delayed allocation and an ordered journal
// of metadata, and where file systems differ, the worse of them:
//
//   - Names survive as a prefix of all changes of names, in order. A sync of a
//     file makes durable what led to its last change of metadata: for
//     fdatasync its creation, size and blocks, for fsync also its links, mode
//     and times. A sync of a directory does so for the last change in it. A
//     sync of something that has not changed makes no names durable.
//   - Of a file's data, what a sync covered is there. Of the rest each block
//     of 512 or 4096 bytes has, on its own, any content it had since.
//   - Sizes, truncates, punched holes survive as a prefix in order, on their
//     own for each file: a file may have its new size and zeros for its data.
//     What was cut off or punched never comes back behind that.
//   - mode, owner, xattrs and times are a prefix of their own, which fdatasync
//     does not move.
//   - After a failed sync the kernel takes the pages for clean: what it should
//     have written may or may not be there for ever, whatever later syncs say.
//
// It knows nothing of imgfs.
package crashfs
