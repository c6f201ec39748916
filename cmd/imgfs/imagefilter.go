// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
)

// filterImages returns the images that filters are true of. Those of one kind
// mean any of them, as docker has it, but labels and times all of them.
func filterImages(images []imgfs.ImageSummary, filters []filter, now time.Time) ([]imgfs.ImageSummary, error) {
	var all []func(*imgfs.ImageSummary) bool
	any := map[string][]func(*imgfs.ImageSummary) bool{}
	for _, f := range filters {
		test, err := f.test(images, now)
		if err != nil {
			return nil, err
		}
		switch f.key {
		case "dangling", "reference":
			any[f.key] = append(any[f.key], test)
		default:
			all = append(all, test)
		}
	}
	for _, tests := range any {
		all = append(all, func(i *imgfs.ImageSummary) bool {
			return slices.ContainsFunc(tests, func(t func(*imgfs.ImageSummary) bool) bool { return t(i) })
		})
	}
	return slices.DeleteFunc(slices.Clone(images), func(i imgfs.ImageSummary) bool {
		return slices.ContainsFunc(all, func(t func(*imgfs.ImageSummary) bool) bool { return !t(&i) })
	}), nil
}

// test returns what tells whether a filter is true of an image.
func (f filter) test(images []imgfs.ImageSummary, now time.Time) (func(*imgfs.ImageSummary) bool, error) {
	switch f.key {
	case "dangling":
		want, err := strconv.ParseBool(f.value)
		if err != nil {
			return nil, usagef("--filter dangling=%q: want true or false", f.value)
		}
		return func(i *imgfs.ImageSummary) bool { return (i.Repository == "<none>") == want }, nil
	case "label":
		label := f.label()
		return func(i *imgfs.ImageSummary) bool { return label.Matches(i.Labels) }, nil
	case "until":
		t, err := parseTime(f.value, now)
		return func(i *imgfs.ImageSummary) bool { return i.Created.Before(t) }, err
	case "reference":
		matches, err := imagePattern(f.value)
		return matches, err
	}
	other, err := oneImage(images, f.value)
	if err != nil {
		return nil, err
	}
	if f.key == "before" {
		return func(i *imgfs.ImageSummary) bool { return i.Created.Before(other.Created) }, nil
	}
	return func(i *imgfs.ImageSummary) bool { return i.Created.After(other.Created) }, nil
}

// oneImage returns the image that a name or the beginning of an ID means.
func oneImage(images []imgfs.ImageSummary, arg string) (*imgfs.ImageSummary, error) {
	if ref, err := image.ParseReference(arg); err == nil {
		for k := range images {
			i := &images[k]
			if i.Repository == ref.FamiliarName() && (i.Tag == ref.Tag() && ref.Tag() != "" || i.Digest == ref.Digest()) {
				return i, nil
			}
		}
	}
	hex := strings.TrimPrefix(arg, "sha256:")
	var found *imgfs.ImageSummary
	for k := range images {
		i := &images[k]
		if len(hex) < 4 || !strings.HasPrefix(i.ID.Encoded(), hex) {
			continue
		}
		if found != nil && found.ID != i.ID {
			return nil, fmt.Errorf("%s: %w: it is the beginning of several", arg, image.ErrNotFound)
		}
		found = i
	}
	if found == nil {
		return nil, fmt.Errorf("%s: %w", arg, image.ErrNotFound)
	}
	return found, nil
}

// matchImages returns the images that a pattern names.
func matchImages(images []imgfs.ImageSummary, pattern string) ([]imgfs.ImageSummary, error) {
	matches, err := imagePattern(pattern)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(images, func(i imgfs.ImageSummary) bool { return !matches(&i) }), nil
}

// imagePattern returns what tells whether a pattern names an image: a
// repository, with or without its tag, in the form that images prints or
// spelled out.
func imagePattern(pattern string) (func(*imgfs.ImageSummary) bool, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, usagef("%q: %w", pattern, err)
	}
	patterns := []string{pattern}
	if ref, err := image.ParseReference(pattern); err == nil && ref.Name() != pattern {
		if full := ref.FamiliarName(); ref.Tag() == "latest" || ref.Tag() == "" {
			patterns = append(patterns, full)
		} else {
			patterns = append(patterns, ref.Familiar())
		}
	}
	return func(i *imgfs.ImageSummary) bool {
		return matchesAny(patterns, i.Repository) || matchesAny(patterns, i.Repository+":"+i.Tag)
	}, nil
}

func matchesAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if ok, _ := path.Match(p, name); ok {
			return true
		}
	}
	return false
}
