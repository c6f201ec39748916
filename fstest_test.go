// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/containerd/continuity/fs/fstest"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/fusetest"
	"github.com/imgfs/imgfs/internal/tartest"
)

// A committer applies each step of a suite to a read-write mount and commits
// that, living, to the next image.
type committer struct {
	t  *testing.T
	st *imgfs.Store
	at int // the image at hand is "step:at"
	up int // suites before
}

func (c *committer) name() string { return fmt.Sprintf("suite%d:step%d", c.up, c.at) }

// TestContext begins a suite with an empty image.
func (c *committer) TestContext(ctx context.Context) (context.Context, func(), error) {
	c.up++
	c.at = 0
	_, err := c.st.Import(ctx, "-", bytes.NewReader(tartest.Tar(c.t, "")), c.name(), imgfs.LoadOptions{})
	return ctx, func() {}, err
}

// Apply returns the image that was made, mounted.
func (c *committer) Apply(ctx context.Context, a fstest.Applier) (string, func(), error) {
	dir := c.t.TempDir()
	m, err := c.st.Mount(ctx, c.name(), dir, nil, imgfs.MountOptions{Writable: true, Discard: true})
	if err != nil {
		return "", nil, err
	}
	err = a.Apply(dir)
	if err == nil {
		c.at++
		_, err = c.st.Commit(ctx, dir, c.name(), imgfs.CommitOptions{}, false)
	}
	if err := errors.Join(err, m.Unmount(false), m.Wait()); err != nil {
		return "", nil, err
	}
	// A read-only mount of a tree without xattrs knows none; the suite lists them.
	r, err := c.st.Mount(ctx, c.name(), dir, nil, imgfs.MountOptions{Writable: true, Discard: true})
	if err != nil {
		return "", nil, err
	}
	return dir, func() {
		if err := errors.Join(r.Unmount(false), r.Wait()); err != nil {
			c.t.Error(err)
		}
	}, nil
}

// TestSuiteOfContinuity is the suite that containerd holds its snapshotters to.
func TestSuiteOfContinuity(t *testing.T) {
	unraced(t)
	fusetest.Need(t)
	if os.Geteuid() != 0 {
		t.Skip("it gives files away")
	}
	run, err := os.MkdirTemp("/tmp", "imgfs-run-") // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(run)
	t.Setenv("IMGFS_RUNTIME_DIR", run)
	st, err := imgfs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fstest.FSSuite(t, &committer{t: t, st: st})
}
