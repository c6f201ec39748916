// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
)

func newUmount(a *app) *cobra.Command {
	var (
		opt imgfs.UnmountOptions
		all bool
	)
	c := &cobra.Command{
		Use:     "umount DIR...",
		Aliases: []string{"unmount"},
		Short:   "Unmount images",
		Long: `Umount takes imgfs mounts off their directories and returns when the processes
that served them have ended. umount(8) and fusermount3 -u do it as well.

A mount in use is left as it is, and who uses it is told: -l takes it from its
directory at once and lets it end with its last user; -f cuts it off, so that
whoever reads in it goes on with an error.

Changes made in a read-write mount are in its upper, whose name is printed.`,
		Example: `  imgfs umount /mnt
  imgfs umount -l /mnt
  imgfs umount --all`,
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return errors.New("--all takes no directory")
			case !all && len(args) == 0:
				return errors.New("umount takes the directories to unmount, or --all")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			opt.Warn = a.warn
			var printed error
			opt.Kept = func(upper string) { printed = errors.Join(printed, a.printKept(upper)) }
			if all {
				return errors.Join(imgfs.UnmountAll(ctx, opt), printed)
			}
			for i, dir := range args {
				abs, err := filepath.Abs(dir)
				if err != nil {
					return err
				}
				args[i] = abs
			}
			// A command that stands in the mount would keep it busy itself.
			if err := os.Chdir("/"); err != nil {
				return err
			}
			var first error
			for _, dir := range args {
				err := imgfs.Unmount(ctx, dir, opt)
				switch {
				case err == nil:
				case first == nil:
					first = err
				default:
					a.report(err)
				}
			}
			if first == nil {
				first = printed
			}
			return first
		},
		ValidArgsFunction: a.mountedDirs,
	}
	f := c.Flags()
	f.BoolVarP(&all, "all", "a", false, "unmount all mounts of this user")
	f.BoolVarP(&opt.Force, "force", "f", false, "cut off a mount that hangs or is in use")
	f.BoolVarP(&opt.Lazy, "lazy", "l", false, "detach now, end when no longer in use")
	return c
}

// printKept prints the name of an upper that keeps the changes of a mount.
func (a *app) printKept(upper string) error {
	if a.toTerminal() {
		_, err := fmt.Fprintln(a.stdout, keptLine(upper))
		return err
	}
	_, err := fmt.Fprintln(a.stdout, upper)
	return err
}

// keptLine tells a user where the changes of a mount are.
func keptLine(upper string) string {
	return fmt.Sprintf("changes are kept in upper %[1]s (imgfs diff %[1]s, imgfs commit %[1]s NAME, imgfs upper rm %[1]s)", upper)
}

// mountedDirs completes directories that are mounts.
func (a *app) mountedDirs(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	mounts, err := imgfs.Mounts(c.Context(), false)
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var dirs []string
	for _, m := range mounts {
		dirs = append(dirs, m.Dir+"\t"+m.Image)
	}
	return dirs, cobra.ShellCompDirectiveDefault
}
