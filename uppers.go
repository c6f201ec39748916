// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/control"
)

// ErrNoUpper marks a name that no upper has.
var ErrNoUpper = errors.New("no such upper")

// UpperInfo is an upper: the changes made over an image, kept under a name.
type UpperInfo struct {
	Name     string    `json:"name"`
	Image    string    `json:"image"` // as it was asked for
	ImageID  string    `json:"image_id"`
	Platform string    `json:"platform"`
	ChainID  string    `json:"chain_id"`
	Created  time.Time `json:"created"`
	Changed  int64     `json:"changed"` // inodes that differ from the image; -1: not known, it was not closed in order
	Size     int64     `json:"size"`    // bytes on disk
	Mount    string    `json:"mount,omitempty"`
	PID      int       `json:"pid,omitempty"` // of who has it open
}

// maxUpperName bounds the name of an upper.
const maxUpperName = 128

// checkUpperName refuses what cannot be the name of a directory, or reads as
// something else.
func checkUpperName(name string) error {
	ok := name != "" && len(name) <= maxUpperName && isAlnum(name[0])
	for i := 0; i < len(name) && ok; i++ {
		ok = isAlnum(name[i]) || strings.IndexByte("_.-", name[i]) >= 0
	}
	if !ok {
		return optionError{fmt.Errorf("%q cannot be the name of an upper: it takes letters, digits, '_', '.' and '-', at most %d, the first a letter or digit", name, maxUpperName)}
	}
	return nil
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// newUpperName makes a name for an upper over an image.
func newUpperName(img string) string {
	base := "image"
	if r, err := image.ParseReference(img); err == nil {
		base = path.Base(r.FamiliarName())
	} else if b, _, _ := strings.Cut(path.Base(img), "."); checkUpperName(b) == nil {
		base = b
	}
	b := make([]byte, 4)
	rand.Read(b) // never fails
	return base[:min(len(base), maxUpperName/2)] + "-" + hex.EncodeToString(b)
}

func (s *Store) uppersDir() string { return filepath.Join(s.Root(), "uppers") }

func (s *Store) upperDir(name string) string { return filepath.Join(s.uppersDir(), name) }

// Uppers returns the uppers of the store, sorted by name.
func (s *Store) Uppers(ctx context.Context) ([]UpperInfo, error) {
	names, err := os.ReadDir(s.uppersDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	holders, err := s.upperHolders(ctx)
	if err != nil {
		return nil, err
	}
	var (
		list []UpperInfo
		errs []error
	)
	for _, e := range names {
		if checkUpperName(e.Name()) != nil {
			continue // being made or removed
		}
		info, err := s.upperInfo(e.Name(), holders)
		switch {
		case errors.Is(err, ErrNoUpper): // removed since
		case err != nil:
			errs = append(errs, err)
		default:
			list = append(list, *info)
		}
	}
	return list, errors.Join(errs...)
}

// Upper returns one upper. The error is ErrNoUpper if there is none of that
// name.
func (s *Store) Upper(ctx context.Context, name string) (*UpperInfo, error) {
	holders, err := s.upperHolders(ctx)
	if err != nil {
		return nil, err
	}
	return s.upperInfo(name, holders)
}

// upperHolders returns the mounts whose uppers are of this store, by name.
func (s *Store) upperHolders(ctx context.Context) (map[string]*control.Entry, error) {
	found, err := registered(ctx)
	if err != nil {
		return nil, err
	}
	holders := map[string]*control.Entry{}
	for _, r := range found {
		if r.State == control.Dead || r.Upper == "" {
			continue
		}
		if same, err := isSame(r.Store, s.Root()); err == nil && same {
			holders[r.Upper] = r.Entry
		}
	}
	return holders, nil
}

func isSame(a, b string) (bool, error) {
	x, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y), err
}

func (s *Store) upperInfo(name string, holders map[string]*control.Entry) (*UpperInfo, error) {
	if err := checkUpperName(name); err != nil {
		return nil, err
	}
	dir := s.upperDir(name)
	c, err := cow.ReadInfo(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", name, ErrNoUpper)
	}
	if err != nil {
		return nil, fmt.Errorf("upper %s: %w", name, err)
	}
	info := &UpperInfo{
		Name: name, Image: c.Image, ImageID: c.ImageID, Platform: c.Platform, ChainID: c.ChainID,
		Created: time.Unix(c.Created.Sec, int64(c.Created.Nsec)), Changed: c.Changed,
	}
	if info.Size, err = cow.Size(dir); err != nil {
		return nil, fmt.Errorf("upper %s: %w", name, err)
	}
	if e := holders[name]; e != nil {
		info.Mount, info.PID, info.Changed = e.Dir, e.Server, e.Changed
	}
	return info, nil
}

// RemoveUpper removes an upper and all changes in it. It is refused while the
// upper is in use.
func (s *Store) RemoveUpper(name string) error {
	if err := s.hasUpper(name); err != nil {
		return err
	}
	return upperError(name, whenFree(context.Background(), func() error { return cow.Remove(s.upperDir(name)) }))
}

// RenameUpper gives an upper another name. It is refused while the upper is in
// use, or if the name is taken.
func (s *Store) RenameUpper(name, to string) error {
	if err := s.hasUpper(name); err != nil {
		return err
	}
	if err := checkUpperName(to); err != nil {
		return err
	}
	err := whenFree(context.Background(), func() error { return cow.Rename(s.upperDir(name), s.upperDir(to)) })
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("upper %s: there is one of that name: %w", to, fs.ErrExist)
	}
	return upperError(name, err)
}

func (s *Store) hasUpper(name string) error {
	if err := checkUpperName(name); err != nil {
		return err
	}
	if _, err := os.Lstat(s.upperDir(name)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", name, ErrNoUpper)
	}
	return nil
}

func upperError(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("upper %s: %w", name, err)
}

// base describes the image for an upper that is made over it.
func (i *Image) base() (cow.Base, error) {
	b := cow.Base{
		Image: i.Name, ImageID: i.ID.String(), Manifest: i.Digest.String(),
		Platform: i.Platform, ChainID: i.chain.String(),
	}
	if len(i.places) == 0 {
		return b, nil
	}
	file, err := i.opened()
	b.Image, b.File = file, file
	return b, err
}

// opened returns how an image in place is opened from anywhere.
func (i *Image) opened() (string, error) {
	if i.where != "" {
		return i.where, nil
	}
	return filepath.Abs(i.Name)
}

// openUpper opens the upper name over i; dir is where it will be mounted, for
// others to read. It is made if there is none. An empty name stands for a new
// one.
func (s *Store) openUpper(ctx context.Context, i *Image, name, dir string, opt cow.Options) (_ *cow.Upper, _ string, made bool, err error) {
	base, err := i.base()
	if err != nil {
		return nil, "", false, err
	}
	if name == "" {
		name = newUpperName(base.Image)
	} else if err := checkUpperName(name); err != nil {
		return nil, "", false, err
	}
	if err := s.ls.Create(); err != nil {
		return nil, "", false, err
	}
	if err := os.Mkdir(s.uppersDir(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, "", false, err
	}
	path := s.upperDir(name)
	switch err := cow.Create(path, base); {
	case err == nil:
		made = true
	case !errors.Is(err, fs.ErrExist):
		return nil, "", false, upperError(name, err)
	}
	opt.MountDir = dir
	var u *cow.Upper
	err = whenFree(ctx, func() (err error) { u, err = cow.Open(path, i.FS, base.ChainID, opt); return err })
	if err != nil {
		if made {
			err = errors.Join(err, cow.Remove(path))
		}
		return nil, "", false, upperError(name, err)
	}
	return u, name, made, nil
}

// imageOf returns the argument for OpenImage that opens the image an upper lies
// over, and what it was called.
func (s *Store) imageOf(upper string) (arg, name string, err error) {
	if err := s.hasUpper(upper); err != nil {
		return "", "", err
	}
	c, err := cow.ReadInfo(s.upperDir(upper))
	if err != nil {
		return "", "", upperError(upper, err)
	}
	if c.File == "" || !thereToOpen(c.File) && s.hasImage(c.ImageID, c.Platform) {
		return c.ImageID, c.Image, nil
	}
	if !thereToOpen(c.File) {
		return "", "", fmt.Errorf("upper %s: its image file %s is gone, and %s is not in the store: %w", upper, c.File, c.ImageID, fs.ErrNotExist)
	}
	return c.File, c.Image, nil
}

func (s *Store) hasImage(id, platform string) bool {
	_, _, err := s.findID(id, platform)
	return err == nil
}

// An upperUse is an upper that a mount has open. A nil one is none.
type upperUse struct {
	u    *cow.Upper
	name string
	dir  string
	drop func(*cow.Upper) bool // whether it goes at the end
	kept bool                  // set by end

	// A call that is under way ends before the upper does.
	calls sync.WaitGroup
	over  context.Context // ends with the mount
	stop  context.CancelFunc
	mu    sync.Mutex
	ended bool // guarded by mu; no call begins any more
}

// call answers a command that asks for the upper's changes.
func (use *upperUse) call(ctx context.Context, c *control.Call, w io.Writer) error {
	use.mu.Lock()
	if use.ended {
		use.mu.Unlock()
		return errUnmounted
	}
	use.calls.Add(1)
	use.mu.Unlock()
	defer use.calls.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(use.over, cancel)()
	err := callUpper(ctx, use.u, c, w)
	if use.over.Err() != nil && err != nil {
		return errUnmounted
	}
	return err
}

// errUnmounted is told to who calls a mount that is ending.
var errUnmounted error = unmountedError{}

type unmountedError struct{}

func (unmountedError) Error() string { return "unmounted meanwhile" }
func (unmountedError) Unwrap() error { return syscall.ENOTCONN }

// useUpper opens the upper that opt asks for, over img, for a mount at dir.
func (s *Store) useUpper(ctx context.Context, img *Image, dir string, opt *MountOptions) (*upperUse, error) {
	switch {
	case img.Path != "":
		return nil, &RefusedError{Dir: dir, Reason: "a part of an image cannot be mounted read-write", Hint: "mount the whole image"}
	case opt.Discard && opt.Upper != "" && s.hasUpper(opt.Upper) == nil:
		return nil, &RefusedError{
			Dir: dir, Reason: "upper " + opt.Upper + " holds changes that --rm would drop",
			Hint: "leave --rm out, or choose another name",
		}
	}
	u, name, made, err := s.openUpper(ctx, img, opt.Upper, dir, cow.Options{Log: opt.Logf})
	if err != nil {
		return nil, err
	}
	use := &upperUse{u: u, name: name, dir: s.upperDir(name), drop: func(*cow.Upper) bool { return false }}
	use.over, use.stop = context.WithCancel(context.Background())
	switch {
	case opt.Discard:
		use.drop = func(*cow.Upper) bool { return true }
	case made && opt.Upper == "":
		use.drop = func(u *cow.Upper) bool {
			empty, err := u.Empty()
			return err == nil && empty
		}
	}
	return use, nil
}

// changed returns how many inodes the upper holds, -1 if that cannot be told.
func (use *upperUse) changed() int64 {
	n, err := use.u.Changed()
	if err != nil {
		return -1
	}
	return n
}

// end closes the upper, and removes it if nobody wants it.
func (use *upperUse) end() error {
	if use == nil {
		return nil
	}
	use.mu.Lock()
	use.ended = true
	use.mu.Unlock()
	use.stop()
	use.calls.Wait()
	if use.drop(use.u) {
		return upperError(use.name, errors.Join(use.u.Abandon(), cow.Remove(use.dir)))
	}
	err := use.u.Close()
	use.kept = true
	return upperError(use.name, err)
}
