// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

// maxSteps bounds how many names a path may lead through.
const maxSteps = 4096

// Resolve returns path without the symlinks on the way, which are followed
// inside the tree; the last name is not. It has the form of Entry.Path. The
// error is fs.ErrNotExist, ENOTDIR or ELOOP, with the path in it.
func Resolve(ctx context.Context, t Tree, path string) (string, error) {
	real, err := resolve(ctx, t, path)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return real, nil
}

func resolve(ctx context.Context, t Tree, path string) (string, error) {
	todo := strings.Split(path, "/")
	var at []string
	for hops, steps := 0, 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if steps++; steps > maxSteps {
			return "", syscall.ENAMETOOLONG
		}
		switch name {
		case "", ".":
			continue
		case "..":
			at = at[:max(0, len(at)-1)]
			continue
		}
		at = append(at, name)
		e, err := t.Lookup(ctx, strings.Join(at, "/"))
		if err != nil {
			return "", bare(err)
		}
		last := strings.Trim(strings.Join(todo, ""), ".") == ""
		if last || e.IsDir() {
			continue
		}
		if e.Type() != index.ModeSymlink {
			return "", syscall.ENOTDIR
		}
		if hops++; hops > unionfs.MaxSymlinks {
			return "", syscall.ELOOP
		}
		at = at[:len(at)-1]
		if strings.HasPrefix(e.Target, "/") {
			at = nil
		}
		todo = append(strings.Split(e.Target, "/"), todo...)
	}
	return strings.Join(at, "/"), nil
}

// follow returns the entry at path, symlinks followed inside the tree, the last
// one, too.
func follow(ctx context.Context, t Tree, path string) (*Entry, error) {
	for range unionfs.MaxSymlinks {
		real, err := Resolve(ctx, t, path)
		if err != nil {
			return nil, err
		}
		e, err := t.Lookup(ctx, real)
		if err != nil || e.Type() != index.ModeSymlink {
			return e, err
		}
		path = e.Target
		if !strings.HasPrefix(path, "/") {
			path = real[:strings.LastIndexByte(real, '/')+1] + path
		}
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
}

// isNotDir reports whether err is about a file on the way of a path.
func isNotDir(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

// bare returns what is below a PathError.
func bare(err error) error {
	if p, ok := err.(*fs.PathError); ok {
		return p.Err
	}
	return err
}
