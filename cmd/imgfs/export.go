// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
)

func newExport(a *app) *cobra.Command {
	var (
		flags  imageFlags
		output string
		opt    imgfs.ExportOptions
	)
	c := &cobra.Command{
		Use:   "export NAME|DIR|IMAGE",
		Short: "Write a whole tree as a tar",
		Long: `Export writes the merged tree as one tar without layers: of an upper with its
image, of a read-write mount, or of an image alone. imgfs import makes an image
of such a tar again.`,
		Example: `  imgfs export debian:12 | tar t
  imgfs export -o root.tar /mnt`,
		Args: takes(cobra.ExactArgs(1)),
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			names, how := a.firstChanged(c, args, word)
			if len(args) == 0 {
				images, _ := a.imageNames(c, nil, word)
				names = append(names, images...)
			}
			return names, how
		},
		RunE: func(c *cobra.Command, args []string) (err error) {
			if err := checkPlatform(flags.platform); err != nil {
				return err
			}
			if output == "" && a.toTerminal() {
				return &hintError{err: usagef("a tar is not written to a terminal"), hint: "imgfs export -o FILE " + args[0]}
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			st, err := a.store()
			if err != nil {
				return err
			}
			opt.OpenOptions = flags.options(a)
			if output == "" {
				err = st.Export(ctx, args[0], a.stdout, opt)
			} else {
				err = writeFile(output, func(w io.Writer) error { return st.Export(ctx, args[0], w, opt) })
			}
			if errors.Is(err, imgfs.ErrOption) {
				return &hintError{err: err, hint: "imgfs cp copies a part"}
			}
			return err
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "write to `FILE`")
	c.Flags().BoolVar(&opt.AllowChanging, "allow-changing", false, "take files that are being written as they are")
	flags.add(a, c)
	return c
}

// writeFile has f write the file path. A regular file is there when it is
// whole, or not at all.
func writeFile(path string, f func(io.Writer) error) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		out, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(f(out), out.Close())
	}
	out, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	err = errors.Join(f(out), out.Chmod(0o644), out.Close())
	if err == nil {
		err = os.Rename(out.Name(), path)
	}
	if err != nil {
		os.Remove(out.Name())
	}
	return err
}
