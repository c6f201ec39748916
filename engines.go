// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
	"github.com/imgfs/imgfs/image/engine"
	"github.com/imgfs/imgfs/index"
)

// An UnreadableError names a file of an engine's store that cannot be read.
type UnreadableError = engine.UnreadableError

// An EngineNotFoundError says that an engine's store does not have just one
// thing of a name, and what it has. It is an image.ErrNotFound.
type EngineNotFoundError = engine.NotFoundError

// SplitArg splits an argument of OpenImage or OpenStack, SOURCE[:/path], into
// the source and the path inside of it; see image.SplitPath.
func SplitArg(arg string) (src, path string) {
	if src, path, ok := engine.SplitPath(arg, isDir); ok {
		return src, path
	}
	return image.SplitPath(arg, onDisk)
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// inEngine reports whether src means something in the store of an engine:
// KIND:ROOT[:NAME] always; KIND:NAME, which may also be an image that is called
// like an engine, if that engine has a store here and ours has no such image.
func (s *Store) inEngine(src string) (engine.Location, bool) {
	l, ok := engine.Parse(src, isDir)
	if !ok || l.Root != "" {
		return l, ok
	}
	if ref, _, err := s.findRef(src); err != nil || ref != nil || onDisk(src) {
		return l, false
	}
	return l, isDir(engine.DefaultRoot(l.Kind))
}

// thereToOpen reports whether what an image in place was opened from is there:
// its file, or the store of its engine.
func thereToOpen(where string) bool {
	if l, ok := engine.Parse(where, isDir); ok {
		return isDir(l.Root)
	}
	return isThere(where)
}

// openStoreOf opens the store of an engine.
func (s *Store) openStoreOf(ctx context.Context, l engine.Location) (*engine.Store, error) {
	e, err := engine.Open(ctx, l, engine.Options{
		Temp: s.tempFile, Whiteout: index.WhiteoutPrefix, Opaque: index.OpaqueMarker,
		Root: os.Geteuid() == 0 && !inUserNamespace(),
	})
	if err != nil && l.Root == "" {
		err = about(engine.DefaultRoot(l.Kind), err)
	}
	return e, err
}

// tempFile makes a file in the store that has no name any more.
func (s *Store) tempFile() (*os.File, error) {
	stage, err := s.ls.NewStage()
	if err != nil {
		return nil, err
	}
	defer stage.Discard()
	f, err := os.OpenFile(stage.Temp("engine"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// A found is what was found in the store of an engine.
type found struct {
	*archive.Source              // has it alone
	where           string       // how it is opened again, from anywhere
	item            *engine.Item // the image or container
	changes         int          // how many layers, the last ones, are a container's
}

// findIn opens what l means. base leaves away what a container changed.
func (s *Store) findIn(ctx context.Context, l engine.Location, base bool) (*found, error) {
	e, err := s.openStoreOf(ctx, l)
	if err != nil {
		return nil, err
	}
	f := &found{where: e.Location().String()}
	if f.item, err = e.Find(ctx, l.Name); err == nil {
		f.Source, f.changes, err = e.Source(ctx, f.item, base)
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return f, nil
}

// openEngine opens an image or a container of an engine's store in place.
func (s *Store) openEngine(ctx context.Context, src string, l engine.Location, base bool, opt OpenOptions) (*Image, error) {
	f, err := s.findIn(ctx, l, base)
	if err != nil {
		return nil, err
	}
	i, err := s.openPlaces(ctx, src, f.Source, opt)
	if err != nil {
		return nil, errors.Join(s.everyUnreadable(ctx, l, base, err), f.Close())
	}
	i.where, i.container = f.where, f
	return i, nil
}

// mostUnreadable is how many files are named.
const mostUnreadable = 20

// everyUnreadable returns err, which came from reading what l means, or if a
// file that cannot be read is its cause, the errors of all such files.
func (s *Store) everyUnreadable(ctx context.Context, l engine.Location, base bool, err error) error {
	var one *engine.UnreadableError
	if !errors.As(err, &one) {
		return err
	}
	f, errFind := s.findIn(ctx, l, base) // what err came from is closed
	if errFind != nil {
		return err
	}
	defer f.Close()
	var errs []error
	more := 0
	for _, e := range f.Entries() {
		for _, m := range e.Images {
			for k, l := range m.Layers {
				if l.Bytes == nil {
					continue
				}
				errEach := l.Bytes.EachUnreadable(ctx, func(err error) {
					if len(errs) < mostUnreadable {
						errs = append(errs, layerError(k, err))
					} else {
						more++
					}
				})
				if errEach != nil {
					errs = append(errs, layerError(k, errEach))
				}
			}
		}
	}
	if len(errs) == 0 {
		return err
	}
	if more > 0 {
		errs = append(errs, fmt.Errorf("%d more files cannot be read: %w", more, one))
	}
	return errors.Join(errs...)
}

// openEngineTold is openEngine that tells what cannot be shown.
func (s *Store) openEngineTold(ctx context.Context, src string, l engine.Location, opt OpenOptions) (*Image, error) {
	i, err := s.openEngine(ctx, src, l, false, opt)
	if err == nil {
		i.container.warn(opt.Warn)
	}
	return i, err
}

// warn tells what of a container's changes its layer cannot tell.
func (f *found) warn(warn func(string)) {
	if warn == nil || f.changes == 0 {
		return
	}
	for _, e := range f.Entries() {
		for _, m := range e.Images {
			for _, l := range m.Layers[max(0, len(m.Layers)-f.changes):] {
				for k, p := range engine.Problems(l.Bytes) {
					if k == mostUnreadable {
						warn("… and more")
						break
					}
					warn(p.Error())
				}
			}
		}
	}
}

// complete gives a container the config that it would have if it were
// committed, so that it can be loaded and copied as an image.
func (f *found) complete(ctx context.Context) error {
	if f.changes == 0 {
		return nil
	}
	for _, e := range f.Entries() {
		for k := range e.Images {
			m := &e.Images[k]
			if m.Missing != nil || m.Attestation {
				continue
			}
			if err := f.completeImage(ctx, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// completeImage is complete for one image.
func (f *found) completeImage(ctx context.Context, m *archive.Image) error {
	m.Layers = slices.Clone(m.Layers)
	raw := m.Config.Raw
	for k := len(m.Layers) - f.changes; k < len(m.Layers); k++ {
		l := &m.Layers[k]
		r, err := l.Section(ctx)
		if err != nil {
			return layerError(k, err)
		}
		if l.DiffID, err = digest.FromReader(&ctxReader{ctx: ctx, r: r}); err != nil {
			return layerError(k, err)
		}
		raw, err = image.Commit(raw, image.CommitOptions{DiffID: l.DiffID, Created: f.item.Created.UTC(), CreatedBy: f.item.Title()})
		if err != nil {
			return err
		}
	}
	parsed, err := image.ParseConfig(raw)
	if err != nil {
		return err
	}
	m.Parsed, m.Manifest = parsed, archive.Document{}
	m.Config = document(image.MediaTypeDockerConfig, "", digest.FromBytes(raw), raw)
	return nil
}

// loadable opens what l means as an archive whose images are whole.
func (s *Store) loadable(ctx context.Context, l engine.Location) (*archive.Source, error) {
	f, err := s.findIn(ctx, l, false)
	if err != nil {
		return nil, err
	}
	if err := f.complete(ctx); err != nil {
		return nil, errors.Join(s.everyUnreadable(ctx, l, false, err), f.Close())
	}
	return f.Source, nil
}

// unproven adds to err, that a layer is not what its diffID says, why it cannot
// be.
func unproven(ctx context.Context, l *archive.Layer, err error) error {
	if why := whyUnproven(ctx, l); why != "" && errors.Is(err, ErrDigest) {
		return fmt.Errorf("%w: it %s", err, why)
	}
	return err
}

// whyUnproven returns why the bytes of a layer cannot be what its diffID says;
// "" if they can.
func whyUnproven(ctx context.Context, l *archive.Layer) string {
	u, ok := l.Bytes.(interface {
		Unproven(context.Context) (string, error)
	})
	if !ok {
		return ""
	}
	why, err := u.Unproven(ctx)
	if err != nil {
		return "" // who reads it is told
	}
	return why
}

// An EngineItem is an image, under one of its names, or a container in the
// store of another engine.
type EngineItem struct {
	ImageSummary        // of a container: Repository is its name, Tag empty
	Container    bool   //
	ContainerID  string // as its engine has it
	Image        string // of a container: its image, as people call it
	Namespace    string // containerd's
	Containers   int    // of an image: how many were made of it
}

// EngineItems lists the images and containers of an engine's store,
// KIND:[ROOT], the newest first. A size of -1 is not known.
func (s *Store) EngineItems(ctx context.Context, arg string) ([]EngineItem, error) {
	l, ok := engine.Parse(arg, isDir)
	if !ok && slices.Contains(engine.Kinds, engine.Kind(strings.TrimSuffix(arg, ":"))) {
		l, ok = engine.Location{Kind: engine.Kind(strings.TrimSuffix(arg, ":"))}, true
	}
	if !ok || l.Name != "" {
		return nil, optionError{fmt.Errorf("%q is no store: want docker:PATH, containerd:PATH or containers-storage:PATH", arg)}
	}
	e, err := s.openStoreOf(ctx, l)
	if err != nil {
		return nil, about(strings.TrimSuffix(arg, ":"), err)
	}
	items, err := e.Items(ctx)
	if err := errors.Join(err, e.Close()); err != nil {
		return nil, about(arg, err)
	}
	used := make(map[string]int)
	for _, i := range items {
		if i.Container {
			used[i.Namespace+"\x00"+i.ImageID]++
		}
	}
	var list []EngineItem
	for _, i := range items {
		sum := EngineItem{Namespace: i.Namespace, ImageSummary: ImageSummary{
			Digest: i.Target, Created: i.Created, Size: i.Size, Platform: i.Platform, Labels: i.Labels,
		}}
		if i.Container {
			sum.Container, sum.ContainerID, sum.Image = true, i.ID, i.Image
			sum.Repository = strings.Join(i.Names, ",")
			list = append(list, sum)
			continue
		}
		sum.ID = digest.Digest(i.ID)
		for _, name := range append(slices.Clone(i.Names), i.ID) {
			sum.Containers += used[i.Namespace+"\x00"+name]
		}
		names := i.Names
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			sum.Repository, sum.Tag = repositoryAndTag(name)
			list = append(list, sum)
		}
	}
	return list, nil
}

// EngineNames returns the arguments that begin with word and name something in
// an engine's store: KIND:[ROOT:]NAME. Where there is no such store there are
// none. With containers alone, those.
func (s *Store) EngineNames(ctx context.Context, word string, containers bool) (list []string) {
	l, ok := engine.Parse(word, isDir)
	if kind, rest, _ := strings.Cut(word, ":"); !ok && rest == "" && slices.Contains(engine.Kinds, engine.Kind(kind)) {
		l, ok = engine.Location{Kind: engine.Kind(kind)}, true
	}
	if !ok {
		return nil
	}
	e, err := s.openStoreOf(ctx, l)
	if err != nil {
		return nil
	}
	defer e.Close() // it was only read
	items, err := e.Items(ctx)
	if err != nil {
		return nil
	}
	for _, i := range items {
		if containers && !i.Container {
			continue
		}
		names := i.Names
		if len(names) == 0 {
			names = []string{i.ID}
		}
		for _, name := range names {
			if r, err := image.ParseReference(name); err == nil && !i.Container {
				name = r.Familiar()
			}
			l.Name = name
			if arg := l.String(); strings.HasPrefix(arg, word) {
				list = append(list, arg)
			}
		}
	}
	return list
}

// A NotContainerError says that what was asked for is an image, which has not
// drifted from anything.
type NotContainerError struct{ Arg string }

func (e *NotContainerError) Error() string {
	return e.Arg + ": an image, not a container: nothing has changed it"
}

// OpenDrift opens a container of an engine's store, an upper (upper:NAME or its
// name) or a read-write mount of one, and the image that it was made of. The
// error is a *NotContainerError of an image.
func (s *Store) OpenDrift(ctx context.Context, arg string, opt OpenOptions) (base, container *forensics.Stack, err error) {
	src, path := SplitArg(arg)
	if l, ok := engine.Parse(src, isDir); ok {
		return s.openEngineDrift(ctx, arg, l, path, opt)
	}
	name, ok := strings.CutPrefix(src, "upper:")
	if ok {
		if err := s.hasUpper(name); err != nil {
			return nil, nil, err
		}
	}
	up, err := s.findUpper(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	of, _, err := s.imageOf(up.name)
	if err != nil {
		return nil, nil, err
	}
	if base, err = s.openPart(ctx, of, path, opt); err != nil {
		return nil, nil, err
	}
	if container, err = s.openUpperStack(ctx, up, arg, path); err != nil {
		return nil, nil, errors.Join(err, base.Close())
	}
	return base, container, nil
}

// openPart opens an image, or the part of it at path if there is such a part.
func (s *Store) openPart(ctx context.Context, arg, path string, opt OpenOptions) (*forensics.Stack, error) {
	i, err := s.OpenImage(ctx, arg, nil, opt)
	if err != nil {
		return nil, err
	}
	return s.stackOf(ctx, arg, i, path)
}

func (s *Store) stackOf(ctx context.Context, name string, i *Image, path string) (*forensics.Stack, error) {
	o := &stackOpener{s: s, img: i, stack: &forensics.Stack{Name: name, Closers: []io.Closer{i}}}
	return o.open(ctx, "", path)
}

func (s *Store) openEngineDrift(ctx context.Context, arg string, l engine.Location, path string, opt OpenOptions) (base, container *forensics.Stack, err error) {
	quiet := opt
	quiet.Warn = nil // the container has these layers, too
	below, err := s.openEngine(ctx, arg, l, true, quiet)
	if err != nil {
		return nil, nil, about(arg, err)
	}
	i, err := s.openEngine(ctx, arg, l, false, opt)
	if err != nil {
		return nil, nil, errors.Join(about(arg, err), below.Close())
	}
	if f := i.container; f == nil || f.changes == 0 {
		return nil, nil, errors.Join(&NotContainerError{arg}, below.Close(), i.Close())
	}
	if base, err = s.stackOf(ctx, arg, below, path); err != nil {
		return nil, nil, errors.Join(err, i.Close())
	}
	if container, err = s.stackOf(ctx, arg, i, path); err != nil {
		return nil, nil, errors.Join(err, base.Close())
	}
	return base, container, nil
}
