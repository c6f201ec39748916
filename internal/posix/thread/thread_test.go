// SPDX-License-Identifier: Apache-2.0

package thread

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRunSharesNothing(t *testing.T) {
	before, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	mask := unix.Umask(0o022)
	defer unix.Umask(mask)
	Run(func() {
		if err := unix.Chdir("/"); err != nil {
			t.Error(err)
		}
		unix.Umask(0o777)
	})
	if after, err := os.Getwd(); err != nil || after != before {
		t.Errorf("working directory is %s, %v, was %s", after, err, before)
	}
	if got := unix.Umask(0o022); got != 0o022 {
		t.Errorf("umask is %#o", got)
	}
}

func TestRunHandsPanicsOn(t *testing.T) {
	defer func() {
		if p := recover(); p != "why" {
			t.Errorf("recovered %v", p)
		}
	}()
	Run(func() { panic("why") })
}

func TestAs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	Run(func() {
		var st unix.Stat_t
		As(1000, 1001, []int{7}, func() {
			if err := unix.Access(name, unix.R_OK); err != unix.EACCES {
				t.Errorf("access by a user: %v", err)
			}
		})
		if err := unix.Stat(name, &st); err != nil {
			t.Errorf("root again: %v", err)
		}
	})
}
