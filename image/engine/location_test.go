// SPDX-License-Identifier: Apache-2.0

package engine

import "testing"

func TestParse(t *testing.T) {
	dirs := map[string]bool{"/s": true, "/s:x": true, "./d": true, "/e#1": true}
	isDir := func(p string) bool { return dirs[p] }
	for _, tt := range []struct {
		name, arg string
		want      Location
		path      string // as SplitPath has it
		ok        bool
	}{
		{"a store alone", "docker:/s", Location{Docker, "/s", ""}, "", true},
		{"a store and a name", "docker:/s:alpine:3", Location{Docker, "/s", "alpine:3"}, "", true},
		{"the longest that is a directory", "containerd:/s:x:web", Location{Containerd, "/s:x", "web"}, "", true},
		{"a relative store", "containers-storage:./d:web", Location{Storage, "./d", "web"}, "", true},
		{"where that engine has it", "docker:alpine:3", Location{Docker, "", "alpine:3"}, "", true},
		{"a registry with a port", "docker:localhost:5000/x:1", Location{Docker, "", "localhost:5000/x:1"}, "", true},
		{"a digest", "docker:/s:x@sha256:00", Location{Docker, "/s", "x@sha256:00"}, "", true},
		{"a path inside", "docker:/s:web:/etc/passwd", Location{Docker, "/s", "web"}, "/etc/passwd", true},
		{"a path in the only image", "docker:/s:/etc", Location{Docker, "/s", ""}, "/etc", true},
		{"a path in one by default", "docker:web:/etc:/x", Location{Docker, "", "web"}, "/etc:/x", true},
		{"no such directory", "docker:/none:web:/etc", Location{Docker, "/none", "web"}, "/etc", true},
		{"a registry", "docker://alpine", Location{}, "", false},
		{"no store", "docker:", Location{}, "", false},
		{"another kind", "oci:/s", Location{}, "", false},
		{"a name", "alpine:3", Location{}, "", false},
	} {
		src, path, ok := SplitPath(tt.arg, isDir)
		if ok != tt.ok || path != tt.path {
			t.Errorf("%s: SplitPath(%q) = %q, %q, %v", tt.name, tt.arg, src, path, ok)
		}
		l, ok := Parse(src, isDir)
		if l != tt.want || ok != tt.ok {
			t.Errorf("%s: Parse(%q)\n got %+v, %v\nwant %+v, %v", tt.name, src, l, ok, tt.want, tt.ok)
		}
		if ok && l.String() != src {
			t.Errorf("%s: String() = %q, want %q", tt.name, l.String(), src)
		}
	}
}

// TestSplitPathWithSelectors: what chooses layers stands between the store and
// the path, also right behind the store.
func TestSplitPathWithSelectors(t *testing.T) {
	isDir := func(p string) bool { return p == "/s" || p == "/e#1" }
	for _, tt := range []struct{ arg, src, path string }{
		{"docker:/s#3:/etc", "docker:/s#3", "/etc"},
		{"docker:/s@upto=3:/etc", "docker:/s@upto=3", "/etc"},
		{"docker:/s:web#3:/etc", "docker:/s:web#3", "/etc"},
		{"docker:/e#1:web:/etc", "docker:/e#1:web", "/etc"},
	} {
		src, path, ok := SplitPath(tt.arg, isDir)
		if src != tt.src || path != tt.path || !ok {
			t.Errorf("SplitPath(%q) = %q, %q, %v", tt.arg, src, path, ok)
		}
	}
}
