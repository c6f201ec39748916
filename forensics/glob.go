// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// A Glob matches paths: "*" and "?" are anything but a slash, "**" is anything,
// "[a-z]" one of these. A pattern with a slash is of whole paths, from the
// root; one without is of any name on the path. What it matches, it matches
// with all that is below.
type Glob struct{ re *regexp.Regexp }

// ParseGlob reads a pattern.
func ParseGlob(pattern string) (*Glob, error) {
	if _, err := path.Match(strings.ReplaceAll(pattern, "**", "*"), ""); err != nil || pattern == "" {
		return nil, fmt.Errorf("%q: not a pattern", pattern)
	}
	var b strings.Builder
	b.WriteString(`(?s)^`)
	rest := strings.TrimPrefix(pattern, "/")
	if !strings.Contains(strings.TrimSuffix(pattern, "/"), "/") {
		b.WriteString(`(?:.*/)?`)
	}
	for rest = strings.TrimSuffix(rest, "/"); rest != ""; {
		n := 1
		switch {
		case strings.HasPrefix(rest, "**/"):
			b.WriteString(`(?:.*/)?`)
			n = 3
		case strings.HasPrefix(rest, "**"):
			b.WriteString(`.*`)
			n = 2
		case rest[0] == '*':
			b.WriteString(`[^/]*`)
		case rest[0] == '?':
			b.WriteString(`[^/]`)
		case rest[0] == '[':
			n = strings.IndexByte(rest[1:], ']') + 2 // path.Match found it
			b.WriteString(rest[:n])
		case rest[0] == '\\' && len(rest) > 1:
			b.WriteString(regexp.QuoteMeta(rest[1:2]))
			n = 2
		default:
			b.WriteString(regexp.QuoteMeta(rest[:1]))
		}
		rest = rest[n:]
	}
	b.WriteString(`(?:/.*)?$`)
	re, err := regexp.Compile(b.String())
	if err != nil {
		return nil, fmt.Errorf("%q: not a pattern", pattern)
	}
	return &Glob{re}, nil
}

// Matches reports whether the pattern matches a path without a slash before it.
func (g *Glob) Matches(path string) bool { return g.re.MatchString(path) }
