// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"github.com/imgfs/imgfs/image/archive"
	"github.com/imgfs/imgfs/layerstore"
)

// ErrNotImage marks a file or directory that is no image at all, such as the
// tar of a root filesystem, which Import takes. It is an image.ErrMalformed
// too.
var ErrNotImage = archive.ErrNotImage

// ErrArtifact marks a manifest that describes no filesystem: a chart, a
// signature. It is an image.ErrMalformed too.
var ErrArtifact = archive.ErrArtifact

// What is wrong with a store.
var (
	// ErrDamaged marks a store whose database is not what was written.
	ErrDamaged = layerstore.ErrDamaged

	// ErrDigest marks a blob that is not what its digest names.
	ErrDigest = layerstore.ErrDigest

	// ErrNoBlob marks a blob that an image of the store needs and that is lost.
	ErrNoBlob = layerstore.ErrNoBlob
)
