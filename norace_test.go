// SPDX-License-Identifier: Apache-2.0

//go:build !race

package imgfs_test

import "testing"

func unraced(*testing.T) {}
