// SPDX-License-Identifier: Apache-2.0

// Package script has tests only: it runs the scripts of ../testdata against
// the program as a user has it, and knows nothing else of it.
package script
