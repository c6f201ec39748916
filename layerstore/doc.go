// SPDX-License-Identifier: Apache-2.0

// Package layerstore keeps blobs under their digests, what is derived from
// them, and the names of images, in one directory that any number of
// processes share:
//
//	imgfs.db, imgfs.lock      names and images; primary, never rebuilt
//	blobs/ALGORITHM/HEX       bytes as they were shipped; primary
//	index/layer/HEX           table of a layer, by diffID; derived
//	index/tree/HEX            merged table of a stack, by chainID; derived
//	index/seek/HEX            seek index of a blob, by digest; derived
//	index/sidecar/HEX         seekable copy of a blob that has no place to enter; derived
//	index/place/HEX.*         the same for files mounted in place, by their identity; derived
//	leases/                   claims of who uses an image, flocked by it
//	tmp/                      staging: what a load brings before it is whole
//	tmp/partial/              blobs on their way here, as far as they came
//
// A file gets its name only when it is complete and verified, by rename, and
// is never changed afterwards. The database is held only inside transactions
// of a few milliseconds, behind a blocking flock. What is removed, and what keeps
// it, stands in gc.go.
//
// The package does not know image archives, registries, trees over layers,
// nor FUSE.
package layerstore
