// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A workload is what a row does in a directory: steps that are timed, after
// what is not. Every system gets the same system calls from the same program.
type workload struct {
	prepare func(dir string) error
	steps   []step
}

// A step is one timed part. It calls lap for what was done so far, besides
// the figure of the whole.
type step struct {
	name   string
	cold   coldness               // what is empty when it begins
	room   int                    // bytes of memory that it fills
	anon   bool                   // the server's memory after it is a figure
	before func(dir string) error // not timed, after the caches were emptied
	run    func(dir string, lap func(name string)) error
	figure func(elapsed float64) float64 // what to say instead of the seconds it took
}

// plain makes a workload of one step.
func plain(c coldness, run func(dir string) error) workload {
	return workload{steps: []step{{cold: c, run: func(dir string, _ func(string)) error { return run(dir) }}}}
}

// after makes a workload of one step, not cold, after a preparation.
func after(prepare, run func(dir string) error) workload {
	w := plain(warm, run)
	w.prepare = prepare
	return w
}

// How much there is to do. The image rw has these names and numbers.
const (
	bigFile  = "srv/big"
	bigSize  = 1 << 30
	treeDir  = "srv/tree"
	treeSize = 16_000
	someDirs = 175 // of treeDir: 7 000 files
	someDir  = 40  // files in each of them
	wideDir  = "srv/wide"
	wideSize = 20_000

	newDirs   = 10
	newFiles  = 1_000 // in each
	newSize   = 1 << 10
	tarDirs   = 250
	tarFiles  = 20 // in each
	syncs     = 500
	newSyncs  = 200
	sqlRows   = 300
	seqBuffer = 1 << 20
)

func workloads() map[string]workload {
	return map[string]workload{
		"append":        {prepare: statBig, steps: []step{{run: func(dir string, _ func(string)) error { return appendByte(dir) }}}},
		"chmod":         plain(cold, func(dir string) error { return changeAll(filepath.Join(dir, treeDir), treeSize, chmod) }),
		"chown":         plain(cold, func(dir string) error { return changeAll(filepath.Join(dir, treeDir), treeSize, chown) }),
		"rename-dir":    after(func(dir string) error { return statOf(filepath.Join(dir, wideDir)) }, renameWide),
		"create":        after(makeDirs, create),
		"untar":         after(func(dir string) error { return unix.Mkdir(newDir(dir), 0o755) }, untar),
		"rm-image":      after(func(string) error { return nil }, removeSome),
		"rm-new":        after(func(dir string) error { return errors.Join(makeDirs(dir), create(dir)) }, removeNew),
		"seq":           sequential(1 << 30),
		"seq-quick":     sequential(1 << 28),
		"fsync":         after(makeSynced, syncLoop),
		"create-fsync":  after(func(dir string) error { return unix.Mkdir(newDir(dir), 0o755) }, createSynced),
		"sqlite-wal":    after(func(dir string) error { return makeDB(dir, "wal") }, fillDB),
		"sqlite-delete": after(func(dir string) error { return makeDB(dir, "delete") }, fillDB),
		"million":       {prepare: makeDirs, steps: []step{{name: theChange, run: million, anon: true}}},
		"walk":          {steps: walks()},
		"read":          {steps: append(walks(), readAll()...)},
		"everything":    {steps: slices.Concat(walks(), readAll(), grepAndReaders())},
		"lstat":         lstats(),
		"big":           big(bigSize),
		"exec":          plain(cold, execPython),
	}
}

func newDir(dir string) string { return filepath.Join(dir, "new") }

// child is the process that does a workload. It says "ready" before each step
// and waits for a line, so that its parent can see to the caches; then it says
// how long it took: "NAME SECONDS", or "NAME errno: TEXT" if the step cannot be
// done here. The first line says ready with the step's name and whether it is
// to be cold.
func child(name, dir string) error {
	w, ok := workloads()[name]
	if !ok {
		return fmt.Errorf("no such workload: %s", name)
	}
	runtime.LockOSThread()
	unix.Umask(0o022)
	if w.prepare != nil {
		if err := w.prepare(dir); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	in := bufio.NewReader(os.Stdin)
	for _, s := range w.steps {
		fmt.Printf("ready %q %d %t\n", s.name, s.cold, s.anon)
		if _, err := in.ReadString('\n'); err != nil {
			return err
		}
		if err := makeRoom(s.room); err != nil {
			return err
		}
		if s.before != nil {
			if err := s.before(dir); err != nil {
				return err
			}
		}
		start, spent := time.Now(), cpuTime()
		say := func(name string) {
			took := time.Since(start).Seconds()
			if name == s.name && s.figure != nil {
				took = s.figure(took)
			}
			fmt.Printf("%q %.12f %.9f\n", name, took, cpuTime()-spent)
		}
		err := s.run(dir, say)
		if errno := unix.Errno(0); errors.As(err, &errno) {
			fmt.Printf("%q errno: %s\n", s.name, unix.ErrnoName(errno))
			return nil
		}
		if err != nil {
			return err
		}
		say(s.name)
	}
	return nil
}

// makeRoom touches memory and frees it. A virtual machine may have given freed
// memory back to its host, and gets it anew far slower than a page cache fills.
func makeRoom(size int) error {
	if size == 0 {
		return nil
	}
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	return unix.Munmap(b)
}

// cpuTime returns the seconds that this process and what it ran have computed.
func cpuTime() float64 {
	sum := 0.0
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			sum += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
		}
	}
	return sum
}

func statOf(name string) error {
	var st unix.Stat_t
	return unix.Lstat(name, &st)
}

func statBig(dir string) error { return statOf(filepath.Join(dir, bigFile)) }

func appendByte(dir string) error {
	fd, err := unix.Open(filepath.Join(dir, bigFile), unix.O_WRONLY|unix.O_APPEND, 0)
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte{'x'}); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	return unix.Close(fd)
}

// walk calls visit for everything below the directory at name of at, a
// directory before what is in it, with its attributes as fts(3) would.
func walk(at int, name string, visit func(at int, name string, st *unix.Stat_t) error) error {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	list, err := readDir(fd)
	if err != nil {
		return err
	}
	for _, e := range list {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if err := visit(fd, e.name, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := walk(fd, e.name, visit); err != nil {
				return err
			}
		}
	}
	return nil
}

type dirent struct {
	name string
	kind uint32 // S_IFMT's bits of a mode
}

// readDir returns the entries of an open directory, without "." and "..".
func readDir(fd int) (list []dirent, err error) {
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil || n == 0 {
			return list, err
		}
		for b := buf[:n]; len(b) > 0; b = b[binary.NativeEndian.Uint16(b[16:]):] {
			name := b[19:binary.NativeEndian.Uint16(b[16:])]
			name = name[:bytes.IndexByte(name, 0)]
			if s := string(name); s != "." && s != ".." {
				list = append(list, dirent{s, uint32(b[18]) << 12})
			}
		}
	}
}

func chmod(at int, name string, st *unix.Stat_t) error {
	return unix.Fchmodat(at, name, st.Mode&0o7777^0o022, 0)
}

func chown(at int, name string, _ *unix.Stat_t) error {
	return unix.Fchownat(at, name, 1000, 1000, unix.AT_SYMLINK_NOFOLLOW)
}

// changeAll changes every file and directory below dir, which are at least n.
func changeAll(dir string, n int, change func(at int, name string, st *unix.Stat_t) error) error {
	changed := 0
	err := walk(unix.AT_FDCWD, dir, func(at int, name string, st *unix.Stat_t) error {
		changed++
		return change(at, name, st)
	})
	if err == nil && changed < n {
		err = fmt.Errorf("%s: changed %d, want %d", dir, changed, n)
	}
	return err
}

func renameWide(dir string) error {
	return unix.Rename(filepath.Join(dir, wideDir), filepath.Join(dir, "srv/renamed"))
}

func makeDirs(dir string) error {
	err := unix.Mkdir(newDir(dir), 0o755)
	for i := range newDirs {
		err = errors.Join(err, unix.Mkdir(fmt.Sprintf("%s/%d", newDir(dir), i), 0o755))
	}
	return err
}

// inDir calls f with a descriptor of a directory.
func inDir(name string, f func(fd int) error) error {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(f(fd), unix.Close(fd))
}

// writeNew makes a file and writes it; more is called before it is closed.
func writeNew(at int, name string, mode uint32, content []byte, more func(fd int) error) error {
	fd, err := unix.Openat(at, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, mode)
	if err != nil {
		return err
	}
	if len(content) > 0 {
		_, err = unix.Write(fd, content)
	}
	if err == nil && more != nil {
		err = more(fd)
	}
	return errors.Join(err, unix.Close(fd))
}

func create(dir string) error {
	content := filled(newSize)
	for i := range newDirs {
		err := inDir(fmt.Sprintf("%s/%d", newDir(dir), i), func(fd int) error {
			for j := range newFiles {
				if err := writeNew(fd, fmt.Sprintf("file-%d", j), 0o644, content, nil); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// untar makes directories of files with the system calls of GNU tar as root.
func untar(dir string) error {
	content := filled(16 << 10)
	mtime := unix.NsecToTimespec(1_700_000_000_000_000_000)
	times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	attributes := func(fd int) error {
		return errors.Join(futimens(fd, &times), unix.Fchown(fd, 0, 0), unix.Fchmod(fd, 0o644))
	}
	for i := range tarDirs {
		parent := fmt.Sprintf("%s/%d", newDir(dir), i)
		if err := unix.Mkdir(parent, 0o700); err != nil {
			return err
		}
		for j := range tarFiles {
			size := (i*tarFiles + j) * 613 % len(content)
			if err := writeNew(unix.AT_FDCWD, fmt.Sprintf("%s/module-%d.c", parent, j), 0o600, content[:size], attributes); err != nil {
				return err
			}
		}
	}
	for i := range tarDirs {
		parent := fmt.Sprintf("%s/%d", newDir(dir), i)
		if err := errors.Join(unix.UtimesNanoAt(unix.AT_FDCWD, parent, times[:], unix.AT_SYMLINK_NOFOLLOW),
			unix.Fchownat(unix.AT_FDCWD, parent, 0, 0, unix.AT_SYMLINK_NOFOLLOW), unix.Chmod(parent, 0o755)); err != nil {
			return err
		}
	}
	return nil
}

// futimens sets times by a descriptor, as utimensat(2) does without a path.
func futimens(fd int, times *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(times)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// filled returns bytes that are not all zero.
func filled(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i*7 + i>>9)
	}
	return b
}

// removeSome removes some directories of the image, removeNew what create made.
func removeSome(dir string) error {
	for i := range someDirs {
		n, err := removeAll(unix.AT_FDCWD, fmt.Sprintf("%s/%s/%03d", dir, treeDir, i))
		if err == nil && n != someDir {
			err = fmt.Errorf("removed %d files, want %d", n, someDir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func removeNew(dir string) error {
	n, err := removeAll(unix.AT_FDCWD, newDir(dir))
	if err == nil && n != newDirs*newFiles {
		err = fmt.Errorf("removed %d files, want %d", n, newDirs*newFiles)
	}
	return err
}

// removeAll is rm -rf. It returns how many files there were.
func removeAll(at int, name string) (files int, err error) {
	err = func() error {
		fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		list, err := readDir(fd)
		if err != nil {
			return err
		}
		for _, e := range list {
			if e.kind != unix.S_IFDIR {
				files++
				if err := unix.Unlinkat(fd, e.name, 0); err != nil {
					return err
				}
				continue
			}
			n, err := removeAll(fd, e.name)
			if files += n; err != nil {
				return err
			}
		}
		return nil
	}()
	if err != nil {
		return files, err
	}
	return files, unix.Unlinkat(at, name, unix.AT_REMOVEDIR)
}

// sequential writes a new file, syncs it, and reads it cold and warm.
func sequential(size int) workload {
	write := func(dir string, lap func(string)) error {
		buf := filled(seqBuffer)
		return writeNew(unix.AT_FDCWD, newDir(dir), 0o644, nil, func(fd int) error {
			for done := 0; done < size; done += len(buf) {
				if _, err := unix.Write(fd, buf); err != nil {
					return err
				}
			}
			lap("write")
			return unix.Fsync(fd)
		})
	}
	read := func(dir string, _ func(string)) error {
		n, err := readFile(unix.AT_FDCWD, newDir(dir), make([]byte, seqBuffer))
		if err == nil && n != int64(size) {
			err = fmt.Errorf("read %d bytes, want %d", n, size)
		}
		return err
	}
	return workload{steps: []step{
		{name: "write+fsync", run: write, room: 2 * size},
		{name: "read cold", cold: cold, run: read, room: 2 * size},
		{name: "read warm", run: read},
	}}
}

func readFile(at int, name string, buf []byte) (size int64, err error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, err
	}
	for {
		n, err := unix.Read(fd, buf)
		if err != nil || n == 0 {
			return size, errors.Join(err, unix.Close(fd))
		}
		size += int64(n)
	}
}

func makeSynced(dir string) error {
	return writeNew(unix.AT_FDCWD, newDir(dir), 0o644, filled(1<<20), unix.Fsync)
}

// syncLoop writes and syncs one of the blocks of a file that is there.
func syncLoop(dir string) error {
	fd, err := unix.Open(newDir(dir), unix.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	block := filled(4096)
	for i := range syncs {
		block[0] = byte(i)
		if _, err := unix.Pwrite(fd, block, int64(i%256)*4096); err != nil {
			return err
		}
		if err := unix.Fsync(fd); err != nil {
			return err
		}
	}
	return nil
}

func createSynced(dir string) error {
	content := filled(newSize)
	return inDir(newDir(dir), func(fd int) error {
		for i := range newSyncs {
			if err := writeNew(fd, fmt.Sprint(i), 0o644, content, unix.Fsync); err != nil {
				return err
			}
			if err := unix.Fsync(fd); err != nil {
				return err
			}
		}
		return nil
	})
}

func makeDB(dir, journal string) error {
	return sqlite(dir, "PRAGMA journal_mode="+journal+"; CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT); CREATE INDEX i ON t (v);")
}

// fillDB commits many small transactions from one process, synced as SQLite
// does by default.
func fillDB(dir string) error {
	var b strings.Builder
	for i := range sqlRows {
		fmt.Fprintf(&b, "INSERT INTO t (v) VALUES ('%0100d');\n", i*7919%sqlRows)
	}
	b.WriteString("SELECT count(*) FROM t;\n")
	return sqlite(dir, b.String())
}

func sqlite(dir, script string) error {
	cmd := exec.Command("sqlite3", "-batch", newDir(dir))
	cmd.Stdin = strings.NewReader(script)
	_, err := output(cmd)
	return err
}

// million changes the 500 000 files of the image many and makes as many.
func million(dir string, lap func(string)) error {
	if err := changeAll(filepath.Join(dir, "usr/share"), 500_000, chmod); err != nil {
		return err
	}
	lap("chmod 500 000")
	for i := range newDirs {
		err := inDir(fmt.Sprintf("%s/%d", newDir(dir), i), func(fd int) error {
			for j := range 50_000 {
				if err := writeNew(fd, fmt.Sprint(j), 0o644, nil, nil); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
