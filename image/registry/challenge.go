// SPDX-License-Identifier: Apache-2.0

package registry

import "strings"

// A challenge is one way in which a server asks who there is.
type challenge struct {
	scheme string            // lower case: "basic", "bearer"
	params map[string]string // by name in lower case
}

// Limits of a challenge; what goes beyond is not looked at.
const (
	maxChallenge  = 16 << 10 // bytes of a header
	maxChallenges = 16
	maxParams     = 64
)

// parseChallenges reads the values of WWW-Authenticate headers, RFC 9110,
// section 11.6.1. A header may hold several challenges. Reading ends where a
// value breaks the grammar.
func parseChallenges(values []string) []challenge {
	var list []challenge
	for _, v := range values {
		if len(v) > maxChallenge {
			v = v[:maxChallenge]
		}
		list = appendChallenges(list, v)
		if len(list) >= maxChallenges {
			return list[:maxChallenges]
		}
	}
	return list
}

func appendChallenges(list []challenge, s string) []challenge {
	first := len(list)
	for {
		s = strings.TrimLeft(s, " \t,")
		name, rest := cutToken(s)
		if name == "" {
			return list
		}
		after := strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(after, "=") {
			list = append(list, challenge{strings.ToLower(name), map[string]string{}})
			s = rest
			continue
		}
		value, rest, ok := cutValue(strings.TrimLeft(after[1:], " \t"))
		if !ok || len(list) == first {
			return list
		}
		if params := list[len(list)-1].params; len(params) < maxParams {
			params[strings.ToLower(name)] = value
		}
		s = rest
	}
}

// cutToken cuts a token of RFC 9110, section 5.6.2, off the beginning of s.
func cutToken(s string) (token, rest string) {
	i := strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') &&
			!strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i:]
}

// cutValue cuts a token or a quoted string off the beginning of s.
func cutValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		value, rest = cutToken(s)
		return value, rest, value != ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			i++
			if i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}
