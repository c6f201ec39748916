// SPDX-License-Identifier: Apache-2.0

// Package unionfs stacks the tables of layers to one tree by the whiteout
// rules of the OCI image spec (layer.md) and docs/semantics.md, and answers
// questions about a tree: names, paths, content. It does no I/O of its own and
// knows neither FUSE nor where layers are kept.
package unionfs
