// SPDX-License-Identifier: Apache-2.0

//go:build race

package imgfs_test

import "testing"

// unraced skips a test that says nothing about races and takes minutes under
// the race detector. It runs without: make test-one-cpu, go test.
func unraced(t *testing.T) {
	t.Helper()
	t.Skip("has no races to show, and takes long under the race detector")
}
