// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"fmt"
	"io"
	"strings"

	"github.com/imgfs/imgfs/index"
)

// WriteBodyfile writes m as a line of the bodyfile of The Sleuth Kit 3 and
// later, which mactime reads:
//
//	MD5|name|inode|mode_as_string|UID|GID|size|atime|mtime|ctime|crtime
//
// The MD5 is 0. The name has the layer, its diffID and the state behind it; a
// control character, a bar and a backslash in it are octal numbers. The inode
// is LAYER-OFFSET, of the header of the file in its layer's tar. mtime and atime are those
// of the file, crtime is when its layer was made, ctime when the layer was
// made that ended it, else as crtime.
func WriteBodyfile(w io.Writer, m *Moment) error {
	name := octal(m.RawPath(), bodyfileEscapes)
	if m.Target != "" {
		name += " -> " + octal(m.Target, bodyfileEscapes)
	}
	inode := "0"
	if m.Version != nil {
		name += fmt.Sprintf(" (layer %d %s, %s", m.Record.Layer, m.DiffID, m.Record.State)
		if m.How != "" {
			name += fmt.Sprintf(": %s by %d", m.How, *m.Record.By)
		}
		name += ")"
		inode = fmt.Sprintf("%d-%d", m.Entry.Layer, m.Entry.Header)
	}
	_, err := fmt.Fprintf(w, "0|%s|%s|%s|%d|%d|%d|%d|%d|%d|%d\n",
		name, inode, bodyMode(m.Entry.Mode), m.Record.UID, m.Record.GID, m.Record.Size,
		m.Entry.Mtime, m.Entry.Mtime, m.Changed, m.Born)
	return err
}

func bodyfileEscapes(c byte) bool { return c < 0x20 || c == 0x7f || c == '|' || c == '\\' }

// octal replaces the bytes for which is says so by a backslash and three octal
// digits.
func octal(s string, is func(byte) bool) string {
	var b strings.Builder
	for i := range len(s) {
		if is(s[i]) {
			fmt.Fprintf(&b, `\%03o`, s[i])
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// bodyMode returns a mode as fls writes it: r/rrwxr-xr-x.
func bodyMode(mode uint32) string {
	letter := byte('-')
	switch mode & index.ModeType {
	case index.ModeRegular:
		letter = 'r'
	case 0:
	default:
		letter = typeLetter(mode)
	}
	b := []byte{letter, '/', letter}
	for i := range 9 {
		if mode&(1<<(8-i)) != 0 {
			b = append(b, "rwxrwxrwx"[i])
		} else {
			b = append(b, '-')
		}
	}
	for i, bit := range []uint32{0o4000, 0o2000, 0o1000} {
		if mode&bit == 0 {
			continue
		}
		at, with := 3+2+3*i, "sst"[i]
		if b[at] == '-' {
			with -= 'a' - 'A'
		}
		b[at] = with
	}
	return string(b)
}
