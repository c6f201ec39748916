// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
)

// MtreeHeader begins a file of WriteMtree.
const MtreeHeader = "#mtree v2.0\n"

// WriteMtree writes m as a line of an mtree specification with whole paths, as
// NetBSD's mtree and bsdtar read it, by which "mtree -p DIR" checks a
// directory. What does not show is a comment, since one path has one line. The
// layer, its diffID and the state are tags.
func WriteMtree(w io.Writer, m *Moment) error {
	e := m.Entry
	line := "." + octal(m.RawPath(), mtreeEscapes)
	if m.RawPath() == "/" {
		line = "."
	}
	if e.Type() == 0 || m.Record.State != Live.String() {
		line = "# " + line
	}
	kind := map[uint32]string{
		index.ModeRegular: "file", index.ModeDir: "dir", index.ModeSymlink: "link", index.ModeChar: "char",
		index.ModeBlock: "block", index.ModeFIFO: "fifo", index.ModeSocket: "socket", 0: "hardlink",
	}[e.Type()]
	line += fmt.Sprintf(" type=%s uid=%d gid=%d mode=%04o", kind, e.UID, e.GID, e.Mode&0o7777)
	switch e.Type() {
	case index.ModeRegular:
		line += fmt.Sprintf(" size=%d", e.Size)
		if m.SHA256 != "" {
			line += " sha256=" + m.SHA256
		}
	case index.ModeSymlink, 0:
		line += " link=" + octal(rawTarget(m.Record), mtreeEscapes)
	case index.ModeChar, index.ModeBlock:
		line += fmt.Sprintf(" device=native,%d,%d", unix.Major(uint64(e.Rdev)), unix.Minor(uint64(e.Rdev)))
	}
	line += fmt.Sprintf(" time=%d.%09d", e.Mtime, e.MtimeNsec)
	if m.Version != nil {
		line += fmt.Sprintf(" tags=layer:%d,%s,%s", m.Record.Layer, m.DiffID, m.Record.State)
		if m.How != "" {
			line += fmt.Sprintf(",%s:%d", strings.ReplaceAll(m.How, " ", "-"), *m.Record.By)
		}
	}
	_, err := io.WriteString(w, line+"\n")
	return err
}

// mtreeEscapes says which bytes vis(3) writes in octal for mtree.
func mtreeEscapes(c byte) bool {
	return c <= ' ' || c >= 0x7f || strings.IndexByte(`\#*?[=`, c) >= 0
}

// rawTarget returns the target of a link as its bytes are.
func rawTarget(r *Record) string { return rawBytes(r.Target, r.TargetBase64) }

// WriteSums writes m as a line of sha256sum, if it is a regular file that
// shows; the file as seen from the root of the tree. What does not show is a
// comment, which sha256sum -c passes over.
func WriteSums(w io.Writer, m *Moment) error {
	if !m.Entry.IsRegular() {
		return nil
	}
	name, sign := strings.TrimPrefix(m.RawPath(), "/"), ""
	if strings.ContainsAny(name, "\\\n\r") {
		name, sign = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(name), `\`
	}
	switch {
	case m.SHA256 == "":
		sign = "# cannot be read: " + sign
	case m.Record.State != Live.String():
		sign = fmt.Sprintf("# %s layer %d %s: %s", m.Record.State, m.Record.Layer, m.DiffID, sign)
	}
	_, err := fmt.Fprintf(w, "%s%s  ./%s\n", sign, m.SHA256, name)
	return err
}
