// SPDX-License-Identifier: Apache-2.0

package kill

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Server is a mounted file system's process.
type Server interface {
	Pid() int
	Wait() error // returns when the process has ended
}

// A Config says what is killed.
type Config struct {
	Dir     string                 // where it is mounted
	Oracle  string                 // has the same content from the start
	Start   func() (Server, error) // mounts, and returns when Dir answers
	Workers []string               // their directories below Dir and Oracle
	Seed    uint64
	Life    time.Duration // the longest
	Until   time.Time
}

// Run kills until the time is over or something is missing. It returns how
// often it killed and how many calls were answered.
func Run(c Config) (kills, calls int, err error) {
	rng := rand.New(rand.NewPCG(c.Seed, 1))
	workers := make([]*worker, len(c.Workers))
	for i, dir := range c.Workers {
		workers[i] = &worker{
			mounted: filepath.Join(c.Dir, dir), oracle: filepath.Join(c.Oracle, dir),
			rng: rand.New(rand.NewPCG(c.Seed, uint64(i)+2)),
		}
	}
	for time.Now().Before(c.Until) {
		n, err := c.live(workers, time.Duration(rng.Int64N(int64(c.Life))))
		calls += n
		if err != nil {
			return kills, calls, fmt.Errorf("life %d: %w", kills, err)
		}
		kills++
	}
	return kills, calls, nil
}

// live starts a server, checks what it has, works on it, and kills it.
func (c *Config) live(workers []*worker, life time.Duration) (calls int, err error) {
	server, err := c.Start()
	if err != nil {
		return 0, err
	}
	defer func() {
		unix.Kill(server.Pid(), unix.SIGKILL)
		server.Wait()
		err = errors.Join(err, unix.Unmount(c.Dir, unix.MNT_DETACH))
	}()
	for _, w := range workers {
		if err := w.settle(); err != nil {
			return 0, err
		}
	}
	timer := time.AfterFunc(life, func() { unix.Kill(server.Pid(), unix.SIGKILL) })
	defer timer.Stop()
	errs := make([]error, len(workers))
	var all sync.WaitGroup
	for i, w := range workers {
		w.answered = 0
		all.Go(func() { errs[i] = w.work() })
	}
	all.Wait()
	for _, w := range workers {
		calls += w.answered
	}
	return calls, errors.Join(errs...)
}

// A worker calls, one call after another.
type worker struct {
	mounted, oracle string
	rng             *rand.Rand
	answered        int
	open            *call // under way when the server died
	last            []string
}

// work calls until the server is dead.
func (w *worker) work() error {
	for {
		k := w.next()
		got := k.do(w.mounted)
		if w.isDeath(got) {
			w.open = k
			return nil
		}
		w.answered++
		want := k.do(w.oracle)
		if !errors.Is(got, want) && !errors.Is(want, got) {
			return fmt.Errorf("%s: %s: %v, want %v\n%q", w.mounted, k.what, got, want, w.last)
		}
		if w.last = append(w.last, k.what); len(w.last) > 15 {
			w.last = w.last[1:]
		}
	}
}

// isDeath tells the errors of a mount whose server is gone. What the kernel
// could not write back is EIO to who closes the file, whatever the reason.
func (w *worker) isDeath(err error) bool {
	for range 50 {
		if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) {
			return true
		}
		if !errors.Is(err, unix.EIO) {
			return false
		}
		time.Sleep(10 * time.Millisecond)
		var st unix.Statfs_t // which no kernel answers by itself
		if probe := unix.Statfs(w.mounted, &st); probe != nil {
			err = probe
		}
	}
	return false
}

// settle compares both directories after a death. Where they differ, the call
// that was under way has happened: then the oracle follows.
func (w *worker) settle() error {
	k := w.open
	w.open = nil
	first, err := w.compare()
	if err != nil || first == "" {
		return err
	}
	if k == nil {
		return fmt.Errorf("%s: %s, with no call under way; before: %q", w.mounted, first, w.last)
	}
	if k.writes != "" {
		if err := w.adopt(k); err != nil {
			return fmt.Errorf("%s: %s was under way: %w; before: %q", w.mounted, k.what, err, w.last)
		}
	} else if err := k.do(w.oracle); err != nil {
		return fmt.Errorf("%s: %s\n%s was under way, and fails: %w; before: %q", w.mounted, first, k.what, err, w.last)
	}
	second, err := w.compare()
	if err == nil && second != "" {
		err = fmt.Errorf("%s: %s\n%s was under way, and with it: %s; before: %q", w.mounted, first, k.what, second, w.last)
	}
	return err
}

// adopt gives the oracle a file as a write that was under way has left it, if
// each of its blocks is an old or a new one.
func (w *worker) adopt(k *call) error {
	name := filepath.Join(w.oracle, k.writes)
	old, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if err := k.do(w.oracle); err != nil {
		return err
	}
	return w.mixed(k.writes, old)
}

// mixed gives the oracle's file what the mounted one has, if that is made of
// bytes of the oracle's and of what it was before.
func (w *worker) mixed(file string, old []byte) error {
	name := filepath.Join(w.oracle, file)
	fresh, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	got, err := os.ReadFile(filepath.Join(w.mounted, file))
	if err != nil {
		return err
	}
	if len(got) < min(len(old), len(fresh)) || len(got) > max(len(old), len(fresh)) {
		return fmt.Errorf("%s: %d bytes, want %d or %d", file, len(got), len(old), len(fresh))
	}
	for i, b := range got {
		switch {
		case i < len(old) && old[i] == b, i < len(fresh) && fresh[i] == b:
		case b == 0 && i >= min(len(old), len(fresh)):
		default:
			return fmt.Errorf("%s: byte %d is %#x, neither old nor new", file, i, b)
		}
	}
	return os.WriteFile(name, got, 0o644)
}
