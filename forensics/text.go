// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/imgfs/imgfs/internal/term"
)

// MaxText is how large a file may be to be compared line by line, in bytes.
const MaxText = 4 << 20

// Unified returns what differs in the content of a regular file as a unified
// diff, the old one under a/ and the new one under b/: patch -p1 reads it.
// What is not text, or longer than MaxText, is told in a line. It is empty
// where neither side is a regular file.
func Unified(ctx context.Context, a, b *Stack, d *Difference) ([]byte, error) {
	isFile := func(e *Entry) bool { return e != nil && e.IsRegular() }
	if !isFile(d.A) && !isFile(d.B) || d.Change == Changed && d.What&(DiffContent|DiffType) == 0 {
		return nil, nil
	}
	oldName, newName := patchName("a/"+d.Path), patchName("b/"+d.Path)
	var texts [2][]byte
	for i, side := range []struct {
		s *Stack
		e *Entry
		n *string
	}{{a, d.A, &oldName}, {b, d.B, &newName}} {
		if !isFile(side.e) {
			*side.n = "/dev/null"
			continue
		}
		if side.e.Size > MaxText {
			return fmt.Appendf(nil, "Files %s and %s differ: one has over %d bytes\n", oldName, newName, MaxText), nil
		}
		text, err := readAll(ctx, side.s.Tree, side.e)
		if err != nil {
			err = side.s.passes(fmt.Errorf("%s: /%s: %w", side.s.Name, side.e.Path, err))
			return fmt.Appendf(nil, "Files %s and %s: one cannot be read\n", oldName, newName), err
		}
		if bytes.IndexByte(text, 0) >= 0 {
			return fmt.Appendf(nil, "Binary files %s and %s differ\n", oldName, newName), nil
		}
		texts[i] = text
	}
	out := diff.Diff(oldName, texts[0], newName, texts[1])
	if _, rest, ok := bytes.Cut(out, []byte("\n")); ok { // its own "diff old new"
		return rest, nil
	}
	return nil, nil
}

// patchName returns a name as it stands in a patch: in quotes and with octal
// escapes, as git writes it and patch reads it, if it is not one plain line.
func patchName(name string) string {
	if term.Escape(name) == name && !strings.ContainsAny(name, "\"\\") {
		return name
	}
	b := []byte{'"'}
	for i := range len(name) {
		switch c := name[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c >= 0x7f:
			b = fmt.Appendf(b, "\\%03o", c)
		default:
			b = append(b, c)
		}
	}
	return string(append(b, '"'))
}

// readAll returns the content of a file of bounded size.
func readAll(ctx context.Context, t Tree, e *Entry) ([]byte, error) {
	r, err := t.Open(e)
	if err != nil {
		return nil, err
	}
	if c, ok := r.(io.Closer); ok {
		defer c.Close() // it was only read
	}
	return io.ReadAll(&contextReader{ctx, Content(r, e)})
}
