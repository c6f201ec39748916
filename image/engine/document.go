// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"compress/flate"
	"encoding/json"
	"errors"
)

// Limits of what an engine's documents may say.
const (
	maxDocument = 64 << 20 // bytes of a list of images, layers or containers
	maxNames    = 1 << 20  // names in a directory of a store
	maxItems    = 1 << 18  // images and containers of a store
)

// unmarshal reads a document of an engine's own. Its lists grow with the
// store, so the limits of image.Unmarshal are not those of this.
func unmarshal(raw []byte, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return malformed("%w", err)
	}
	return nil
}

func isCorrupt(err error) bool {
	var c flate.CorruptInputError
	return errors.As(err, &c)
}

// isHex reports whether s is n hexadecimal digits in lower case, and so safe in
// a path.
func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// isID reports whether s is the id that an engine gives a layer or a container
// and so a single, plain component of a path.
func isID(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// validID returns an error if s is no id; what says of what.
func validID(what, s string) error {
	if !isID(s) {
		return malformed("%s %.100q: not an id", what, s)
	}
	return nil
}
