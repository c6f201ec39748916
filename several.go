// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"fmt"
	"strings"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
)

// A SeveralError says that a file holds several images where one was asked
// for. errors.Is knows it as image.ErrNotFound.
type SeveralError struct {
	Names  []string // of the images that have one, as docker prints them
	Images int      // how many there are
	Loaded bool     // they were loaded into the store
}

func (e *SeveralError) Error() string {
	const most = 8
	said := e.Names[:min(len(e.Names), most)]
	text := fmt.Sprintf("%d images are in it", e.Images)
	if len(said) > 0 {
		text += ": " + strings.Join(said, ", ")
	}
	if len(said) < len(e.Names) {
		text += ", ..."
	}
	return text
}

// Unwrap returns image.ErrNotFound.
func (e *SeveralError) Unwrap() error { return image.ErrNotFound }

// oneOf returns the only image of a file.
func oneOf(src *archive.Source) (*archive.Entry, error) {
	entries := src.Entries()
	if len(entries) == 1 {
		return &entries[0], nil
	}
	return nil, several(entries)
}

// several is the error about images of which one was asked for.
func several(entries []archive.Entry) error {
	err := &SeveralError{Images: len(entries)}
	for i := range entries {
		for _, n := range entries[i].Names {
			_, name := storedName(n)
			err.Names = append(err.Names, name)
		}
	}
	return err
}

// oneLoaded returns the only image that was loaded, perhaps by several names.
func oneLoaded(loaded []Loaded) (*Loaded, error) {
	several := &SeveralError{Loaded: true}
	seen := make(map[string]bool)
	for _, l := range loaded {
		seen[string(l.ID)] = true
		if l.Name != "" {
			several.Names = append(several.Names, l.Name)
		}
	}
	if several.Images = len(seen); several.Images != 1 {
		return nil, several
	}
	return &loaded[0], nil
}
