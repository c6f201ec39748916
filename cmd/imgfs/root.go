// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/control/background"
	"github.com/imgfs/imgfs/internal/term"
	"github.com/imgfs/imgfs/layerstore/seek"
	"github.com/imgfs/imgfs/unionfs/mount"
)

// The verbs, in the order that help lists them. A verb's file holds its
// constructor and nothing of another verb.
var verbs = []func(*app) *cobra.Command{
	newPull, newPush, newLoad, newSave, newCopy, newImport, newImages, newImage, newInspect, newHistory,
	newLs, newCat, newStat, newTree, newCp,
	newMount, newUmount, newMounts, newShell,
	newUpper, newDiff, newCommit, newExport, newReset,
	newTag, newRmi, newPrune, newDf, newVerify,
	newLogin, newLogout, newSearch, newTags, newManifest,
	newDeleted, newBlame, newVersions, newLayers, newWaste, newFind, newTimeline, newLint, newDrift,
	newVersion, newCompletion, newMan,
}

// An app is one run of the program: where it reads, where it prints and which
// store it uses. Tests run it in their own process.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	root   string // --root; empty: where imgfs.DefaultRoot says
	remote imgfs.RemoteOptions
	bars   atomic.Pointer[term.Bars] // that are drawn now; nil: none
	opened *imgfs.Store
	ran    bool // a verb was reached: its errors are not about usage

	unread struct {
		mu   sync.Mutex
		told map[string]bool // guarded by mu; what could not be read, see couldNotRead
	}
}

func newApp() *app {
	return &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
}

// storeRoot returns the directory of the store.
func (a *app) storeRoot() (string, error) {
	if a.root != "" {
		return a.root, nil
	}
	return imgfs.DefaultRoot()
}

// store returns the store, opened at the first call and closed by a.close.
func (a *app) store() (*imgfs.Store, error) {
	if a.opened != nil {
		return a.opened, nil
	}
	root, err := a.storeRoot()
	if err != nil {
		return nil, err
	}
	a.opened, err = imgfs.Open(root)
	if err == nil {
		a.remote.UserAgent, a.remote.Log = "imgfs/"+buildInfo().Version, a.logRemote()
		a.opened.SetRemote(a.remote)
	}
	return a.opened, err
}

func (a *app) close() {
	if a.opened != nil {
		if err := a.opened.Close(); err != nil {
			a.report(err)
		}
		a.opened = nil
	}
}

// run runs the verb that args name, prints its error and returns the exit
// code.
func (a *app) run(args []string) int {
	root := newRoot(a)
	root.SetArgs(args)
	c, err := root.ExecuteContextC(context.Background())
	switch {
	case err != nil && !a.ran:
		err = &usageError{err: err}
	case errors.Is(err, context.Canceled):
		err = errInterrupted
	case err != nil && exitCode(err) == exitNotFound && (hint(err) == "" || isMissing(err)):
		err = a.otherTags(a.inUsersStore(err, c.Flags().Args()), c.Flags().Args())
	}
	if n := len(a.unread.told); n > 0 && exitCode(err) <= exitDiffers {
		err = unreadError(n)
	}
	a.report(err)
	return exitCode(err)
}

// newRoot returns the command line of a.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "imgfs",
		Short: "Mount container images as directories",
		Long: "imgfs mounts any container image as one directory, straight from its layer tars:\n" +
			"no daemon, no root, no unpacking.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noVerb,
		RunE:          func(c *cobra.Command, args []string) error { return c.Help() },
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetHelpCommand(newHelp(root))
	root.Version = buildInfo().Version
	root.SetVersionTemplate("imgfs {{.Version}}\n")
	root.CompletionOptions.DisableDefaultCmd = true
	root.PersistentFlags().StringVar(&a.root, "root", "", "keep the store in `DIR` (default $IMGFS_ROOT, else $XDG_DATA_HOME/imgfs; as root /var/lib/imgfs)")
	for _, verb := range verbs {
		root.AddCommand(verb(a))
	}
	a.markRuns(root)
	return root
}

// newHelp returns the verb that prints what --help does.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [VERB]",
		Short:   "Show the help of a verb",
		Long:    "Help shows what --help shows of a verb.",
		Example: "  imgfs help mount",
		Args:    cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return &usageError{err: noVerb(root, args)}
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	}
}

// markRuns has each command below c note that it was reached. What cobra
// finds wrong before that, with whatever error, is about usage.
func (a *app) markRuns(c *cobra.Command) {
	if runE := c.RunE; runE != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			a.ran = true
			if slices.Contains(args, "") {
				return &hintError{err: usagef("an argument is empty"), hint: "usage: " + c.UseLine()}
			}
			return runE(c, args)
		}
	}
	for _, sub := range c.Commands() {
		a.markRuns(sub)
	}
}

// noVerb refuses what is not a verb, and says which was perhaps meant.
func noVerb(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown verb %q", args[0])
	if like := c.SuggestionsFor(args[0]); len(like) > 0 {
		return &hintError{err: err, hint: "did you mean " + c.CommandPath() + " " + strings.Join(like, ", "+c.CommandPath()+" ") + "?"}
	}
	return &hintError{err: err, hint: c.CommandPath() + " --help lists the verbs"}
}

// report prints err, if any, and the cure if one is known. Errors that were
// joined take a line each.
func (a *app) report(err error) { a.tell(err, true) }

// tell is report, without the cures if those of a whole are to stand alone.
func (a *app) tell(err error, cures bool) {
	var silent exitStatus
	if err == nil || errors.As(err, &silent) {
		return
	}
	h := ""
	if cures {
		h = hint(err)
	}
	if parts := joined(err); parts != nil {
		_, whole := err.(*hintError)
		cures = cures && !whole
		for _, part := range parts {
			a.tell(part, cures)
			if cures && hint(part) == h {
				h = "" // said
			}
		}
	} else {
		fmt.Fprintf(a.stderr, "imgfs: %s\n", term.Escape(plain(err)))
	}
	if h != "" {
		fmt.Fprintf(a.stderr, "imgfs: hint: %s\n", term.Escape(h))
	}
}

// joined returns the errors that errors.Join made err of, each with what err
// says before all of them; nil if there is no such thing in err. fmt.Errorf
// with several %w wraps several, too, but as one sentence.
func joined(err error) []error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		several, ok := e.(interface{ Unwrap() []error })
		if !ok {
			continue
		}
		parts := slices.Clone(several.Unwrap())
		texts := make([]string, len(parts))
		for i, part := range parts {
			texts[i] = part.Error()
		}
		all := strings.Join(texts, "\n")
		before, ok := strings.CutSuffix(err.Error(), all)
		if !ok || e.Error() != all {
			return nil
		}
		if before != "" {
			for i, part := range parts {
				parts[i] = fmt.Errorf("%s%w", before, part)
			}
		}
		return parts
	}
	return nil
}

// plain returns the text of err without the name of the system call where that
// says nothing: "x: no such file or directory", not "open x: …".
func plain(err error) string {
	var p *fs.PathError
	if !errors.As(err, &p) || p.Op != "open" && p.Op != "stat" && p.Op != "lstat" {
		return err.Error()
	}
	return strings.Replace(err.Error(), p.Error(), p.Path+": "+p.Err.Error(), 1)
}

// logf writes a line to the log of a process in the background.
func (a *app) logf(format string, args ...any) {
	fmt.Fprintf(a.stderr, "%s %s\n", time.Now().Format(time.RFC3339), term.Escape(fmt.Sprintf(format, args...)))
}

// inUsersStore adds to err, which says that something was not found, that the
// store of the user who called sudo has it, if that is so. It is that user who
// looks: root neither trusts nor touches the store.
func (a *app) inUsersStore(err error, args []string) error {
	uid, uidErr := strconv.ParseUint(os.Getenv("SUDO_UID"), 10, 32)
	gid, gidErr := strconv.ParseUint(os.Getenv("SUDO_GID"), 10, 32)
	if uidErr != nil || gidErr != nil || uid == 0 || os.Geteuid() != 0 || len(args) == 0 {
		return err
	}
	u, lookupErr := user.LookupId(strconv.FormatUint(uid, 10))
	if lookupErr != nil {
		return err
	}
	root := filepath.Join(u.HomeDir, ".local", "share", "imgfs")
	src, _ := imgfs.SplitArg(args[0])
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	look := exec.CommandContext(ctx, "/proc/self/exe", "--root", root, "inspect", "--pull", "never", "--", src)
	look.Args[0] = "imgfs"
	look.Dir, look.Env = "/", []string{"HOME=" + u.HomeDir}
	look.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	if !exists(root) || look.Run() != nil {
		return err
	}
	return &hintError{err: err, hint: fmt.Sprintf("user %s has %s: run it without sudo, or with --root %s", u.Username, src, root)}
}

// isMissing reports whether err is about an image that is neither in the store
// nor to be had: what else the store has is a better hint than what the
// registry's error has.
func isMissing(err error) bool {
	var missing *imgfs.MissingError
	return errors.As(err, &missing)
}

// otherTags adds to err, which says that something was not found, which other
// tags the store has of the image that was asked for.
func (a *app) otherTags(err error, args []string) error {
	var told *hintError
	if errors.As(err, &told) || len(args) == 0 {
		return err
	}
	src, _ := imgfs.SplitArg(args[0])
	ref, refErr := image.ParseReference(src)
	st, openErr := a.store()
	if refErr != nil || openErr != nil {
		return err
	}
	images, listErr := st.Images(context.Background())
	if listErr != nil {
		return err
	}
	var have []string
	for _, img := range images {
		switch {
		case img.Repository != ref.FamiliarName():
		case img.Tag == ref.Tag() || img.Digest == ref.Digest():
			return err // it is something else that was not found
		default:
			have = append(have, img.Repository+":"+img.Tag)
		}
	}
	if len(have) == 0 {
		return err
	}
	const most = 5
	if len(have) > most {
		have = append(have[:most], "...")
	}
	return &hintError{err: err, hint: "the store has " + strings.Join(have, ", ")}
}

// errInterrupted stands for all that goes wrong because of a SIGINT or SIGTERM.
var errInterrupted = errors.New("interrupted")

// A usageError is a wrong command line.
type usageError struct{ err error }

func usagef(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// A hintError is an error with its cure.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// An exitStatus ends the program with that status and prints nothing.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Exit codes, as the man page lists them.
const (
	exitOK        = 0
	exitDiffers   = 1 // a comparison found a difference, or a check did not hold
	exitUsage     = 2 // also a part of what was asked about could not be read
	exitNotFound  = 3
	exitMalformed = 4 // malformed or corrupt image, or a damaged store
	exitRefused   = 5 // a mount was refused
	exitOther     = 6
)

// exitCode is the one place where errors become exit codes.
func exitCode(err error) int {
	var (
		status  exitStatus
		child   *background.Error
		usage   *usageError
		refused *imgfs.RefusedError
		mounted *mount.Error
		notDir  *notDirError
		unread  unreadError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &child):
		return child.Code
	case errors.As(err, &usage), errors.Is(err, imgfs.ErrOption), errors.As(err, &unread):
		return exitUsage
	case errors.As(err, &mounted):
		switch {
		case mounted.Reason == mount.BadOption:
			return exitUsage
		case mounted.Op == "mount":
			return exitRefused
		}
	case errors.As(err, &refused), errors.Is(err, cow.ErrInUse), errors.Is(err, cow.ErrOtherTree), removeHint(err) != "":
		return exitRefused
	case isMalformed(err): // also if it is a file of the store that is not found
		return exitMalformed
	case errors.Is(err, imgfs.ErrNotMounted), errors.Is(err, imgfs.ErrNoUpper), errors.Is(err, image.ErrNotFound), errors.Is(err, fs.ErrNotExist), errors.As(err, &notDir):
		return exitNotFound
	}
	return exitOther
}

// isMalformed reports whether err is about an image, or what the store keeps
// of one, that is not what it must be.
func isMalformed(err error) bool {
	for _, is := range []error{
		image.ErrMalformed, index.ErrBadLayer, index.ErrLimit, index.ErrCorrupt, seek.ErrFormat, seek.ErrCorrupt,
		imgfs.ErrDamaged, imgfs.ErrDigest, imgfs.ErrNoBlob, cow.ErrDamaged, forensics.ErrNotEvidence,
	} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// hint returns the cure of err, empty if none is known.
func hint(err error) string {
	var (
		h       *hintError
		child   *background.Error
		refused *imgfs.RefusedError
		mounted *mount.Error
		busy    *imgfs.BusyError
		several *imgfs.SeveralError
		used    *cow.InUseError
		remote  *imgfs.RegistryError
		engine  *imgfs.EngineNotFoundError
	)
	switch {
	case errors.As(err, &h):
		return h.hint
	case errors.As(err, &child):
		return child.Hint
	case errors.As(err, &refused):
		return refused.Hint
	case errors.As(err, &mounted):
		return mounted.Hint
	case errors.As(err, &engine):
		return engineHint(engine)
	case errors.As(err, &several) && several.Loaded:
		return "they are in the store now: take one by its name (imgfs images)"
	case errors.As(err, &several):
		return "imgfs load -i FILE brings them into the store, then take one by its name"
	case errors.As(err, &busy):
		return "imgfs umount -l detaches it now and lets it end with its last user; -f cuts it off"
	case errors.Is(err, syscall.EAGAIN):
		return "--allow-changing takes files that are being written as they are"
	case errors.As(err, &used) && used.Dir != "":
		return "imgfs umount " + used.Dir + " first"
	case errors.As(err, &remote):
		return remoteHint(remote)
	case errors.Is(err, cow.ErrInUse):
		return "a command is at work on it: try again when that has ended"
	case errors.Is(err, cow.ErrOtherTree):
		return "imgfs upper inspect shows the image that an upper belongs to; leave --upper out for a new one"
	case errors.Is(err, imgfs.ErrNoUpper):
		return "imgfs upper ls lists the uppers"
	case removeHint(err) != "":
		return removeHint(err)
	case errors.Is(err, imgfs.ErrUnknownNeed):
		return "imgfs upper rm NAME removes that upper with its changes"
	case errors.Is(err, imgfs.ErrDamaged):
		return "move imgfs.db out of the store and load its images again: names are lost with it, layers are not"
	case errors.Is(err, index.ErrCorrupt):
		return "remove the directory index of the store: it is made anew from the layers"
	}
	return ""
}
