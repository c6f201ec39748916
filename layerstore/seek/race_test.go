// SPDX-License-Identifier: Apache-2.0

//go:build race

package seek

// raced says that the race detector is on, which decodes 20 times slower.
const raced = true
