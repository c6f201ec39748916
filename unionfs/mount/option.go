// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"fmt"
	"log"
	"strconv"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Options say how a tree or an upper is mounted. The zero value works: nosuid,
// nodev.
type Options struct {
	Name       string // shown as the mount's source: the image
	AllowOther bool   // -o allow_other; root's mount always has it
	Suid, Dev  bool   // not nosuid, not nodev: root's to say
	Nonempty   bool   // also over a directory that holds something

	UID, GID   *uint32 // -o uid= gid=: shown as owner of everything
	NoSymlinks bool    // symlinks are not there
	NoSpecials bool    // nor devices, FIFOs and sockets
	NoXattrs   bool    // nor the image's extended attributes
	Provenance bool    // XattrLayer, XattrDiffID, XattrCreatedBy
	Unverified bool    // layers may change their answer: Server.DropLayer is to come

	// NoPassthrough has content of a writable mount go through the server: other
	// file systems can then be stacked on the mount.
	NoPassthrough bool

	// Extra holds further -o options, each as mount(8) spells it: noexec,
	// noatime, max_read=65536, context=….
	Extra []string

	// Log is told of errors that a reader sees only as EIO. Nil: the
	// standard logger.
	Log func(format string, args ...any)

	wrap     func(fuse.RawFileSystem) fuse.RawFileSystem // a test looks in
	writable bool
}

func (o *Options) wrapped(raw fuse.RawFileSystem) fuse.RawFileSystem {
	if o.wrap == nil {
		return raw
	}
	return o.wrap(raw)
}

// maxRead is the largest READ that is asked for and that the kernel sends by
// default (fs.fuse.max_pages_limit).
const maxRead = 1 << 20

// minRead is the least that max_read may be.
const minRead = 4096

// settings are Options in the form that the ways of mounting take.
type settings struct {
	source     string
	flags      uintptr  // MS_*
	words      []string // the same for fusermount3
	data       []string // what is not a flag, for the kernel, as given
	maxRead    int      // bytes
	allowOther bool     // and default_permissions
}

// A flagOption is an option that mount(2) takes as a bit.
type flagOption struct {
	set, clear uintptr
}

var flagOptions = map[string]flagOption{
	"ro":     {unix.MS_RDONLY, 0},
	"nosuid": {unix.MS_NOSUID, 0}, "suid": {0, unix.MS_NOSUID},
	"nodev": {unix.MS_NODEV, 0}, "dev": {0, unix.MS_NODEV},
	"noexec": {unix.MS_NOEXEC, 0}, "exec": {0, unix.MS_NOEXEC},
	"sync": {unix.MS_SYNCHRONOUS, 0}, "async": {0, unix.MS_SYNCHRONOUS},
	"dirsync": {unix.MS_DIRSYNC, 0},
	"noatime": {unix.MS_NOATIME, 0}, "atime": {0, unix.MS_NOATIME},
	"nodiratime": {unix.MS_NODIRATIME, 0}, "diratime": {0, unix.MS_NODIRATIME},
	"relatime": {unix.MS_RELATIME, 0}, "norelatime": {0, unix.MS_RELATIME},
	"strictatime": {unix.MS_STRICTATIME, 0}, "nostrictatime": {0, unix.MS_STRICTATIME},
	"lazytime": {unix.MS_LAZYTIME, 0}, "nolazytime": {0, unix.MS_LAZYTIME},
	"nosymfollow": {unix.MS_NOSYMFOLLOW, 0}, "symfollow": {0, unix.MS_NOSYMFOLLOW},
}

// settings resolves o for a mounter with the rights of c.
func (o *Options) settings(c *credentials) (*settings, error) {
	s := &settings{
		source:     o.Name,
		flags:      unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV,
		maxRead:    maxRead,
		allowOther: o.AllowOther || c.ownsIDs,
	}
	if o.writable {
		if err := o.checkWritable(); err != nil {
			return nil, err
		}
		s.flags &^= unix.MS_RDONLY
	}
	if s.source == "" {
		s.source = "imgfs"
	}
	if strings.IndexByte(s.source, 0) >= 0 || len(s.source) >= maxSource {
		return nil, refused(BadOption, "", fmt.Errorf("a source of %d bytes, or with a zero byte in it", len(s.source)))
	}
	suid, dev := o.Suid, o.Dev
	for _, w := range o.Extra {
		switch key, value, _ := strings.Cut(w, "="); key {
		case "", "nonempty", "default_permissions":
			// As it is anyway, or decided elsewhere.
		case "ro":
			if o.writable {
				return nil, refused(BadOption, "leave out ro, or the upper", fmt.Errorf("%q: this mount is writable", w))
			}
		case "rw":
			if o.writable {
				continue
			}
			return nil, refused(BadOption, "leave out rw", fmt.Errorf("%q: this mount is read-only", w))
		case "allow_other":
			s.allowOther = true
		case "suid":
			suid = true
		case "dev":
			dev = true
		case "max_read":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil || n < minRead {
				return nil, refused(BadOption, "max_read is a number of bytes, 4096 or more", fmt.Errorf("%q", w))
			}
			s.maxRead = int(min(n, maxRead))
		case "fd", "rootmode", "user_id", "group_id", "fsname", "subtype", "blkdev", "auto_unmount":
			return nil, refused(BadOption, "", fmt.Errorf("%q is not yours to say", w))
		default:
			if f, ok := flagOptions[w]; ok {
				s.flags = s.flags&^f.clear | f.set
				s.words = append(s.words, w)
			} else {
				s.data = append(s.data, w)
			}
		}
	}
	if (suid || dev) && !c.root {
		return nil, refused(RootOnly, "leave out suid and dev", fmt.Errorf("-o suid,dev: %w", unix.EPERM))
	}
	if suid {
		s.flags &^= unix.MS_NOSUID
	}
	if dev {
		s.flags &^= unix.MS_NODEV
	}
	return s, nil
}

// checkWritable refuses what shows a tree otherwise than it is: what is written
// could not be told from what is shown.
func (o *Options) checkWritable() error {
	for _, f := range []struct {
		set  bool
		word string
	}{
		{o.UID != nil, "uid="}, {o.GID != nil, "gid="},
		{o.NoSymlinks, "nosymlinks"}, {o.NoSpecials, "nospecials"}, {o.NoXattrs, "noxattrs"},
	} {
		if f.set {
			return refused(BadOption, "mount read-only, or leave it out", fmt.Errorf("%q is for read-only mounts", f.word))
		}
	}
	return nil
}

// maxSource is the kernel's: a page.
const maxSource = 4096

// kernelData returns the data string of mount(2) for the open device fd.
func (s *settings) kernelData(fd int, rootmode uint32, c *credentials) string {
	d := []string{
		fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,max_read=%d", fd, rootmode, c.euid, c.egid, s.maxRead),
	}
	if s.allowOther {
		d = append(d, "allow_other", "default_permissions")
	}
	return strings.Join(append(d, s.data...), ",")
}

// helperOptions returns the -o argument of fusermount3, which splits at commas
// and takes a backslash as an escape.
func (s *settings) helperOptions() string {
	w := []string{"ro"}
	if s.flags&unix.MS_RDONLY == 0 {
		w[0] = "rw"
	}
	for _, f := range []struct {
		bit     uintptr
		on, off string
	}{{unix.MS_NOSUID, "nosuid", "suid"}, {unix.MS_NODEV, "nodev", "dev"}} {
		if s.flags&f.bit != 0 {
			w = append(w, f.on)
		} else {
			w = append(w, f.off)
		}
	}
	w = append(w, s.words...)
	w = append(w, "max_read="+strconv.Itoa(s.maxRead))
	if s.allowOther {
		w = append(w, "allow_other", "default_permissions")
	}
	for _, d := range s.data {
		w = append(w, escape.Replace(d))
	}
	return strings.Join(append(w, "subtype="+subtype, "fsname="+escape.Replace(s.source)), ",")
}

const subtype = "imgfs"

var escape = strings.NewReplacer(`\`, `\\`, `,`, `\,`)

func defaultLog(format string, args ...any) { log.Printf("imgfs: "+format, args...) }
