// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
)

// SaveOptions say how images are written.
type SaveOptions struct {
	Format   string // "docker-archive" (also if empty), "oci-archive" or "oci-dir"
	Platform string // os/arch[/variant]: only that one of an index; empty: all that are here
	Progress Progress
}

// Save writes images of the store, with their blobs bit for bit, to the file
// path ("-" is stdout), or for "oci-dir" to that directory. An image is a
// name, an id or its beginning; a repository without a tag stands for all its
// tags. Names go with the images, but for those that were given by id.
//
// The file is there when it is whole, or not at all; a layout that is there
// gets the images added. The same images make the same file: its times are
// SOURCE_DATE_EPOCH, or zero.
func (s *Store) Save(ctx context.Context, path string, stdout io.Writer, images []string, opt SaveOptions) error {
	if err := checkPlatform(opt.Platform); err != nil {
		return err
	}
	o, err := s.fromStore(images, opt.Platform)
	if err != nil {
		return err
	}
	return errors.Join(o.write(ctx, path, stdout, opt.Format, opt.Progress), o.Close())
}

func checkPlatform(platform string) error {
	if platform == "" {
		return nil
	}
	if _, err := image.ParsePlatform(platform); err != nil {
		return optionError{err}
	}
	return nil
}

// write writes the images of o as an archive or layout.
func (o *origin) write(ctx context.Context, path string, stdout io.Writer, format string, p Progress) error {
	if format == "" {
		format = archive.FormatDockerArchive
	}
	blobs := told{o.blobs, p}
	switch format {
	case archive.FormatOCIDir:
		if path == "-" {
			return optionError{errors.New("a directory is not written to standard output")}
		}
		return archive.WriteDir(ctx, path, o.entries, blobs)
	case archive.FormatDockerArchive, archive.FormatOCIArchive:
		return writeFile(path, stdout, func(w io.Writer) error {
			return archive.WriteTar(ctx, w, format, o.entries, blobs, memberTime())
		})
	}
	return optionError{fmt.Errorf("format %q is none of docker-archive, oci-archive, oci-dir", format)}
}

// memberTime is the time of the files in archives.
func memberTime() time.Time {
	n, _ := strconv.ParseInt(os.Getenv(sourceDateEpoch), 10, 64)
	return time.Unix(n, 0)
}

// writeFile has f write the file path. A regular file is there when it is
// whole, or not at all; "-" is stdout.
func writeFile(path string, stdout io.Writer, f func(io.Writer) error) error {
	if path == "-" {
		if stdout == nil {
			return errors.New("no standard output")
		}
		return f(stdout)
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		out, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(f(out), out.Close())
	}
	out, err := createBeside(path)
	if err != nil {
		return err
	}
	err = errors.Join(f(out), out.Close())
	if err == nil {
		err = os.Rename(out.Name(), path)
	}
	if err != nil {
		os.Remove(out.Name())
	}
	return err
}

// createBeside makes a file of some name beside path, of the mode that any new
// file gets.
func createBeside(path string) (*os.File, error) {
	for {
		name := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.%08x", filepath.Base(path), rand.Uint32()))
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		var e *fs.PathError
		if errors.As(err, &e) {
			e.Path = path // not our name for it
		}
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}
