// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"

	"github.com/imgfs/imgfs/image"
)

// A transfer is what pull and push are told by flags alike.
type transfer struct {
	platform                     string
	allTags, allPlatforms, quiet bool
}

// reference returns what name names, and finds fault with it and the flags
// before anything is done.
func (t *transfer) reference(name string) (image.Reference, error) {
	if err := checkPlatform(t.platform); err != nil {
		return image.Reference{}, err
	}
	ref, err := image.ParseReference(name)
	if err != nil {
		return ref, &usageError{err}
	}
	if t.allTags && namesTag(name) {
		return ref, usagef("--all-tags takes a name without a tag")
	}
	return ref, nil
}

// namesTag reports whether a name says a tag or a digest itself.
func namesTag(name string) bool {
	rest := name[strings.LastIndexByte(name, '/')+1:]
	return strings.ContainsAny(rest, ":@")
}
