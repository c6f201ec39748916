// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/control"
	"github.com/imgfs/imgfs/internal/control/background"
	"github.com/imgfs/imgfs/unionfs/mount"
)

// A mountRequest is what a mount's server is asked to do.
type mountRequest struct {
	Root  string // of the store
	Image string
	Dir   string
	Opt   mountOptions
	ID    string // in the register of mounts
	Log   string // path
}

func newMount(a *app) *cobra.Command {
	var (
		req              mountRequest
		words            []string
		ro, rw           bool
		foreground       bool
		platform, format string
		view             string
		pull             pullFlag
	)
	c := &cobra.Command{
		Use:   "mount [IMAGE DIR]",
		Short: "Mount an image on a directory",
		Long: `Mount shows IMAGE, or a part of it, as the directory DIR and returns when the
directory answers. A process in the background serves it until it is
unmounted. Without arguments mount lists the living mounts.

IMAGE is a name of the store (NAME[:TAG|@DIGEST]), an image archive or OCI
directory (./image.tar, ./oci-dir), which is read where it lies, or - for an
archive on standard input; :/path behind it mounts that part only. An archive
compressed as a whole, and standard input, are loaded into the store first.

A mount is read-only. With --rw it takes changes: they go to an upper, which
is kept if anything changed and whose name umount then prints, and the image
stays as it is. --upper NAME names the upper, to be made or opened again (then
IMAGE may be left out); --rm drops it at unmount. See imgfs diff, commit,
export, reset and upper.

--view shows the image in another way, read-only: layers, a directory for each
layer with its number (0 is the base) and what it brought; deleted, the same,
but only what later layers removed or hid, to be read; upto=N, the image as it
was when that layer was made.

Options of -o: allow_other, uid=N, gid=N (shown as owner of all files),
nosymlinks, nospecials, noxattrs (leave these out), provenance (xattrs
user.imgfs.layer, .diffid and .created_by tell where files came from),
nonempty, suid, dev (root only), ro, rw, upper=NAME, rm, pull=POLICY, view=VIEW,
nopassthrough (have every read and write come to the server, so that an
overlayfs can stand on the mount), and the kernel's: noexec, ...`,
		Example: `  imgfs mount debian:12 /mnt
  imgfs mount --rw debian:12 /mnt
  imgfs mount --upper fix-ssl debian:12 /mnt
  imgfs mount ./image.tar:/etc /mnt
  imgfs mount --view deleted ./image.tar /mnt
  imgfs mount --mkdir -o provenance,noexec alpine /tmp/alpine`,
		Args:              cobra.MaximumNArgs(2),
		ValidArgsFunction: a.firstImage,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				if name := forMounting(c); name != "" {
					return usagef("--%s is for mounting: mount takes an image and a directory, or nothing", name)
				}
				return a.printMounts(c.Context(), format, false, false)
			}
			if c.Flags().Changed("upper") && req.Opt.Upper == "" {
				return usagef("--upper: the name is empty")
			}
			if view != "" {
				words = append(words, "view="+view)
			}
			if err := req.Opt.parse(words, false); err != nil {
				return err
			}
			if err := checkPlatform(platform); err != nil {
				return err
			}
			if err := req.Opt.finish(ro, rw); err != nil {
				return err
			}
			switch {
			case len(args) == 2:
				req.Image, req.Dir = args[0], args[1]
			case req.Opt.Upper != "":
				req.Dir = args[0]
			default:
				return &hintError{err: usagef("mount takes an image and a directory, or nothing"), hint: "with --upper NAME the image may be left out"}
			}
			req.Opt.Platform = platform
			if req.Opt.Pull == "" || c.Flags().Changed("pull") {
				req.Opt.Pull = pull.policy()
			}
			if foreground {
				return a.mountForeground(c.Context(), &req)
			}
			return a.mountBackground(c.Context(), &req)
		},
	}
	f := c.Flags()
	f.BoolVar(&ro, "ro", false, "read-only, as every mount is without --rw, --upper or --rm")
	f.BoolVar(&rw, "rw", false, "read-write: changes are kept in an upper")
	f.StringVar(&req.Opt.Upper, "upper", "", "read-write over the upper `NAME`, which is made if there is none")
	complete(c, "upper", a.upperNames)
	f.BoolVar(&req.Opt.Discard, "rm", false, "read-write, and drop the changes at unmount")
	f.StringVar(&view, "view", "", "show `VIEW` of the image: layers, deleted, or upto=N")
	complete(c, "view", cobra.FixedCompletions([]string{"layers", "deleted", "upto="}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	f.StringVar(&platform, "platform", "", "take `OS/ARCH[/VARIANT]` from an index of several (default: this machine's)")
	f.BoolVar(&req.Opt.Verify, "verify", false, "wait until an image file that is read in place is verified")
	f.BoolVarP(&foreground, "foreground", "f", false, "serve in the foreground, until unmounted or interrupted")
	f.StringArrayVarP(&words, "options", "o", nil, "mount `OPTIONS`, separated by commas")
	f.BoolVar(&req.Opt.MakeDir, "mkdir", false, "make DIR, and remove it again at unmount")
	f.BoolVarP(&req.Opt.Quiet, "quiet", "q", false, "no progress, no remarks")
	pull.add(c)
	a.remoteFlags(c)
	f.StringVar(&format, "format", "", "print the list as `FORMAT`: table, json (an object a line) or a Go template")
	return c
}

// forMounting returns a flag that was given and says nothing to the list of
// mounts; empty if there is none.
func forMounting(c *cobra.Command) (name string) {
	c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Changed && f.Name != "format" {
			name = f.Name
		}
	})
	return name
}

// mountOptions are the options of a mount, as flags and -o give them.
type mountOptions struct {
	Platform                         string
	Name                             string // of the image, if its argument does not say
	Pull                             imgfs.PullPolicy
	Verify, MakeDir, Quiet           bool
	Writable, Discard, NoPassthrough bool
	ReadOnly                         bool   // was asked for
	Upper                            string // name
	View                             string
	AllowOther, Suid, Dev, Nonempty  bool
	Provenance                       bool
	NoSymlinks, NoSpecials, NoXattrs bool
	UID, GID                         *uint32
	Extra                            []string
	Shown                            []string // as given
}

// parse reads -o options. From mount(8) come some that are not for us, and
// the word rw, which nobody may have typed.
func (o *mountOptions) parse(lists []string, fromMount8 bool) error {
	for _, list := range lists {
		for _, word := range splitOptions(list) {
			if word == "" {
				continue
			}
			if err := o.set(word, fromMount8); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish takes what flags say besides, and refuses what cannot be both.
func (o *mountOptions) finish(ro, rw bool) error {
	o.ReadOnly = o.ReadOnly || ro
	o.Writable = o.Writable || rw || o.Upper != "" || o.Discard
	if o.ReadOnly && o.Writable {
		return usagef("a mount is read-only or takes changes, not both")
	}
	if !o.Writable {
		return nil
	}
	switch {
	case o.View != "":
		return usagef("--view is for read-only mounts")
	case o.UID != nil, o.GID != nil:
		return usagef("-o uid and gid are for read-only mounts")
	case o.NoSymlinks, o.NoSpecials, o.NoXattrs:
		return usagef("-o nosymlinks, nospecials and noxattrs are for read-only mounts")
	}
	return nil
}

// set takes one option.
func (o *mountOptions) set(word string, fromMount8 bool) error {
	key, value, hasValue := strings.Cut(word, "=")
	flags := map[string]*bool{
		"allow_other": &o.AllowOther, "suid": &o.Suid, "dev": &o.Dev, "nonempty": &o.Nonempty,
		"provenance": &o.Provenance, "nosymlinks": &o.NoSymlinks, "nospecials": &o.NoSpecials, "noxattrs": &o.NoXattrs,
		"verify": &o.Verify, "rm": &o.Discard, "nopassthrough": &o.NoPassthrough,
	}
	unset := map[string]*bool{"nosuid": &o.Suid, "nodev": &o.Dev}
	shown := true
	switch {
	case flags[key] != nil && !hasValue:
		*flags[key] = true
	case unset[key] != nil && !hasValue:
		*unset[key] = false
	case key == "uid", key == "gid":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || n == 1<<32-1 {
			return usagef("-o %s: want a number", word)
		}
		id := uint32(n)
		if key == "uid" {
			o.UID = &id
		} else {
			o.GID = &id
		}
	case key == "platform" && hasValue:
		o.Platform = value
	case key == "pull" && hasValue:
		var pull pullFlag
		if err := pull.Set(value); err != nil {
			return usagef("-o %s: %w", word, err)
		}
		o.Pull = pull.policy()
		shown = false
	case key == "view" && hasValue:
		o.View = value
	case key == "upper" && value == "":
		return usagef("-o %s: want upper=NAME", word)
	case key == "upper":
		o.Upper = value
		shown = false
	case word == "ro":
		o.ReadOnly = true
		shown = false
	case word == "rw": // mount(8) says it whenever ro is not said
		o.Writable = o.Writable || !fromMount8
		shown = false
	case word == "remount", word == "bind", word == "rbind", word == "move":
		return &hintError{err: usagef("-o %s: an imgfs mount cannot be changed", word), hint: "unmount it and mount it anew"}
	case word == "allow_root":
		return &hintError{err: usagef("-o allow_root: not supported"), hint: "-o allow_other lets root in, too"}
	case key == "fsname", key == "subtype", key == "fd", key == "rootmode", key == "user_id", key == "group_id":
		return usagef("-o %s: imgfs sets this itself", word)
	default:
		o.Extra = append(o.Extra, word)
	}
	if shown {
		o.Shown = append(o.Shown, word)
	}
	return nil
}

// splitOptions splits a list of mount options at its commas, not at those in
// double quotes, which are dropped, nor at those after a backslash.
func splitOptions(list string) []string {
	var (
		words  []string
		word   strings.Builder
		quoted bool
	)
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && i+1 < len(list) && list[i+1] == ',':
			i++
			word.WriteByte(',')
		case c == ',' && !quoted:
			words = append(words, word.String())
			word.Reset()
		default:
			word.WriteByte(c)
		}
	}
	return append(words, word.String())
}

// options returns o for the library.
func (o *mountOptions) options(a *app) imgfs.MountOptions {
	return imgfs.MountOptions{
		OpenOptions: imgfs.OpenOptions{
			Platform: o.Platform, Verify: o.Verify, Pull: o.Pull,
			LoadOptions: imgfs.LoadOptions{Platform: o.Platform, Warn: a.warn},
		},
		MakeDir: o.MakeDir, Nonempty: o.Nonempty, AllowOther: o.AllowOther, Suid: o.Suid, Dev: o.Dev,
		Provenance: o.Provenance, UID: o.UID, GID: o.GID,
		NoSymlinks: o.NoSymlinks, NoSpecials: o.NoSpecials, NoXattrs: o.NoXattrs,
		Extra: o.Extra, Shown: o.Shown, Name: o.Name, Exits: true,
		View: o.View, Writable: o.Writable, Upper: o.Upper, Discard: o.Discard, NoPassthrough: o.NoPassthrough,
	}
}

// mountForeground mounts and serves until the mount is gone.
func (a *app) mountForeground(ctx context.Context, req *mountRequest) error {
	defer runtime.KeepAlive(setGC())
	st, err := a.store()
	if err != nil {
		return err
	}
	opt := req.Opt.options(a)
	opt.Logf = func(format string, args ...any) { a.warn(fmt.Sprintf(format, args...)) }
	progress, end := a.progress(ctx, req.Opt.Quiet)
	defer end()
	opt.Progress = progress
	starting, stop := interruptible(ctx)
	defer stop()
	m, err := st.Mount(starting, req.Image, req.Dir, a.stdin, opt)
	if err != nil {
		return mountError(err, req)
	}
	stop()
	err = untilSignal(m, a.warn, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	if name, kept := m.Upper(); kept {
		return errors.Join(err, a.printKept(name))
	}
	return err
}

// untilSignal serves m until it is gone. The first of the signals unmounts
// it; if it is busy it is detached and goes when its last user does. The next
// signal ends the program.
func untilSignal(m *imgfs.Mount, warn func(string), signals ...os.Signal) error {
	got := make(chan os.Signal, 1)
	signal.Notify(got, signals...)
	go func() {
		<-got
		err := m.Unmount(false)
		if errors.Is(err, syscall.EBUSY) {
			warn(m.Busy().Error() + "; detached")
			err = m.Unmount(true)
		}
		if err != nil {
			warn(err.Error())
		}
		signal.Reset(signals...)
	}()
	return m.Wait()
}

// mountBackground has a process in the background mount, and returns when the
// directory answers.
func (a *app) mountBackground(ctx context.Context, req *mountRequest) (err error) {
	ctx, stop := interruptible(ctx)
	defer stop()
	if req.Root, err = a.storeRoot(); err != nil {
		return err
	}
	if req.Root, err = filepath.Abs(req.Root); err != nil {
		return err
	}
	st, err := a.store()
	if err != nil {
		return err
	}
	if err := st.CheckDir(req.Image, req.Dir, req.Opt.options(a)); err != nil {
		return err
	}
	shown := req.Image
	img, err := a.openFirst(ctx, req)
	if err != nil {
		return err
	}
	if img != nil {
		defer img.Close() // the server has it open by then
	}
	run, err := control.Prepare(control.Dirs())
	if err != nil {
		return err
	}
	req.ID = control.NewID()
	req.Log = control.LogPath(run, req.ID)
	log, err := os.OpenFile(req.Log, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	child, err := background.Start([]string{serverName, shown, req.Dir}, req, log)
	if err == nil {
		err = child.Wait(ctx, a.warn)
	}
	if err == nil {
		return nil
	}
	return dropLog(err, log)
}

// dropLog removes the log of a server that did not begin. If it said
// something, such as why it crashed, that is kept in the error.
func dropLog(err error, log *os.File) error {
	b := make([]byte, 500)
	var said *background.Error
	if f, openErr := os.Open(log.Name()); openErr == nil && !errors.As(err, &said) {
		n, _ := f.Read(b) // no more to say, then
		if text := strings.TrimSpace(string(b[:n])); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
		f.Close()
	}
	os.Remove(log.Name()) // in vain at worst
	return err
}

// openFirst opens an image that is not of the store yet, before its server
// does: standard input, since a server has none, and files, since bringing
// them in may take a while, and here progress is seen and Ctrl-C heard. The
// image must stay open until the server has it. For the same reasons an image
// of a registry is pulled here.
func (a *app) openFirst(ctx context.Context, req *mountRequest) (*imgfs.Image, error) {
	src, path := imgfs.SplitArg(req.Image)
	if src != "-" && !exists(src) {
		return nil, a.pullFirst(ctx, req)
	}
	if src == "-" {
		if err := a.refuseTerminal("imgfs reads a piped image: IMAGE may be a file or a name, too"); err != nil {
			return nil, err
		}
	}
	st, err := a.store()
	if err != nil {
		return nil, err
	}
	opt := req.Opt.options(a).OpenOptions
	opt.Verify = opt.Verify || req.Opt.Writable
	progress, end := a.progress(ctx, req.Opt.Quiet)
	defer end()
	opt.Progress = progress
	img, err := st.OpenImage(ctx, src, a.stdin, opt)
	if err != nil {
		return nil, err
	}
	if img.Name != src { // not read in place: it is of the store
		req.Image, req.Opt.Name, req.Opt.Platform = img.ID.String(), img.Name, ""
		if path != "" {
			req.Image += ":" + path
		}
	}
	return img, nil
}

// pullFirst pulls the image of req if that is to be done. Its server asks no
// network.
func (a *app) pullFirst(ctx context.Context, req *mountRequest) error {
	opt := req.Opt.options(a).OpenOptions
	req.Opt.Pull = imgfs.PullNever
	if opt.Pull == "" || opt.Pull == imgfs.PullNever || req.Image == "" {
		return nil
	}
	st, err := a.store()
	if err != nil {
		return err
	}
	progress, end := a.progress(ctx, req.Opt.Quiet)
	defer end()
	opt.Progress = progress
	return st.PullFor(ctx, req.Image, opt)
}

// mountError adds its cure to err if it says that the part of the image to be
// mounted is no directory, or that there is no upper which would tell the image.
func mountError(err error, req *mountRequest) error {
	if errors.Is(err, imgfs.ErrNoUpper) && req.Image == "" {
		return &hintError{err: err, hint: fmt.Sprintf("imgfs mount --upper %s IMAGE %s makes it; imgfs upper ls lists those there are", req.Opt.Upper, req.Dir)}
	}
	var (
		refused *imgfs.RefusedError
		mounted *mount.Error
	)
	if !errors.Is(err, syscall.ENOTDIR) || errors.As(err, &refused) || errors.As(err, &mounted) {
		return err // about the directory to mount on, perhaps
	}
	return &hintError{err: &notDirError{err}, hint: "a directory can be mounted; imgfs cat " + req.Image + " prints a file, imgfs cp copies it"}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// serverName is what the binary is called as the server of a mount.
const serverName = "imgfs-mount"

// serverGC is GOGC of who serves a mount, in the background or not. Most of its heap is the cache of decoded
// chunks, which has no pointers: to collect often costs nothing, and to let the
// heap double would cost the cache a second time.
const serverGC = 10

// ballastSize is the size of memory that is never touched, and so never there, but
// counts as heap: a server with little in use would else collect at every few
// hundred kilobytes.
const ballastSize = 32 << 20

// setGC sets how often a server collects, as long as it keeps what this
// returns.
func setGC() []byte {
	debug.SetGCPercent(serverGC)
	return make([]byte, ballastSize)
}

// serveMount is the process in the background.
func serveMount(a *app, _ []string) int {
	// Executed as /proc/self/exe it would be "exe" to ps, top and pgrep. Nothing
	// depends on the name.
	_ = os.WriteFile("/proc/self/comm", []byte(serverName), 0)
	defer runtime.KeepAlive(setGC())
	var req mountRequest
	parent, ctx, err := background.Attach(&req)
	if err != nil {
		a.report(err)
		return exitUsage
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, stop := interruptible(ctx)
	a.root = req.Root
	fail := func(err error) int {
		parent.Fail(&background.Error{Code: exitCode(err), Text: plain(err), Hint: hint(err)}) // a dead parent needs no word
		return exitCode(err)
	}
	st, err := a.store()
	if err != nil {
		return fail(err)
	}
	opt := req.Opt.options(a)
	opt.ID, opt.Log = req.ID, req.Log
	opt.Warn = parent.Warn
	opt.Logf = a.logf
	m, err := st.Mount(ctx, req.Image, req.Dir, nil, opt)
	if err != nil {
		return fail(mountError(err, &req))
	}
	stop()
	if err := parent.Ready(); err != nil {
		// Whoever waited is gone: nobody wants this mount.
		err = errors.Join(err, m.Unmount(true), m.Wait())
		a.logf("%v", err)
		return exitOther
	}
	err = untilSignal(m, func(line string) { a.logf("%s", line) }, os.Interrupt, syscall.SIGTERM)
	if err != nil {
		a.logf("%v", err)
		return exitOther
	}
	if info, err := os.Stat(req.Log); err == nil && info.Size() == 0 {
		os.Remove(req.Log) // in vain at worst
	}
	return exitOK
}
