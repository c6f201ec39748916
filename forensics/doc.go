// SPDX-License-Identifier: Apache-2.0

// Package forensics answers what is in an image, where it came from, what was
// taken away and what differs. It works on trees and on the tables of layers,
// without mounting and without writing: whoever opens them says what they are
// made of.
//
// A walk goes from the root down, a directory before what is in it and its
// entries in the order of the bytes of their names. So "a/b" comes before
// "a-b": paths are compared name by name, see ComparePaths.
//
// Layers are numbered from 0, the base.
//
// The package does not know where images, uppers and layers are kept, and it
// prints nothing.
package forensics
