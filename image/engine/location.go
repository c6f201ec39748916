// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/imgfs/imgfs/image"
)

// A Kind is whose store it is, as arguments spell it.
type Kind string

// The kinds.
const (
	Docker     Kind = "docker"
	Containerd Kind = "containerd"
	Storage    Kind = "containers-storage"
)

// Kinds are all there are.
var Kinds = []Kind{Docker, Containerd, Storage}

// A Location is a store and what is meant in it.
type Location struct {
	Kind Kind
	Root string // the store's directory; "" is where that engine has it by default
	Name string // of an image or a container; "" is the only one there
}

// String spells l as an argument.
func (l Location) String() string {
	s := string(l.Kind)
	for _, part := range []string{l.Root, l.Name} {
		if part != "" {
			s += ":" + part
		}
	}
	return s
}

// Parse reads KIND:ROOT[:NAME] or KIND:NAME. A root begins with /, ./ or ../
// and is the longest that is a directory; where none is, it ends at the first
// colon. ok tells that arg is of that form.
func Parse(arg string, isDir func(string) bool) (l Location, ok bool) {
	kind, rest, ok := cutKind(arg)
	if !ok {
		return l, false
	}
	l.Kind = kind
	if !isPath(rest) {
		l.Name = rest
		return l, true
	}
	n := rootLen(rest, isDir)
	if n == 0 {
		if n = strings.IndexByte(rest, ':'); n < 0 {
			n = len(rest)
		}
	}
	l.Root, l.Name = rest[:n], strings.TrimPrefix(rest[n:], ":")
	return l, true
}

// SplitPath splits KIND:ROOT[:NAME][:/path] before the path inside the image.
// A selector (#3, @upto=3) may stand behind root or name. ok tells that arg is
// of that form.
func SplitPath(arg string, isDir func(string) bool) (src, path string, ok bool) {
	kind, rest, ok := cutKind(arg)
	if !ok {
		return arg, "", false
	}
	n := 0
	if isPath(rest) {
		n = rootLen(rest, func(p string) bool { return isDir(p) || isDir(cutSelector(p)) })
		if n == 0 { // there is no such store: its first colon ends it
			n = strings.IndexByte(rest, ':')
			if n < 0 {
				return arg, "", true
			}
		}
	}
	n += len(kind) + 1
	if i := strings.Index(arg[n:], ":/"); i >= 0 {
		return arg[:n+i], arg[n+i+1:], true
	}
	return arg, "", true
}

// cutKind splits KIND: off. "docker://" names a registry.
func cutKind(arg string) (kind Kind, rest string, ok bool) {
	for _, k := range Kinds {
		if rest, ok := strings.CutPrefix(arg, string(k)+":"); ok && rest != "" && !strings.HasPrefix(rest, "//") {
			return k, rest, true
		}
	}
	return "", "", false
}

func isPath(s string) bool {
	return s == "." || s == ".." || strings.HasPrefix(s, "/") || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../")
}

// cutSelector cuts what chooses layers off.
func cutSelector(s string) string {
	for _, begin := range []string{"@upto=", "#"} {
		if i := strings.LastIndex(s, begin); i > 0 && !strings.Contains(s[i:], "/") {
			return s[:i]
		}
	}
	return s
}

// rootLen returns the length of the longest beginning of s that ends before a
// colon or with s and is a directory, 0 if none is.
func rootLen(s string, isDir func(string) bool) int {
	for i := len(s); i > 0; i = strings.LastIndexByte(s[:i], ':') {
		if isDir(s[:i]) {
			return i
		}
	}
	return 0
}

// DefaultRoot returns where an engine has its store when nobody says: for
// containers-storage that of the user who asks.
func DefaultRoot(k Kind) string {
	switch k {
	case Docker:
		return "/var/lib/docker"
	case Containerd:
		return "/var/lib/containerd"
	}
	if os.Geteuid() == 0 {
		return "/var/lib/containers/storage"
	}
	data := os.Getenv("XDG_DATA_HOME")
	if !filepath.IsAbs(data) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "/var/lib/containers/storage"
		}
		data = filepath.Join(home, ".local/share")
	}
	return filepath.Join(data, "containers/storage")
}

// malformed is an error about a store that is not what it must be.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", image.ErrMalformed, fmt.Errorf(format, args...))
}
