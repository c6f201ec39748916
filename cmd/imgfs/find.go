// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/term"
)

// findFlags are the flags that say what is looked for.
type findFlags struct {
	names, users, groups, caps []string
	path, content, size, perm  string
	types, newer, older        string
	sums                       []string
}

func (f *findFlags) add(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.names, "name", nil, "names that fit `GLOB`; several: one of them")
	c.Flags().StringVar(&f.path, "regex", "", "paths (/etc/passwd) in which `REGEX` is found")
	c.Flags().StringVar(&f.types, "type", "", "one of `TYPES`: f, d, l, c, b, p, s, several with commas between")
	c.Flags().StringVar(&f.size, "size", "", "files of `SIZE` bytes, of more (+1M) or less (-4k)")
	c.Flags().StringVar(&f.perm, "perm", "", "exactly `MODE`, all of -MODE, one of /MODE; or setuid, setgid, sticky, world-writable")
	c.Flags().StringSliceVar(&f.users, "user", nil, "owned by `USER`: a number, or a name of the image's /etc/passwd")
	c.Flags().StringSliceVar(&f.groups, "group", nil, "of `GROUP`: a number, or a name of the image's /etc/group")
	c.Flags().StringSliceVar(&f.caps, "cap", nil, "files with the capability `CAP` (net_raw), or with any")
	c.Flags().StringVar(&f.newer, "newer", "", "changed at `TIME` or later: 2006-01-02, 2006-01-02T15:04:05, or 24h ago")
	c.Flags().StringVar(&f.older, "older", "", "changed before `TIME`")
	c.Flags().StringSliceVar(&f.sums, "sha256", nil, "files whose content has `HASH`, or one that begins so; - reads a list from standard input")
	c.Flags().StringVar(&f.content, "content", "", "files in which `REGEX` is found")
}

// match returns what the flags say; names of users are looked up by owners.
func (f *findFlags) match(a *app) (*forensics.Match, error) {
	m := &forensics.Match{Names: f.names}
	if err := m.Check(); err != nil {
		return nil, usagef("--name: %w", err)
	}
	for _, t := range strings.Split(f.types, ",") {
		if len(t) > 1 || !strings.Contains("fdlcbps", t) {
			return nil, usagef("--type: %q is no type: there are f, d, l, c, b, p, s", t)
		}
		m.Types += t
	}
	now := time.Now()
	for _, err := range []error{
		flagValue("size", f.size, &m.Size, forensics.ParseSize),
		flagValue("perm", f.perm, &m.Perm, forensics.ParsePerm),
		flagValue("newer", f.newer, &m.Since, func(s string) (time.Time, error) { return parseTime(s, now) }),
		flagValue("older", f.older, &m.Until, func(s string) (time.Time, error) { return parseTime(s, now) }),
		flagValue("regex", f.path, &m.Path, regexp.Compile),
		flagValue("content", f.content, &m.Content, forensics.ParsePattern),
	} {
		if err != nil {
			return nil, err
		}
	}
	var err error
	for _, name := range f.caps {
		if name == "any" {
			m.Cap = true
			continue
		}
		n, err := forensics.ParseCaps([]string{name})
		if err != nil {
			return nil, usagef("--cap: %w", err)
		}
		m.Caps = append(m.Caps, n...)
	}
	m.Sums, err = f.readSums(a)
	return m, err
}

// flagValue reads the value of a flag that was given.
func flagValue[T any](name, text string, to *T, parse func(string) (T, error)) error {
	if text == "" {
		return nil
	}
	v, err := parse(text)
	if err != nil {
		return usagef("--%s: %w", name, err)
	}
	*to = v
	return nil
}

// readSums reads the hashes of --sha256; nil if there is none.
func (f *findFlags) readSums(a *app) (forensics.Sums, error) {
	if len(f.sums) == 0 {
		return nil, nil
	}
	sums := forensics.Sums{}
	for _, text := range f.sums {
		if text != "-" {
			if err := sums.Add(text); err != nil {
				return nil, usagef("--sha256: %w", err)
			}
			continue
		}
		if err := a.refuseTerminal("--sha256 - reads hashes, a line each, as sha256sum writes them"); err != nil {
			return nil, err
		}
		if err := readSumList(a.stdin, &sums); err != nil {
			return nil, err
		}
	}
	sums.Sort()
	return sums, nil
}

// readSumList reads the first word of each line, as sha256sum writes them.
func readSumList(r io.Reader, sums *forensics.Sums) error {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		word, _, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		word = strings.TrimPrefix(word, "\\") // sha256sum's sign of an escaped name
		if word == "" || word[0] == '#' {
			continue
		}
		if err := sums.Add(word); err != nil {
			return usagef("standard input, line %d: %w", n, err)
		}
	}
	return lines.Err()
}

// owners sets the users and groups in m, looked up in s where they are names.
func (f *findFlags) owners(ctx context.Context, s *forensics.Stack, m *forensics.Match) (err error) {
	if m.UIDs, err = ownerNumbers(ctx, s, f.users, "etc/passwd"); err == nil {
		m.GIDs, err = ownerNumbers(ctx, s, f.groups, "etc/group")
	}
	return err
}

func ownerNumbers(ctx context.Context, s *forensics.Stack, names []string, file string) (ids []uint32, err error) {
	for _, name := range names {
		if id, err := strconv.ParseUint(name, 10, 32); err == nil {
			ids = append(ids, uint32(id))
			continue
		}
		id, err := s.OwnerID(ctx, file, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Name, err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// foundInfo is a file that find found, as JSON.
type foundInfo struct {
	Image    string `json:"image"`
	Platform string `json:"platform,omitempty"` // if several images were asked
	*forensics.Record
}

func newFind(a *app) *cobra.Command {
	var (
		flags              imageFlags
		what               findFlags
		format             string
		all, deleted, null bool
	)
	c := &cobra.Command{
		Use:   "find {IMAGE… | --all}",
		Short: "Find files in images",
		Long: `Find prints the files of IMAGE that fit all the flags, a path a line: it knows
what is in an image without reading its layers. With --all, or several images,
it prints IMAGE:PATH, which other verbs take. A file that does not show, found
with --deleted, has the number of its layer: IMAGE#LAYER:PATH.

--all looks in every image of the store. By hash (--sha256) that is fast, however
many there are: each layer keeps its hashes sorted.

IMAGE may also be one of its parts (IMAGE:/etc), one layer (IMAGE#3), some
(IMAGE@upto=3), upper:NAME, a mount, or dir:PATH. --content reads line by line; a line
over a megabyte in pieces. A size or permission is not asked of symlinks.

Placeholders of --format: .Image ` + recordFields,
		Example: `  imgfs find alpine --name '*.so*' --type f
  imgfs find --perm setuid --type f ./image.tar
  imgfs find --all --deleted --sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  imgfs find --all --deleted --sha256 - < hashes.txt
  imgfs find debian --deleted --content 'BEGIN .*PRIVATE KEY'`,
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return &hintError{err: errors.New("find takes images, or --all"), hint: "usage: imgfs find {IMAGE… | --all} [flags]"}
			}
			return nil
		},
		ValidArgsFunction: a.imageNames,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			m, err := what.match(a)
			if err != nil {
				return err
			}
			p := newFindPrinter(a, format, all || deleted || len(args) > 1, null)
			opt := forensics.FindOptions{Deleted: deleted, Hash: !p.list.isTable()}
			find := func(s *forensics.Stack, name, platform string) error {
				if err := what.owners(ctx, s, m); all && errors.Is(err, fs.ErrNotExist) {
					return nil // nobody of that name
				} else if err != nil {
					return err
				}
				return s.Find(ctx, m, opt, func(r *forensics.Record) error {
					return p.add(&foundInfo{name, platform, r})
				})
			}
			if all {
				return p.end(a.findAll(ctx, m, find))
			}
			var errs []error
			for _, arg := range args {
				err := a.withStack(ctx, arg, &flags, func(s *forensics.Stack) error { return find(s, imageOfArg(arg), "") })
				if errs = append(errs, err); ctx.Err() != nil {
					break
				}
			}
			return p.end(errors.Join(errs...))
		},
	}
	what.add(c)
	c.Flags().BoolVar(&all, "all", false, "look in all images of the store")
	c.Flags().BoolVar(&deleted, "deleted", false, "find also what later layers replaced, removed or hid")
	c.Flags().BoolVarP(&null, "null", "0", false, "end each path with a NUL, for xargs -0")
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json (an object a line) or a Go template")
	flags.add(a, c)
	return c
}

// imageOfArg returns an argument without the part that it names.
func imageOfArg(arg string) string {
	src, _ := imgfs.SplitArg(arg)
	return src
}

// findAll calls find for each image of the store that may match.
func (a *app) findAll(ctx context.Context, m *forensics.Match, find func(s *forensics.Stack, name, platform string) error) error {
	st, err := a.store()
	if err != nil {
		return err
	}
	images, err := st.FindImages(ctx, m.Sums)
	if err != nil {
		return err
	}
	var errs []error
	for _, i := range images {
		s, err := st.OpenFound(ctx, i)
		if errors.Is(err, image.ErrNotFound) {
			continue // removed since
		}
		if err == nil {
			err = errors.Join(find(s, i.Name, i.Platform), s.Close())
		}
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// A findPrinter prints what is found: paths as they come, or a listing.
type findPrinter struct {
	list      *listing[recordRow]
	paths     bool
	withImage bool
	end0      byte // of a path
}

func newFindPrinter(a *app, format string, withImage, null bool) *findPrinter {
	def := "{{.Layer}}\t{{.State}}\t{{.Mode}}\t{{.Size}}\t{{.Path}}"
	if withImage {
		def = "{{.Image}}\t" + def
	}
	p := &findPrinter{
		list:  newListing(a, format, def, recordHeader()),
		paths: format == "", withImage: withImage, end0: '\n',
	}
	if null {
		p.end0 = 0
	}
	return p
}

func (p *findPrinter) add(i *foundInfo) error {
	if !p.paths {
		return p.list.add(i, func() recordRow {
			row := newRecordRow(i.Record, p.list.isTable())
			row.Image = i.Image
			return row
		})
	}
	line := i.RawPath()
	if p.withImage {
		of := i.Image
		if i.State != forensics.Live.String() {
			of += "#" + strconv.Itoa(i.Layer)
		}
		line = of + ":" + line
	}
	if p.list.terminal && p.end0 != 0 {
		line = term.Escape(line)
	}
	_, err := fmt.Fprintf(p.list.out, "%s%c", line, p.end0)
	return err
}

// end prints what is not printed yet.
func (p *findPrinter) end(err error) error {
	if p.paths {
		return errors.Join(err, p.list.out.Flush())
	}
	return p.list.end(err)
}
