// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

// helperName is what mount(8) calls for the type fuse.imgfs.
const helperName = "mount.fuse.imgfs"

// What mount(8) expects of its helpers; see its section EXIT STATUS.
const (
	mountExitUsage  = 1
	mountExitFailed = 32
)

const helperUsage = `usage: mount.fuse.imgfs IMAGE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]

This helps mount(8) with the type fuse.imgfs; imgfs mount --help tells the
options, to which root=STORE and platform=OS/ARCH come.`

// helpMount is mount.fuse.imgfs.
func helpMount(a *app, args []string) int {
	req, fake, err := parseHelper(a, args)
	if err != nil {
		a.reportHelper(err)
		return mountExitUsage
	}
	if req == nil {
		fmt.Fprintln(a.stdout, helperUsage)
		return exitOK
	}
	if fake {
		return exitOK
	}
	if err := a.mountBackground(context.Background(), req); err != nil {
		if exitCode(err) == exitNotFound && (hint(err) == "" || isMissing(err)) {
			err = a.inUsersStore(err, []string{req.Image})
		}
		a.reportHelper(err)
		if exitCode(err) == exitUsage {
			return mountExitUsage
		}
		return mountExitFailed
	}
	return exitOK
}

func (a *app) reportHelper(err error) {
	fmt.Fprintf(a.stderr, "%s: %s\n", helperName, term.Escape(err.Error()))
	if h := hint(err); h != "" {
		fmt.Fprintf(a.stderr, "%s: hint: %s\n", helperName, term.Escape(h))
	}
}

// parseHelper reads the arguments of mount(8). Its options may stand anywhere,
// and those of one letter together. A nil request asks for help.
func parseHelper(a *app, args []string) (req *mountRequest, fake bool, err error) {
	req = &mountRequest{Opt: mountOptions{Quiet: true, Pull: imgfs.PullMissing}}
	var names []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if len(arg) < 2 || arg[0] != '-' {
			names = append(names, arg)
			continue
		}
		if arg == "--help" {
			return nil, false, nil
		}
		for j := 1; j < len(arg); j++ {
			switch c := arg[j]; c {
			case 's', 'n', 'v': // sloppy, no mtab, verbose: nothing to do
			case 'f':
				fake = true
			case 'h':
				return nil, false, nil
			case 'o', 't', 'N':
				value := arg[j+1:]
				if value == "" {
					if i++; i == len(args) {
						return nil, false, usagef("-%c wants a value", c)
					}
					value = args[i]
				}
				if err := a.helperOption(c, value, req); err != nil {
					return nil, false, err
				}
				j = len(arg)
			default:
				return nil, false, &hintError{err: usagef("unknown option -%c", c), hint: helperName + " --help"}
			}
		}
	}
	if len(names) != 2 {
		return nil, false, &hintError{err: usagef("want an image and a directory, got %d arguments", len(names)), hint: helperName + " --help"}
	}
	req.Image, req.Dir = names[0], names[1]
	return req, fake, req.Opt.finish(false, false)
}

// helperOption takes an option that has a value.
func (a *app) helperOption(letter byte, value string, req *mountRequest) error {
	switch letter {
	case 'N': // the namespace is entered by mount(8)
		return nil
	case 't':
		if value != "fuse.imgfs" && value != "imgfs" && value != "fuse" {
			return usagef("-t %s: this mounts fuse.imgfs", value)
		}
		return nil
	}
	for _, word := range splitOptions(value) {
		key, v, _ := strings.Cut(word, "=")
		switch {
		case key == "root":
			a.root = v
		case key == "mkdir" || key == "X-mount.mkdir":
			req.Opt.MakeDir = true
		case word == "" || isForMount8(key):
		default:
			if err := req.Opt.set(word, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// isForMount8 reports whether an option is for mount(8), systemd or another
// reader of fstab, and not for the mount.
func isForMount8(key string) bool {
	switch key {
	case "defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner", "noowner", "group", "nogroup",
		"comment", "default_permissions", "uhelper", "helper":
		return true
	}
	return strings.HasPrefix(key, "x-") || strings.HasPrefix(key, "X-")
}
