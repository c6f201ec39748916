// SPDX-License-Identifier: Apache-2.0

package imgfs

import "github.com/imgfs/imgfs/image/archive"

// ErrNotImage marks a file or directory that is no image at all, such as the
// tar of a root filesystem, which Import takes. It is an image.ErrMalformed
// too.
var ErrNotImage = archive.ErrNotImage
