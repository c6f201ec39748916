// SPDX-License-Identifier: Apache-2.0

package image

import "strings"

// SplitCanonical splits a name that Reference.String returned, as docker prints
// it: the repository (alpine) and the tag. ok is false for anything else, and
// also for names with a digest and other rare ones, which ParseReference reads:
// this is for listings, where its regular expressions take most of the time.
func SplitCanonical(name string) (repository, tag string, ok bool) {
	const hub = "docker.io/"
	colon := strings.LastIndexByte(name, ':')
	if colon < 0 || len(name) > 255 || !isPlainTag(name[colon+1:]) {
		return "", "", false
	}
	repository, tag = name[:colon], name[colon+1:]
	domain, path, _ := strings.Cut(repository, "/")
	if !strings.Contains(domain, ".") || !isPlainPath(domain) || !isPlainPath(path) {
		return "", "", false
	}
	if domain+"/" == hub {
		repository = path
		if short, found := strings.CutPrefix(path, "library/"); found && !strings.Contains(short, "/") {
			repository = short
		}
	}
	return repository, tag, true
}

// isPlainTag reports whether a tag is one by the grammar.
func isPlainTag(tag string) bool {
	for i := 0; i < len(tag); i++ {
		if c := tag[i]; !isLower(c) && (c < 'A' || c > 'Z') && c != '_' && (i == 0 || c != '.' && c != '-') {
			return false
		}
	}
	return tag != "" && len(tag) <= 128
}

// isPlainPath reports whether a path has only components of lower-case letters
// and digits with single dots, dashes and underscores between them.
func isPlainPath(path string) bool {
	separator := true // before the first
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case isLower(c):
			separator = false
		case separator || c != '.' && c != '-' && c != '_' && c != '/':
			return false
		default:
			separator = true
		}
	}
	return !separator
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
