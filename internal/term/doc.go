// SPDX-License-Identifier: Apache-2.0

// Package term puts results on a screen or into a pipe: names from strangers
// made harmless, docker's tables and templates, JSON, sizes and ages, progress
// bars. It does not know what it prints.
package term
