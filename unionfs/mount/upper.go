// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"

	"github.com/imgfs/imgfs/cow"
)

// MountUpper serves u, writable, at dir and returns when the directory
// answers. u must stay open until Wait returns.
func MountUpper(dir string, u *cow.Upper, opt Options) (*Server, error) {
	return nil, errors.ErrUnsupported // being built
}
