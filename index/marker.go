// SPDX-License-Identifier: Apache-2.0

package index

import "strings"

// The marks of the OCI image spec, layer.md, "Whiteouts". Nothing else in the
// project spells the prefix.
const (
	// WhiteoutPrefix begins the name of every mark.
	WhiteoutPrefix = ".wh."
	// OpaqueMarker is the name that makes its directory opaque.
	OpaqueMarker = WhiteoutPrefix + WhiteoutPrefix + ".opq"
)

type marker uint8

const (
	notMarker    marker = iota
	hidesName           // .wh.NAME
	hidesAll            // .wh..wh..opq
	hidesNothing        // .wh..wh.ANY: AUFS's own files
	badMarker           // .wh., .wh.., .wh...
)

// classify says what the base name of an entry marks, and for hidesName which
// name.
func classify(base string) (marker, string) {
	name, ok := strings.CutPrefix(base, WhiteoutPrefix)
	switch {
	case !ok:
		return notMarker, ""
	case base == OpaqueMarker:
		return hidesAll, ""
	case name == "" || name == "." || name == "..":
		return badMarker, ""
	case strings.HasPrefix(name, WhiteoutPrefix):
		return hidesNothing, ""
	}
	return hidesName, name
}
