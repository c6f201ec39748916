// SPDX-License-Identifier: Apache-2.0

package term

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Escape returns s with everything a terminal might obey or that cannot be
// seen written as a Go escape: control characters (newline and tab too, so
// that the result is one line), bytes that are not UTF-8, and invisible or
// direction-changing characters. A backslash stays one, so Escape is for
// people, not for machines; Quote is unambiguous.
func Escape(s string) string {
	if !needsEscape(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		size := utf8.RuneLen(r)
		if r == utf8.RuneError {
			_, size = utf8.DecodeRuneInString(s[i:])
		}
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsGraphic(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String()
}

func needsEscape(s string) bool {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return true
			}
		}
		if !unicode.IsGraphic(r) {
			return true
		}
	}
	return false
}

// Quote returns a file name as GNU ls writes it on a terminal (its quoting
// style shell-escape): as it is where a shell would read it so, else in
// single quotes, with $'\n' for what Escape would not let pass. A shell reads
// the result as the name.
func Quote(name string) string {
	if name == "" {
		return "''"
	}
	escape := needsEscape(name)
	if !escape && !needsQuote(name) {
		return name
	}
	if !escape && strings.Contains(name, "'") && !strings.ContainsFunc(name, notInDoubleQuotes) {
		return `"` + name + `"`
	}
	var b strings.Builder
	b.WriteByte('\'')
	inEscape := false
	for len(name) > 0 {
		r, size := utf8.DecodeRuneInString(name)
		char := name[:size]
		name = name[size:]
		switch {
		case r == utf8.RuneError && size == 1 || !unicode.IsGraphic(r):
			if !inEscape {
				b.WriteString("'$'")
				inEscape = true
			}
			for i := range len(char) {
				b.WriteString(escapeByte(char[i]))
			}
		case r == '\'':
			b.WriteString(`'\''`)
			inEscape = false
		default:
			if inEscape {
				b.WriteString("''")
				inEscape = false
			}
			b.WriteString(char)
		}
	}
	b.WriteByte('\'')
	return b.String()
}

// escapeByte returns c as it stands between $' and '.
func escapeByte(c byte) string {
	if i := strings.IndexByte("\a\b\t\n\v\f\r", c); i >= 0 {
		return `\` + "abtnvfr"[i:i+1]
	}
	return fmt.Sprintf(`\%03o`, c)
}

func needsQuote(name string) bool {
	if name[0] == '#' || name[0] == '~' || name == "{" || name == "}" {
		return true
	}
	return strings.ContainsAny(name, " !\"$&'()*;<=>?[\\^`|")
}

// notInDoubleQuotes reports whether r would mean something between double
// quotes, or ls thinks that it might.
func notInDoubleQuotes(r rune) bool {
	return strings.ContainsRune("!\"$&()*;<=>?[\\^`|", r)
}
