// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"flag"
	"os"
	"testing"
)

var dirFlag = flag.String("dir", "", "an empty directory of the filesystem to test, instead of the temporary one")

// TestExt4: the suite holds where the temporary directory lies, which ought to
// be ext4 or as good.
func TestExt4(t *testing.T) {
	dir := *dirFlag
	if dir == "" {
		dir = t.TempDir()
	}
	if os.Geteuid() == 0 {
		Run(t, dir, Options{OwnIoctls: *dirFlag == ""})
	} else {
		RunUser(t, dir, Options{OwnIoctls: *dirFlag == ""})
	}
}
