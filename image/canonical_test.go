// SPDX-License-Identifier: Apache-2.0

package image

import "testing"

// What SplitCanonical accepts it reads as ParseReference does.
func FuzzSplitCanonical(f *testing.F) {
	for _, s := range []string{
		"docker.io/library/alpine:latest", "docker.io/library/a/b:1", "docker.io/x/y:V_1.2-3", "quay.io/a/b:x",
		"localhost:5000/x:1", "example.com:5000/x/y:edge", "docker.io/a--b:1", "x", "", "a.b/c:", "docker.io/a@sha256:1", "a.b:1",
		"docker.io/library/0123456789012345678901234567890123456789012345678901234567890123:a",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		repository, tag, ok := SplitCanonical(s)
		if !ok {
			return
		}
		r, err := ParseReference(s)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if r.String() == s && (repository != r.FamiliarName() || tag != r.Tag()) {
			t.Errorf("%q: got %q %q, want %q %q", s, repository, tag, r.FamiliarName(), r.Tag())
		}
	})
}

func TestSplitCanonical(t *testing.T) {
	for name, want := range map[string][2]string{
		"docker.io/library/alpine:latest": {"alpine", "latest"},
		"docker.io/many/img1:v1":          {"many/img1", "v1"},
		"quay.io/a/b:X_1":                 {"quay.io/a/b", "X_1"},
	} {
		if repository, tag, ok := SplitCanonical(name); !ok || repository != want[0] || tag != want[1] {
			t.Errorf("%s: got %q %q %v", name, repository, tag, ok)
		}
	}
}
