// SPDX-License-Identifier: Apache-2.0

// Package image holds the values that describe container images: references,
// platforms, manifests, indexes and configs, and the rules that make a
// document acceptable. Its parsers take bytes that came from strangers: every
// document, array and nesting depth is bounded before it sizes anything, and
// what breaks a rule is an error that wraps ErrMalformed.
//
// The package does no I/O. It does not know where documents lie (see
// image/archive and layerstore), nor what is inside a layer (see index).
package image

import "errors"

// Sentinels that callers branch on.
var (
	// ErrMalformed marks an image that is broken or hostile: a document that
	// breaks a rule, or bytes that are not what their descriptor says.
	ErrMalformed = errors.New("malformed image")

	// ErrNotFound marks a name that stands for no image here.
	ErrNotFound = errors.New("no such image")
)
