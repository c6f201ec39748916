// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package twosum

// fast tells that the processor has instructions for sha256 (and SSSE3 and
// SSE4.1, which every one of these has).
var fast = features()&(1<<29) != 0

// features returns EBX of CPUID 7.0, or 0 where there is no such leaf.
//
//go:noescape
func features() uint32

// blocks adds n blocks at p1 to h1, and as many at p2 to h2.
//
//go:noescape
func blocks(h1 *[8]uint32, p1 *byte, h2 *[8]uint32, p2 *byte, n int)
