// SPDX-License-Identifier: Apache-2.0

package cow_test

import (
	"os"
	"testing"

	"github.com/imgfs/imgfs/internal/crashfs"
)

// TestMain also is the disk of the crash tests and the victim of the kill
// tests, in processes of their own.
func TestMain(m *testing.M) {
	switch {
	case crashfs.IsServer():
		os.Exit(crashfs.Serve())
	case os.Getenv(victimEnv) != "":
		os.Exit(victim())
	}
	os.Exit(m.Run())
}
