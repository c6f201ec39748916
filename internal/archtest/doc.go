// SPDX-License-Identifier: Apache-2.0

// Package archtest holds the house rules that a machine can keep: which
// package may import which, and what may not be written where. It has tests
// only, reads source text only, and knows nothing of what the code does.
package archtest
