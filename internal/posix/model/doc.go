// SPDX-License-Identifier: Apache-2.0

// Package model judges a filesystem by another one. It applies long random
// sequences of operations to two directory trees, one on a filesystem that is
// trusted (ext4) and one under test, through plain system calls, and compares
// everything that a program can see: results and errnos after each operation,
// and from time to time the whole trees.
//
// What is compared: type, mode, owner, nlink, size, content, xattrs and ACLs,
// device numbers, link targets, listings, which names are one inode, which
// inode a name had before; mtime and ctime by rule: explicit times to the
// nanosecond, others must move when and only when the trusted side's do.
// Descriptors stay open over any number of operations, their files unlinked or
// renamed over. SEEK_DATA and SEEK_HOLE need only be plausible: a hole that
// holds bytes other than zero is a failure, a needless data range is not.
//
// What is not: atime beyond the moment when it is set, allocated blocks, sizes
// of directories, order of listings (but a directory must be able to seek in
// its own), inode numbers as such.
//
// A sequence follows from its seed. At a mismatch it is printed, shrunk where
// the trees can be reset; Replay runs what was printed.
//
// Operations run on a thread of their own, with its own working directory,
// umask and credentials: ordinary users are that thread's, for one operation.
// The package does not know what it tests.
package model

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/imgfs/imgfs/internal/posix/thread"
)

// A Tree is one of the two sides.
type Tree struct {
	// Dir is the root: an empty directory that has been given to Populate,
	// or one that shows the same content.
	Dir string

	// Remount, if not nil, takes the tree away and brings it back, with all
	// that was done to it. No descriptor of it is open while it runs.
	Remount func() error

	// Reset, if not nil, brings back what the tree was at first. Failing
	// sequences are shrunk if both trees have it.
	Reset func() error
}

// shrinkFor is how long a failing sequence is shrunk.
const shrinkFor = 90 * time.Second

// Run applies ops operations that follow from seed to both trees, which must
// show the content of Populate for the same seed, and fails t at the first
// difference. a is trusted.
func Run(t testing.TB, seed uint64, ops int, a, b Tree) {
	t.Helper()
	thread.Run(func() {
		g := newGenerator(seed, a.Remount != nil || b.Remount != nil)
		r, why := begin(a, b)
		for range ops {
			if why != "" {
				break
			}
			o := g.next(r.a)
			g.did = append(g.did, o)
			why = r.step(o)
			g.learn(o, r.last)
		}
		if why == "" {
			why = r.check()
		}
		r.end()
		if why == "" {
			return
		}
		t.Errorf("seed %d, operation %d: %s", seed, len(g.did), why)
		seq := g.did
		if a.Reset != nil && b.Reset != nil {
			seq, why = shrink(seq, why, a, b, time.Now().Add(shrinkFor))
			t.Errorf("shrunk: %s", why)
		} else if len(seq) > 400 {
			t.Logf("the last 400 of %d operations:", len(seq))
			seq = seq[len(seq)-400:]
		}
		t.Logf("to replay:\n%s", script(seq))
	})
}

// Replay applies a sequence that Run printed.
func Replay(t testing.TB, text string, a, b Tree) {
	t.Helper()
	seq, err := parseScript(text)
	if err != nil {
		t.Fatal(err)
	}
	thread.Run(func() {
		if why, n := try(seq, a, b); why != "" {
			t.Errorf("operation %d: %s", n, why)
		}
	})
}

// try runs seq and returns the first difference and where it was, counted
// from 1; the empty string if there is none.
func try(seq []op, a, b Tree) (why string, at int) {
	r, why := begin(a, b)
	defer r.end()
	for i := range seq {
		if why != "" {
			return why, i
		}
		why = r.step(seq[i])
	}
	if why == "" {
		why = r.check()
	}
	return why, len(seq)
}

// isRoot says whether operations may need the rights of root.
func isRoot() bool { return os.Geteuid() == 0 }

func script(seq []op) string {
	var b strings.Builder
	for i := range seq {
		b.WriteString(seq[i].String())
		b.WriteByte('\n')
	}
	return b.String()
}

func parseScript(text string) ([]op, error) {
	var seq []op
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		o, err := parseOp(line)
		if err != nil {
			return nil, err
		}
		seq = append(seq, o)
	}
	return seq, nil
}
