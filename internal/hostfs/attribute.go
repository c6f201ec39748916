// SPDX-License-Identifier: Apache-2.0

package hostfs

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// setAttributes sets what meta says of the open file or directory f, in the
// order in which nothing undoes what was set before: chown clears setuid and
// capabilities, and the time comes last. path is for reports.
func (d *Dir) setAttributes(f *os.File, path string, meta *Meta, isDir bool) error {
	owned := d.opt.Archive && d.chown(path, func() error { return f.Chown(int(meta.UID), int(meta.GID)) })
	if err := f.Chmod(fileMode(d.mode(path, meta, owned, isDir))); err != nil {
		return err
	}
	d.setXattrs(f, path, meta)
	if !isDir {
		return nil
	}
	// "." is this directory, whatever it is called by now.
	return d.setTime(".", path, meta)
}

// chown runs set, and reports whether the owner is now the one wanted. A
// caller who may not set owners is told so once, not for each file.
func (d *Dir) chown(path string, set func() error) bool {
	err := set()
	switch {
	case err == nil:
		return true
	case !errors.Is(err, fs.ErrPermission):
		d.opt.LeftOut(path, "owner: "+cause(err).Error())
	case !d.opt.noOwner:
		d.opt.noOwner = true
		d.opt.LeftOut(path, "owner, here and elsewhere: "+cause(err).Error())
	}
	return false
}

// mode returns the permission bits that are set. A setuid bit is worth
// something only with its owner: without that it is left out.
func (d *Dir) mode(path string, meta *Meta, owned, isDir bool) uint32 {
	mode := meta.Mode & 0o777
	if isDir {
		mode |= meta.Mode & unix.S_ISVTX
	}
	special := meta.Mode & 0o7000 &^ mode
	if owned {
		return mode | special
	}
	if special&unix.S_ISUID != 0 {
		d.opt.LeftOut(path, "setuid bit")
	}
	if special&unix.S_ISGID != 0 {
		d.opt.LeftOut(path, "setgid bit")
	}
	return mode
}

// fileMode turns permission bits of st_mode into Go's.
func fileMode(bits uint32) fs.FileMode {
	m := fs.FileMode(bits & 0o777)
	if bits&unix.S_ISUID != 0 {
		m |= fs.ModeSetuid
	}
	if bits&unix.S_ISGID != 0 {
		m |= fs.ModeSetgid
	}
	if bits&unix.S_ISVTX != 0 {
		m |= fs.ModeSticky
	}
	return m
}

func (d *Dir) setXattrs(f *os.File, path string, meta *Meta) {
	if !d.opt.Archive {
		for _, x := range meta.Xattrs {
			d.opt.LeftOut(path, "extended attribute "+x.Name)
		}
		return
	}
	for _, x := range meta.Xattrs {
		if err := unix.Fsetxattr(int(f.Fd()), x.Name, x.Value, 0); err != nil {
			d.opt.LeftOut(path, "extended attribute "+x.Name+": "+err.Error())
		}
	}
}

// setTime sets the mtime of name in d, which is not followed; the atime stays
// now. A time that the host cannot hold is left out.
func (d *Dir) setTime(name, path string, meta *Meta) error {
	times := []unix.Timespec{
		{Nsec: unix.UTIME_OMIT},
		{Sec: meta.Mtime, Nsec: meta.MtimeNsec},
	}
	err := unix.UtimesNanoAt(int(d.fd.Fd()), name, times, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE), errors.Is(err, unix.EOVERFLOW):
		d.opt.LeftOut(path, "time: "+err.Error())
		return nil
	}
	return &fs.PathError{Op: "utimensat", Path: path, Err: err}
}

func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
