// SPDX-License-Identifier: Apache-2.0

// Package archive reads image tars and OCI layouts where they lie, and writes
// them. To read, nothing is copied and nothing unpacked: a blob is a section of
// the tar, or a file of the layout.
//
// It reads what docker save writes (with manifest.json; with an OCI layout
// beside it since engine 25; with neither before engine 1.10), what podman,
// skopeo, crane, kaniko and BuildKit write, OCI archives, and OCI layout
// directories. The small documents (manifests, indexes, configs) are read,
// checked against digest and size, and parsed at Open; layers are left to
// whoever reads them.
//
// WriteTar and WriteDir write the same Entries that a Source has, with every
// blob bit for bit, verified on the way.
//
// Files come from strangers. A name is looked up in the archive's own table
// or under an os.Root, never on the host; links are followed inside the
// archive, 40 at most; every count and size has a limit, and the error names
// it.
//
// The package does not know the store, nor what is inside a layer.
package archive
