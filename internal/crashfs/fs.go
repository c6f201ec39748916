// SPDX-License-Identifier: Apache-2.0

package crashfs

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An FS is a mounted recorder.
type FS struct {
	Dir string // where it is mounted

	backing string
	log     string
	cmd     *exec.Cmd
	errs    strings.Builder

	mu      sync.Mutex // guards the talk with the server
	in      io.WriteCloser
	answers *bufio.Scanner
}

// An Options' zero value is fit for use.
type Options struct {
	Backing string        // an empty directory below it all; "" = one made in the FS's own
	Delay   time.Duration // how long a sync takes at most; 0 = no time
}

// Mount mounts a recorder in tmp, a directory of its own, which should be on
// a tmpfs: nothing there has to last.
func Mount(tmp string, opt Options) (*FS, error) {
	f := &FS{Dir: filepath.Join(tmp, "mnt"), backing: opt.Backing, log: filepath.Join(tmp, "log")}
	if f.backing == "" {
		f.backing = filepath.Join(tmp, "disk")
	}
	for _, dir := range []string{f.Dir, f.backing} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	o, err := json.Marshal(orders{Backing: f.backing, Point: f.Dir, Log: f.log, Delay: opt.Delay})
	if err != nil {
		return nil, err
	}
	f.cmd = exec.Command(self)
	f.cmd.Env = append(os.Environ(), serverEnv+"="+string(o), "GORACE=atexit_sleep_ms=0")
	f.cmd.Stderr = &f.errs
	if f.in, err = f.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	f.answers = bufio.NewScanner(out)
	if !f.answers.Scan() {
		return nil, fmt.Errorf("crashfs: no answer: %w: %s", f.cmd.Wait(), &f.errs)
	}
	return f, nil
}

// ask sends a request and returns the answer.
func (f *FS) ask(r request) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	line, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	if _, err := f.in.Write(append(line, '\n')); err != nil {
		return "", err
	}
	if !f.answers.Scan() {
		return "", errors.Join(io.ErrUnexpectedEOF, f.answers.Err())
	}
	return f.answers.Text(), nil
}

// order is ask for what has no answer but an error.
func (f *FS) order(r request) error {
	text, err := f.ask(r)
	if err == nil && text != "" {
		err = errors.New(text)
	}
	return err
}

// SyncFS is what syncfs(2) would be. Any failure of it is EIO.
func (f *FS) SyncFS() error {
	if err := f.order(request{SyncFS: true}); err != nil {
		return fmt.Errorf("%w: %w", unix.EIO, err)
	}
	return nil
}

// Fail adds a fault.
func (f *FS) Fail(fault Fault) error { return f.order(request{Fault: &fault}) }

// Heal ends all faults.
func (f *FS) Heal() error { return f.order(request{Clear: true}) }

// Struck returns how many calls faults made fail.
func (f *FS) Struck() (int, error) {
	text, err := f.ask(request{Count: true})
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// KillAt ends a process by SIGKILL as soon as there are n records: the last of
// them is applied and not yet answered.
func (f *FS) KillAt(pid int, n uint64) error { return f.order(request{Kill: pid, At: n}) }

// Pos returns how long the log is. All that was answered before is in it.
func (f *FS) Pos() (int64, error) {
	st, err := os.Stat(f.log)
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// Log reads what was recorded so far.
func (f *FS) Log() (*Log, error) { return ReadLog(f.log) }

// Unmount ends the recorder. What is open in it is cut off.
func (f *FS) Unmount() error {
	err := unix.Unmount(f.Dir, 0)
	if errors.Is(err, unix.EBUSY) {
		err = errors.Join(fmt.Errorf("crashfs: %s: %w", f.Dir, err), unix.Unmount(f.Dir, unix.MNT_DETACH))
		f.cmd.Process.Kill()
	}
	err = errors.Join(err, f.in.Close())
	if werr := f.cmd.Wait(); werr != nil && err == nil {
		err = fmt.Errorf("crashfs: %w: %s", werr, &f.errs)
	}
	return err
}
