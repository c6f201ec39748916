// SPDX-License-Identifier: Apache-2.0

package image

import "strings"

// SplitPath splits an argument of the command line, SOURCE[:/path], into the
// source and the path inside the image; path is "" if none is given and
// otherwise begins with a slash. A source is a reference, a file or a
// directory: "alpine:3:/usr", "host:5000/x:/usr", "./file.tar:/usr",
// "/srv/layout:/usr/share".
//
// Every ":/" after which no second slash follows a scheme ("https://…") may
// be the place to split. The rule, first match taken:
//
//  1. if the whole argument exists on disk, it is the source;
//  2. the last ":/" before which stands something that exists on disk;
//  3. the first ":/": no reference contains one, so a path inside the image
//     may ("alpine:/srv/a:/b" is /srv/a:/b in alpine).
//
// exists answers for the disk; a nil exists means that nothing does.
func SplitPath(arg string, exists func(string) bool) (src, path string) {
	if exists == nil {
		exists = func(string) bool { return false }
	}
	start := schemeLen(arg)
	first := strings.Index(arg[start:], ":/")
	if first < 0 || exists(arg) {
		return arg, ""
	}
	first += start
	for i := len(arg); ; {
		i = strings.LastIndex(arg[start:i], ":/")
		if i < 0 {
			return arg[:first], arg[first+1:]
		}
		i += start
		if exists(arg[:i]) {
			return arg[:i], arg[i+1:]
		}
	}
}

// schemeLen returns the length of a leading "scheme://", 0 if there is none.
func schemeLen(s string) int {
	i := strings.Index(s, "://")
	if i <= 0 {
		return 0
	}
	for j, c := range []byte(s[:i]) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		other := '0' <= c && c <= '9' || c == '+' || c == '-' || c == '.'
		if !letter && (j == 0 || !other) {
			return 0
		}
	}
	return i + len("://")
}
