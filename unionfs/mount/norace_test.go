// SPDX-License-Identifier: Apache-2.0

//go:build !race

package mount

const raceEnabled = false
