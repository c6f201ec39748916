// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/term"
)

// imageRow is a line of images, with docker's placeholders.
type imageRow struct {
	Repository, Tag, Digest, ID        string
	CreatedSince, CreatedAt, Size      string
	Platform                           string
	Containers, SharedSize, UniqueSize string // docker's; nothing here counts them
}

func newImages(a *app) *cobra.Command {
	var (
		format                  string
		quiet, digests, noTrunc bool
	)
	c := &cobra.Command{
		Use:   "images [REPOSITORY[:TAG]]",
		Short: "List the images of the store",
		Long: `Images lists the images of the store, newest first. REPOSITORY[:TAG] may be a
pattern (debian*, *:edge).

Placeholders of --format: .Repository .Tag .ID .Digest .CreatedSince
.CreatedAt .Size .Platform`,
		Example: `  imgfs images
  imgfs images -q alpine
  imgfs images --format 'table {{.Repository}}:{{.Tag}}\t{{.Size}}'`,
		Args:              takes(cobra.MaximumNArgs(1)),
		ValidArgsFunction: a.firstImage,
		RunE: func(c *cobra.Command, args []string) error {
			st, err := a.store()
			if err != nil {
				return err
			}
			images, err := st.Images(c.Context())
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if images, err = matchImages(images, args[0]); err != nil {
					return err
				}
			}
			rows := imageRows(images, noTrunc, time.Now())
			def := "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
			if digests {
				def = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
			}
			if quiet && (format == "" || format == "table") {
				format = "{{.ID}}"
			}
			header := imageRow{
				Repository: "REPOSITORY", Tag: "TAG", Digest: "DIGEST", ID: "IMAGE ID",
				CreatedSince: "CREATED", CreatedAt: "CREATED AT", Size: "SIZE", Platform: "PLATFORM",
				Containers: "CONTAINERS", SharedSize: "SHARED SIZE", UniqueSize: "UNIQUE SIZE",
			}
			return formatError(term.Rows(a.stdout, format, def, a.toTerminal(), header, rows))
		},
	}
	c.Flags().BoolP("all", "a", false, "no effect: no image here is an intermediate one, which docker would hide")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print IDs only")
	c.Flags().BoolVar(&digests, "digests", false, "show digests")
	c.Flags().BoolVar(&noTrunc, "no-trunc", false, "show IDs in full")
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json (an object a line), a Go template, or \"table TEMPLATE\"")
	return c
}

func imageRows(images []imgfs.ImageSummary, noTrunc bool, now time.Time) []imageRow {
	rows := make([]imageRow, 0, len(images))
	for _, i := range images {
		row := imageRow{
			Repository: i.Repository, Tag: i.Tag, ID: i.ID.String(), Digest: i.Digest.String(),
			CreatedSince: term.Age(now, i.Created), CreatedAt: createdAt(i.Created),
			Size: term.Size(i.Size), Platform: i.Platform,
			Containers: "N/A", SharedSize: "N/A", UniqueSize: "N/A",
		}
		if !noTrunc {
			row.ID = term.ShortID(row.ID)
		}
		if row.Digest == "" {
			row.Digest = "<none>"
		}
		rows = append(rows, row)
	}
	return rows
}

func createdAt(t time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return t.Local().Truncate(time.Second).String()
}

// matchImages returns the images that a pattern names: a repository, with or
// without its tag, in the form that images prints or spelled out.
func matchImages(images []imgfs.ImageSummary, pattern string) ([]imgfs.ImageSummary, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, usagef("%q: %w", pattern, err)
	}
	patterns := []string{pattern}
	if ref, err := image.ParseReference(pattern); err == nil && ref.Name() != pattern {
		if full := ref.FamiliarName(); ref.Tag() == "latest" || ref.Tag() == "" {
			patterns = append(patterns, full)
		} else {
			patterns = append(patterns, ref.Familiar())
		}
	}
	var out []imgfs.ImageSummary
	for _, i := range images {
		if matchesAny(patterns, i.Repository) || matchesAny(patterns, i.Repository+":"+i.Tag) {
			out = append(out, i)
		}
	}
	return out, nil
}

func matchesAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if ok, _ := path.Match(p, name); ok {
			return true
		}
	}
	return false
}

// newImage gathers the verbs that docker also has under "image".
func newImage(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "image VERB",
		Short:   "Verbs about images, as docker groups them",
		Long:    "Image groups verbs as docker does: image ls is images, image inspect is inspect, and so on.",
		Example: "  imgfs image ls",
		Args:    noVerb,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	ls := newImages(a)
	ls.Use = "ls [REPOSITORY[:TAG]]"
	ls.Aliases = []string{"list"}
	c.AddCommand(ls, newInspect(a), newHistory(a), newLoad(a), newImport(a))
	return c
}
