// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"strconv"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/internal/control"
	"github.com/imgfs/imgfs/internal/control/mtab"
)

// What the server of a writable mount can be called for.
const (
	callChanges = "changes" // a line of JSON for each cow.Change
	callLayer   = "layer"   // a tar; the argument is cow.TarOptions
	callTree    = "tree"    // the same
)

// callUpper writes to w what c calls for.
func callUpper(ctx context.Context, u *cow.Upper, c *control.Call, w io.Writer) (err error) {
	var opt cow.TarOptions
	if len(c.Arg) > 0 {
		if err := json.Unmarshal(c.Arg, &opt); err != nil {
			return err
		}
	}
	snap, err := u.Snapshot()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	switch c.Name {
	case callChanges:
		enc := json.NewEncoder(w)
		return snap.Changes(ctx, func(ch cow.Change) error { return enc.Encode(ch) })
	case callLayer:
		return snap.WriteLayer(ctx, w, opt)
	case callTree:
		return snap.WriteTree(ctx, w, opt)
	}
	return fmt.Errorf("unknown call %.40q", c.Name)
}

// Call answers a command that asks for the changes of a writable mount.
func (m *Mount) Call(ctx context.Context, c *control.Call, w io.Writer) error {
	if m.upper == nil {
		return fmt.Errorf("%s: mounted read-only", m.info.Dir)
	}
	return m.upper.call(ctx, c, w)
}

// An upperSource is an upper that something is asked of: by the server of its
// mount if it is mounted, else here.
type upperSource struct {
	store *Store
	name  string
	mount *control.Entry // nil: not mounted
}

// findUpper returns the upper that arg names, or the one that is mounted on
// the directory arg.
func (s *Store) findUpper(ctx context.Context, arg string) (*upperSource, error) {
	if checkUpperName(arg) == nil && s.hasUpper(arg) == nil {
		holders, err := s.upperHolders(ctx)
		if err != nil {
			return nil, err
		}
		return &upperSource{s, arg, holders[arg]}, nil
	}
	place, err := mtab.Locate(arg)
	if err != nil || !place.IsOurs() {
		if onDisk(arg) {
			return nil, fmt.Errorf("%s: %w", arg, ErrNotMounted)
		}
		return nil, fmt.Errorf("%s: %w", arg, ErrNoUpper)
	}
	found, err := registered(ctx)
	if err != nil {
		return nil, err
	}
	var on *control.Entry // a dead one only if no other is found
	for _, r := range found {
		if r.at == nil || r.at.Device != place.Mount.Device || r.State == control.Dead && (on != nil || r.Dir != place.Path) {
			continue
		}
		on = r.Entry
		if r.State != control.Dead {
			break
		}
	}
	switch {
	case on == nil:
		return nil, fmt.Errorf("%s: %w that answers", arg, ErrNotMounted)
	case on.Upper == "":
		return nil, &RefusedError{Dir: arg, Reason: "is mounted read-only and has no changes"}
	}
	if same, err := isSame(on.Store, s.Root()); err != nil || !same {
		return nil, &RefusedError{Dir: arg, Reason: "is a mount of another store", Hint: "imgfs --root " + on.Store}
	}
	if on.State == control.Dead {
		return &upperSource{s, on.Upper, nil}, nil
	}
	return &upperSource{s, on.Upper, on}, nil
}

// call writes to w what the call asks of the upper. If its mount is just ending
// it is asked of the upper alone.
func (f *upperSource) call(ctx context.Context, name string, arg any, w io.Writer) error {
	raw, err := json.Marshal(arg)
	if err != nil {
		return err
	}
	out := &startedWriter{w: w}
	for begun := time.Now(); ; {
		err := f.callOnce(ctx, &control.Call{Name: name, Arg: raw}, out)
		if !isEnding(err) || out.started || time.Since(begun) > endTime {
			return err
		}
		f.mount = nil
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// A startedWriter knows whether anything was written.
type startedWriter struct {
	w       io.Writer
	started bool
}

func (s *startedWriter) Write(p []byte) (int, error) {
	s.started = true
	return s.w.Write(p)
}

// isEnding tells that the server that was called has ended, or is about to.
func isEnding(err error) bool {
	if said := (*control.CallError)(nil); errors.As(err, &said) {
		return said.Errno == syscall.ENOTCONN
	}
	for _, is := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, is) {
			return true
		}
	}
	var dial *net.OpError // its socket is gone
	return errors.As(err, &dial) && errors.Is(dial, fs.ErrNotExist)
}

// pause waits a moment.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pollTime):
		return nil
	}
}

func (f *upperSource) callOnce(ctx context.Context, c *control.Call, w io.Writer) error {
	if f.mount != nil {
		return f.mount.Call(ctx, c, w)
	}
	img, u, err := f.wait(ctx)
	if err != nil {
		return err
	}
	if u == nil { // mounted since
		return f.mount.Call(ctx, c, w)
	}
	out := bufio.NewWriterSize(w, 64<<10)
	return errors.Join(callUpper(ctx, u, c, out), out.Flush(), u.Close(), img.Close())
}

// How long a command waits for an upper that another has open: for a command
// like itself, and for the end of a mount that is not listed any more.
const (
	commandTime = time.Minute
	pollTime    = 20 * time.Millisecond
)

// wait is open once no other command has the upper open any more. The upper is
// nil if it was mounted meanwhile; f.mount is set then.
func (f *upperSource) wait(ctx context.Context) (*Image, *cow.Upper, error) {
	for begun := time.Now(); ; {
		img, u, err := f.open(ctx)
		var used *cow.InUseError
		if !errors.As(err, &used) {
			return img, u, err
		}
		holders, herr := f.store.upperHolders(ctx)
		if herr != nil {
			return nil, nil, herr
		}
		if f.mount = holders[f.name]; f.mount != nil {
			return nil, nil, nil
		}
		limit := commandTime
		if used.Dir != "" {
			limit = endTime
		}
		if time.Since(begun) > limit {
			return nil, nil, err
		}
		if err := pause(ctx); err != nil {
			return nil, nil, err
		}
	}
}

// whenFree calls do, which wants the upper for itself, and again while the
// server of a mount that was there has not ended yet.
func whenFree(ctx context.Context, do func() error) error {
	for begun := time.Now(); ; {
		err := do()
		var used *cow.InUseError
		if !errors.As(err, &used) || used.Dir == "" || time.Since(begun) > endTime {
			return err
		}
		if place, lerr := mtab.Locate(used.Dir); lerr == nil && place.IsOurs() {
			return err
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// open opens the upper, which is not mounted, and its image.
func (f *upperSource) open(ctx context.Context) (*Image, *cow.Upper, error) {
	arg, _, err := f.store.imageOf(f.name)
	if err != nil {
		return nil, nil, err
	}
	img, err := f.store.OpenImage(ctx, arg, nil, OpenOptions{Verify: true})
	if err != nil {
		return nil, nil, fmt.Errorf("the image below upper %s: %w", f.name, err)
	}
	u, err := cow.Open(f.store.upperDir(f.name), img.FS, img.chain.String(), cow.Options{})
	if err != nil {
		return nil, nil, errors.Join(upperError(f.name, err), img.Close())
	}
	return img, u, nil
}

// A Change is a path that differs from the image.
type Change = cow.Change

// Changes calls f for each path that differs from the image, in the order of a
// walk. arg is the name of an upper or the directory of a writable mount.
func (s *Store) Changes(ctx context.Context, arg string, f func(Change) error) error {
	src, err := s.findUpper(ctx, arg)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(src.call(ctx, callChanges, nil, w)) }()
	defer r.Close()
	for dec := json.NewDecoder(r); ; {
		var c Change
		switch err := dec.Decode(&c); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := f(c); err != nil {
			return err
		}
	}
}

// ExportOptions say how a tree is written as a tar.
type ExportOptions struct {
	OpenOptions
	AllowChanging bool // a file that is being written is taken as it is
}

// Export writes a whole tree as a tar to w: of an upper with its image, of a
// writable mount, or of an image alone.
func (s *Store) Export(ctx context.Context, arg string, w io.Writer, opt ExportOptions) error {
	tar := cow.TarOptions{AllowChanging: opt.AllowChanging}
	src, err := s.findUpper(ctx, arg)
	if err == nil {
		return src.call(ctx, callTree, tar, w)
	}
	if r := (*RefusedError)(nil); !errors.Is(err, ErrNoUpper) && !errors.Is(err, ErrNotMounted) && !errors.As(err, &r) {
		return err
	}
	img, oerr := s.OpenImage(ctx, arg, nil, opt.OpenOptions)
	if oerr != nil {
		return oerr
	}
	if img.Path != "" {
		return errors.Join(optionError{fmt.Errorf("%s: a part of an image cannot be exported", arg)}, img.Close())
	}
	out := bufio.NewWriterSize(w, 64<<10)
	return errors.Join(cow.Over(img.FS).WriteTree(ctx, out, tar), out.Flush(), img.Close())
}

// Reset throws the changes of an upper away: all of them, or those at and
// below paths. It is refused while the upper is in use.
func (s *Store) Reset(ctx context.Context, name string, paths []string) error {
	src, err := s.findUpper(ctx, name)
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		return upperError(src.name, whenFree(ctx, func() error { return cow.Clear(s.upperDir(src.name)) }))
	}
	var (
		img *Image
		u   *cow.Upper
	)
	if err := whenFree(ctx, func() error { img, u, err = src.open(ctx); return err }); err != nil {
		return err
	}
	for _, p := range paths {
		if err = u.Reset(p); err != nil {
			err = resetError(img, p, err)
			break
		}
	}
	return errors.Join(err, u.Close(), img.Close())
}

// resetError says why the path p of an upper over img cannot be reset.
func resetError(img *Image, p string, err error) error {
	p = path.Clean("/" + p)
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reset %s: %w", p, err)
	}
	if _, lerr := img.FS.Resolve(p, false); lerr == nil {
		return fmt.Errorf("reset %s: what it lies in was removed or moved away: reset that", p)
	}
	return fmt.Errorf("reset %s: neither the image nor the upper has it: %w", p, fs.ErrNotExist)
}

// ChangingError names a file that was written while a commit or an export read
// it.
type ChangingError = cow.ChangingError

// commitTries is how often a commit begins anew when a file was written
// meanwhile that nobody had open at its beginning.
const commitTries = 3

// Commit makes an image of what arg, the name of an upper or the directory of a
// writable mount, has changed, and returns its ID. See CommitLayer. A file that
// is being written is an error that names it, unless allowChanging is true.
func (s *Store) Commit(ctx context.Context, arg, ref string, opt CommitOptions, allowChanging bool) (digest.Digest, error) {
	src, err := s.findUpper(ctx, arg)
	if err != nil {
		return "", err
	}
	id, name, err := s.imageOf(src.name)
	if err != nil {
		return "", err
	}
	base, err := s.OpenImage(ctx, id, nil, OpenOptions{Verify: true})
	if err != nil {
		return "", fmt.Errorf("%s, the image below upper %s: %w", name, src.name, err)
	}
	defer base.Close()
	layer := cow.TarOptions{AllowChanging: allowChanging}
	if epoch := os.Getenv(sourceDateEpoch); epoch != "" && opt.Created.IsZero() {
		if _, err := strconv.ParseInt(epoch, 10, 64); err != nil {
			return "", optionError{fmt.Errorf("%s=%q: want seconds since 1970", sourceDateEpoch, epoch)}
		}
		layer.Clamp = now()
	}
	write := func(w io.Writer) error { return src.call(ctx, callLayer, layer, w) }
	for try := 1; ; try++ {
		made, err := s.CommitLayer(ctx, base, ref, write, opt)
		if errors.Is(err, syscall.EAGAIN) && try < commitTries && ctx.Err() == nil {
			continue
		}
		return made, err
	}
}
