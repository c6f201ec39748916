// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/image"
)

// ErrNotLayout marks a directory that something else than an OCI layout is in.
var ErrNotLayout = errors.New("not an OCI layout, and not empty")

// WriteDir writes entries as an OCI layout, with the same documents as in an
// oci-archive, to the directory dir. A directory
// that is not there appears when it is whole. A layout that is there gets them
// added: blobs first, then index.json by one rename; an image that had one of
// their names loses that name. After an error dir is as it was.
func WriteDir(ctx context.Context, dir string, entries []Entry, blobs Blobs) error {
	l, err := newLayout(entries, FormatOCIDir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			return err
		}
		return l.addTo(ctx, dir, blobs)
	}
	tmp, err := mkdirBeside(filepath.Clean(dir))
	if err != nil {
		return err
	}
	err = l.addTo(ctx, tmp, blobs)
	if err == nil {
		// Not over an empty directory that somebody made meanwhile.
		err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, filepath.Clean(dir), unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // not every file system can
			err = os.Rename(tmp, filepath.Clean(dir))
		}
		if err != nil {
			err = &fs.PathError{Op: "rename", Path: dir, Err: err}
		}
	}
	if err != nil {
		os.RemoveAll(tmp)
	}
	return err
}

// mkdirBeside makes a directory of some name beside dir. Its mode is that of
// any new one, which os.MkdirTemp does not give.
func mkdirBeside(dir string) (string, error) {
	for {
		tmp := filepath.Join(filepath.Dir(dir), fmt.Sprintf(".%s.%08x", filepath.Base(dir), rand.Uint32()))
		err := os.Mkdir(tmp, 0o755)
		var e *fs.PathError
		if errors.As(err, &e) {
			e.Path = dir // not our name for it
		}
		if !errors.Is(err, fs.ErrExist) {
			return tmp, err
		}
	}
}

// addTo writes l into the layout, or empty directory, dir. It is locked
// meanwhile.
func (l *layout) addTo(ctx context.Context, dir string, blobs Blobs) (err error) {
	lock, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%s: another process writes to it", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	before, err := l.before(root)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	w := &dirWriter{root: root}
	defer func() { err = errors.Join(err, w.end(err != nil)) }()
	if err := w.layers(ctx, l, blobs); err != nil {
		return err
	}
	index, err := l.indexFile(before)
	if err != nil {
		return err
	}
	if len(index) > image.MaxDocument {
		return fmt.Errorf("%s: index.json of over %d bytes", dir, image.MaxDocument)
	}
	return w.replace(ocispec.ImageIndexFile, index)
}

// before returns what index.json of a layout lists and goes on listing beside
// l: nothing that bears a name of l, nor what has no name and is in l.
func (l *layout) before(root *os.Root) ([]ocispec.Descriptor, error) {
	f := &dirFiles{root: root}
	load := newLoader(f)
	raw, err := load.file(ocispec.ImageIndexFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, emptyOrLayout(root)
	}
	if err != nil {
		return nil, err
	}
	if _, err := load.checkLayoutFile(); err != nil {
		return nil, err
	}
	index, err := image.ParseIndex(raw, "")
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	return slices.DeleteFunc(index.Manifests, func(old ocispec.Descriptor) bool {
		return slices.ContainsFunc(l.descs, func(d ocispec.Descriptor) bool {
			name := refName(d)
			return refName(old) == name && (name != "" || old.Digest == d.Digest)
		})
	}), nil
}

// emptyOrLayout returns ErrNotLayout for a directory without index.json if
// there is anything but the beginning of a layout.
func emptyOrLayout(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(4)
	if err != nil && err != io.EOF {
		return err
	}
	for _, n := range names {
		if n != ocispec.ImageLayoutFile && n != ocispec.ImageBlobsDir && n != tmpDir {
			return ErrNotLayout
		}
	}
	return nil
}

// tmpDir holds the files of a layout that are not whole. What is in it at the
// start is of a writer that died, since the layout is locked.
const tmpDir = ".imgfs-tmp"

// A dirWriter adds files to a layout. Each gets its name when it is whole.
type dirWriter struct {
	root *os.Root
	made []string // files that were not there before
	n    int      // files begun
}

// layers writes all of l but its index.json.
func (w *dirWriter) layers(ctx context.Context, l *layout, blobs Blobs) error {
	for d := range l.seen {
		if err := w.root.MkdirAll(path.Dir(blobName(d)), 0o755); err != nil {
			return err
		}
	}
	if err := errors.Join(w.root.RemoveAll(tmpDir), w.root.Mkdir(tmpDir, 0o755)); err != nil {
		return err
	}
	if _, err := w.root.Stat(ocispec.ImageLayoutFile); errors.Is(err, fs.ErrNotExist) {
		if err := w.replace(ocispec.ImageLayoutFile, layoutMark()); err != nil {
			return err
		}
	}
	for _, d := range l.layers {
		err := w.write(blobName(d.Digest), d.Digest, func(f io.Writer) error { return copyBlob(ctx, f, d, blobs) })
		if err != nil {
			return err
		}
	}
	for _, d := range l.docs {
		err := w.write(blobName(d.Desc.Digest), d.Desc.Digest, func(f io.Writer) error { _, err := f.Write(d.Raw); return err })
		if err != nil {
			return err
		}
	}
	return nil
}

// replace writes the file name, whatever was there.
func (w *dirWriter) replace(name string, raw []byte) error {
	return w.write(name, "", func(f io.Writer) error { _, err := f.Write(raw); return err })
}

// write has f write the file name, unless one that has the digest d is there.
func (w *dirWriter) write(name string, d digest.Digest, f func(io.Writer) error) error {
	if d != "" && w.holds(name, d) {
		return nil
	}
	w.n++
	tmp := fmt.Sprintf("%s/%d", tmpDir, w.n)
	file, err := w.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if err := errors.Join(f(file), file.Close()); err != nil {
		return err
	}
	if _, err := w.root.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		w.made = append(w.made, name)
	}
	return w.root.Rename(tmp, name)
}

// holds reports whether the file name has the digest d.
func (w *dirWriter) holds(name string, d digest.Digest) bool {
	f, err := w.root.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	v := d.Verifier()
	_, err = io.Copy(v, f)
	return err == nil && v.Verified()
}

// end removes what has no name yet and, if the writing failed, the files that
// it made, and directories that nothing is in.
func (w *dirWriter) end(failed bool) error {
	if failed {
		for _, name := range w.made {
			w.root.Remove(name)
			w.root.Remove(path.Dir(name))
		}
		w.root.Remove(ocispec.ImageBlobsDir)
	}
	return w.root.RemoveAll(tmpDir)
}
