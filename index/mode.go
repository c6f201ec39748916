// SPDX-License-Identifier: Apache-2.0

package index

// TypeName returns the word for the type in mode, as listings in JSON have it:
// "file", "directory", "symlink", "char", "block", "fifo" or "socket".
func TypeName(mode uint32) string {
	switch mode & ModeType {
	case ModeDir:
		return "directory"
	case ModeSymlink:
		return "symlink"
	case ModeChar:
		return "char"
	case ModeBlock:
		return "block"
	case ModeFIFO:
		return "fifo"
	case ModeSocket:
		return "socket"
	}
	return "file"
}
