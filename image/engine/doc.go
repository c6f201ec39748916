// SPDX-License-Identifier: Apache-2.0

// Package engine reads the stores of other container engines where they lie:
// docker's, containerd's and containers-storage (podman, buildah, CRI-O). It
// takes no lock, asks no daemon and writes nothing there, so it works on a
// copy of a store on an evidence disk as on a living one.
//
// All is found from the one directory that the caller names: paths inside
// documents are not trusted, and no symlink below it is followed but inside of
// one unpacked layer.
//
// An image is given back as package archive gives one. What the engine keeps as
// it was shipped is read so. A layer that it keeps unpacked is the tar that it
// was: tar-split has the headers, the directory the content of files, and the
// diffID proves that nothing was changed. What a container has changed has no
// such proof: of it a tar is made, whose whiteouts are those of overlayfs.
//
// The package does not know imgfs's store, nor what is inside a layer.
package engine
