// SPDX-License-Identifier: Apache-2.0

package kill

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A call is one change, to be applied below any directory.
type call struct {
	what   string
	writes string // the file whose content it changes, if it may half happen
	do     func(root string) error
}

// errno strips what os adds, so that errors of two directories compare.
func errno(err error) error {
	if e := unix.Errno(0); errors.As(err, &e) {
		return e
	}
	return err
}

// name returns one of few, so that calls meet.
func (w *worker) name() string {
	n := string(rune('a' + w.rng.IntN(8)))
	if w.rng.IntN(3) == 0 {
		return string(rune('a'+w.rng.IntN(8))) + "/" + n
	}
	return n
}

// next returns a random call.
func (w *worker) next() *call {
	a, b := w.name(), w.name()
	k := &call{}
	pathCall := func(verb string, do func(p string) error) {
		k.what = verb + " " + a
		k.do = func(root string) error { return errno(do(filepath.Join(root, a))) }
	}
	pairCall := func(verb string, do func(p, q string) error) {
		k.what = verb + " " + a + " " + b
		k.do = func(root string) error { return errno(do(filepath.Join(root, a), filepath.Join(root, b))) }
	}
	switch w.rng.IntN(14) {
	case 0, 1:
		pathCall("create", func(p string) error {
			fd, err := unix.Open(p, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
			if err == nil {
				err = unix.Close(fd)
			}
			return err
		})
	case 2, 3, 4, 5:
		off, size := int64(w.rng.IntN(30_000)), 1+w.rng.IntN(1<<w.rng.IntN(17))
		sync, seed := w.rng.IntN(4) == 0, w.rng.Uint64()
		pathCall(fmt.Sprintf("write [%d,%d) sync %v", off, off+int64(size), sync), func(p string) error { return write(p, off, size, seed, sync) })
		k.writes = a
	case 6:
		pathCall("mkdir", func(p string) error { return unix.Mkdir(p, 0o755) })
	case 7:
		pathCall("unlink", unix.Unlink)
	case 8:
		pathCall("rmdir", unix.Rmdir)
	case 9, 10:
		pairCall("rename", unix.Rename)
	case 11:
		pairCall("link", unix.Link)
	case 12:
		mode := uint32(w.rng.IntN(0o1000)) | 0o600
		pathCall(fmt.Sprintf("chmod %o", mode), func(p string) error {
			st, err := os.Lstat(p)
			if err != nil {
				return err
			}
			if !st.Mode().IsRegular() {
				return unix.EISDIR
			}
			return unix.Chmod(p, mode)
		})
	case 13:
		size := int64(w.rng.IntN(40_000))
		pathCall(fmt.Sprintf("truncate to %d", size), func(p string) error { return unix.Truncate(p, size) })
		k.writes = a
	}
	return k
}

// write writes bytes that depend on the seed, and closes.
func write(p string, off int64, size int, seed uint64, sync bool) error {
	fd, err := unix.Open(p, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	b := make([]byte, size)
	for i := range b {
		seed = seed*6364136223846793005 + 1442695040888963407
		b[i] = byte(seed>>56) | 1
	}
	n, err := unix.Pwrite(fd, b, off)
	if err == nil && n < len(b) {
		err = unix.EIO // the server died between two pieces of it
	}
	if err == nil && sync {
		err = unix.Fsync(fd)
	}
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	return err
}

// compare returns the first difference of the two directories, "" if there is
// none.
func (w *worker) compare() (string, error) {
	got, err := listing(w.mounted)
	if err != nil {
		return "", fmt.Errorf("walk %s: %w", w.mounted, err)
	}
	want, err := listing(w.oracle)
	if err != nil {
		return "", err
	}
	var diff []string
	for _, l := range got {
		if !slices.Contains(want, l) {
			diff = append(diff, "got "+l)
		}
	}
	for _, l := range want {
		if !slices.Contains(got, l) {
			diff = append(diff, "want "+l)
		}
	}
	if len(diff) == 0 {
		return "", nil
	}
	return strings.Join(append(diff[:min(6, len(diff))], w.ranges()...), "\n"), nil
}

// ranges tells where files that both directories have differ.
func (w *worker) ranges() (all []string) {
	filepath.WalkDir(w.oracle, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		rel, _ := filepath.Rel(w.oracle, p)
		want, err1 := os.ReadFile(p)
		got, err2 := os.ReadFile(filepath.Join(w.mounted, rel))
		if err1 != nil || err2 != nil {
			return nil
		}
		n := min(len(got), len(want))
		lo, hi := 0, n
		for lo < n && got[lo] == want[lo] {
			lo++
		}
		for hi > lo && got[hi-1] == want[hi-1] {
			hi--
		}
		if lo < hi {
			all = append(all, fmt.Sprintf("%s differs in [%d,%d) of %d: got %.16x…, want %.16x…", rel, lo, hi, len(want), got[lo:hi], want[lo:hi]))
		}
		return nil
	})
	return all
}

// listing returns a line for all below dir.
func listing(dir string) (all []string, err error) {
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s mode %o owner %d:%d", rel, st.Mode, st.Uid, st.Gid)
		if d.Type().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			h := fnv.New64a()
			h.Write(b)
			line += fmt.Sprintf(" links %d size %d content %x", st.Nlink, st.Size, h.Sum64())
		}
		all = append(all, line)
		return nil
	})
	return all, err
}
