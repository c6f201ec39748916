// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Each thing that can be missing is told apart, with a cure that fits.
func TestDeviceReasons(t *testing.T) {
	gone := &fs.PathError{Op: "open", Path: device, Err: unix.ENOENT}
	denied := &fs.PathError{Op: "open", Path: device, Err: unix.EACCES}
	noModule := &fs.PathError{Op: "open", Path: device, Err: unix.ENXIO}
	cgroup := &fs.PathError{Op: "open", Path: device, Err: unix.EPERM}
	linux := "Linux version 6.18.4 (gcc) #1 SMP"
	for _, tt := range []struct {
		name   string
		m      machine
		err    error
		reason Reason
		hint   string
	}{
		{"no device", machine{version: linux, container: false}, gone, NoDevice, "modprobe fuse"},
		{"no module behind it", machine{version: linux, container: false}, noModule, NoDevice, "modprobe fuse"},
		{"no device in a container", machine{version: linux, container: true}, gone, NoDevice, "--device /dev/fuse"},
		{"a mode that denies", machine{version: linux, container: false}, denied, DeviceDenied, "chmod 666 /dev/fuse"},
		{"a mode that denies in a container", machine{version: linux, container: true}, denied, DeviceDenied, "root of this container: chmod 666 /dev/fuse"},
		{"a container's device list", machine{version: linux, container: true}, cgroup, DeviceDenied, "--device /dev/fuse"},
		{"WSL 1", machine{version: "Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com)", container: false}, gone, WSL1, "WSL 2"},
		{"WSL 2", machine{version: "Linux version 5.15.90.1-microsoft-standard-WSL2 (oe-user@oe-host)", container: false}, gone, NoDevice, "modprobe fuse"},
	} {
		e := tt.m.device(tt.err, 0o600)
		if e.Reason != tt.reason || !strings.Contains(e.Hint, tt.hint) || !errors.Is(e, errors.Unwrap(tt.err)) {
			t.Errorf("%s: %v (%s); want %s, %s", tt.name, e, e.Hint, tt.reason, tt.hint)
		}
	}
}

func TestHelperReasons(t *testing.T) {
	failed := errors.New("exit status 1")
	for _, tt := range []struct {
		words  string
		reason Reason
		text   string
	}{
		{"fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf", NoAllowOther, "option allow_other"},
		{"/usr/bin/fusermount3: failed to open /dev/fuse: Permission denied", HelperNoRoot, ": failed to open"},
		{"fusermount3: mount failed: Operation not permitted", HelperNoRoot, "mount failed"},
		{"fusermount3: user has no write access to mountpoint /mnt", NotOurs, "no write access"},
		{"fusermount3: unknown option 'frob'", BadOption, "frob"},
		{"fusermount3: too many FUSE filesystems mounted; mount_max=N can be set in /etc/fuse.conf", HelperFailed, "too many"},
		{"", HelperFailed, "exit status 1"},
	} {
		e := helperError(tt.words, failed)
		if e.Reason != tt.reason || !strings.Contains(e.Error(), tt.text) || strings.Contains(e.Error(), "fusermount3: ") {
			t.Errorf("%q: %v; want %s", tt.words, e, tt.reason)
		}
	}
}

func TestAllowsOther(t *testing.T) {
	for conf, want := range map[string]bool{
		"":                                 false,
		"#user_allow_other\n":              false,
		"# text\nuser_allow_other\n":       true,
		" user_allow_other # why":          true,
		"mount_max = 5\nuser_allow_others": false,
	} {
		if allowsOther(conf) != want {
			t.Errorf("%q: %v", conf, !want)
		}
	}
}

func TestProcTexts(t *testing.T) {
	for text, want := range map[string]uint64{
		"":                                   0,
		"         0          0 4294967295\n": 4294967295,
		"         0       1000          1\n": 1,
		"0 1000 1\n1 100000 65536\n":         65537,
	} {
		if got := mappedIDs(text); got != want {
			t.Errorf("%q maps %d, want %d", text, got, want)
		}
	}
	if got := effective("CapPrm:\t1\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n"); got != 0x1ffffffffff {
		t.Errorf("%#x", got)
	}
	table := "42 27 0:39 / /mnt ro - fuse.imgfs x ro\n421 27 0:40 / /m2 ro - tmpfs t ro\n"
	for id, want := range map[uint64]bool{42: true, 421: true, 4: false, 2: false} {
		if hasMount(table, id) != want {
			t.Errorf("mount %d: %v", id, !want)
		}
	}
}

// What is said to the kernel and to fusermount3 is the same.
func TestSettings(t *testing.T) {
	user := &credentials{euid: 1000, egid: 1001}
	root := &credentials{root: true, ownsIDs: true, canMount: true}
	for _, tt := range []struct {
		name   string
		opt    Options
		c      *credentials
		kernel string
		helper string
		flags  uintptr
	}{
		{"a user's", Options{Name: `a,b\c`}, user,
			"fd=9,rootmode=40000,user_id=1000,group_id=1001,max_read=1048576",
			`ro,nosuid,nodev,max_read=1048576,subtype=imgfs,fsname=a\,b\\c`,
			unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV},
		{"a user's for others", Options{AllowOther: true}, user,
			"fd=9,rootmode=40000,user_id=1000,group_id=1001,max_read=1048576,allow_other,default_permissions",
			"ro,nosuid,nodev,max_read=1048576,allow_other,default_permissions,subtype=imgfs,fsname=imgfs",
			unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV},
		{"root's", Options{Suid: true, Dev: true}, root,
			"fd=9,rootmode=40000,user_id=0,group_id=0,max_read=1048576,allow_other,default_permissions",
			"ro,suid,dev,max_read=1048576,allow_other,default_permissions,subtype=imgfs,fsname=imgfs",
			unix.MS_RDONLY},
		{"further options", Options{Extra: []string{"ro", "noexec", "noatime", "suid", `context="a:b:c0,c1"`, "max_read=9999999"}}, root,
			`fd=9,rootmode=40000,user_id=0,group_id=0,max_read=1048576,allow_other,default_permissions,context="a:b:c0,c1"`,
			`ro,suid,nodev,noexec,noatime,max_read=1048576,allow_other,default_permissions,context="a:b:c0\,c1",subtype=imgfs,fsname=imgfs`,
			unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME},
	} {
		s, err := tt.opt.settings(tt.c)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := s.kernelData(9, unix.S_IFDIR, tt.c); got != tt.kernel {
			t.Errorf("%s, for mount(2):\n got %s\nwant %s", tt.name, got, tt.kernel)
		}
		if got := s.helperOptions(); got != tt.helper {
			t.Errorf("%s, for fusermount3:\n got %s\nwant %s", tt.name, got, tt.helper)
		}
		if s.flags != tt.flags {
			t.Errorf("%s: flags %#x, want %#x", tt.name, s.flags, tt.flags)
		}
	}
	for _, extra := range []string{"suid", "dev"} {
		if _, err := (&Options{Extra: []string{extra}}).settings(user); err == nil {
			t.Errorf("a user may say %s", extra)
		}
	}
}

func TestDenied(t *testing.T) {
	for hint, m := range map[string]machine{
		"--cap-add SYS_ADMIN": {container: true},
		"sysctl kernel.":      {confined: true},
		"fusermount3":         {},
	} {
		if e := m.denied(unix.EPERM); e.Reason != MountDenied || !strings.Contains(e.Hint, hint) || !errors.Is(e, unix.EPERM) {
			t.Errorf("%+v: %v (%s)", m, e, e.Hint)
		}
	}
}
