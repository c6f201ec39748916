// SPDX-License-Identifier: Apache-2.0

package unionfs

import (
	"io"
	"syscall"

	"github.com/imgfs/imgfs/index"
)

// ReadContent reads the content of the regular file n of a layer, whose
// uncompressed tar is r, at off into p. extents and sparse are what
// Table.Extents tells of n. Like io.ReaderAt it returns io.EOF with fewer than
// len(p) bytes at the end of the file.
func ReadContent(r io.ReaderAt, n *index.Node, extents index.Extents, sparse bool, p []byte, off int64) (int, error) {
	if !n.IsRegular() {
		return 0, syscall.EINVAL
	}
	if off < 0 || off >= n.Size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > n.Size-off {
		p, eof = p[:n.Size-off], io.EOF
	}
	if !sparse {
		if err := readFull(r, p, n.Data+off); err != nil {
			return 0, err
		}
		return len(p), eof
	}
	clear(p)
	end := off + int64(len(p))
	for i := extents.Find(off); i < extents.Len(); i++ {
		e := extents.At(i)
		if e.Off >= end {
			break
		}
		lo, hi := max(e.Off, off), min(e.Off+e.Len, end)
		if err := readFull(r, p[lo-off:hi-off], e.Data+lo-e.Off); err != nil {
			return 0, err
		}
	}
	return len(p), eof
}

// readFull fills p from r; fewer bytes are an error.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
