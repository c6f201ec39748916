// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"unicode"
	"unicode/utf8"
)

// oddName says what is odd about a name or a target; empty: nothing is.
func oddName(s string) (what string, level Level) {
	for i := 0; i < len(s); {
		r, n := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, n = utf8.DecodeRuneInString(s[i:])
		}
		i += n
		switch {
		case r == utf8.RuneError && n == 1:
			what = "bytes that are not UTF-8"
		case r == 0x1b || r == 0x9b:
			return "an escape sequence", Warning
		case unicode.IsControl(r):
			return "a control character", Warning
		case unicode.Is(unicode.Bidi_Control, r):
			return "a character that turns the direction of text", Warning
		case r == 0x200b || r == 0x2060 || r == 0xfeff:
			return "a character that cannot be seen", Warning
		}
	}
	return what, Info
}

// climbs reports whether the relative target of a symlink at path leads above
// the root by its names alone.
func climbs(path, target string) bool {
	depth := 0
	if target == "" || target[0] != '/' {
		for i := range len(path) {
			if path[i] == '/' {
				depth++
			}
		}
	}
	for len(target) > 0 {
		name := target
		target = ""
		for i := range len(name) {
			if name[i] == '/' {
				name, target = name[:i], name[i+1:]
				break
			}
		}
		switch name {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}
