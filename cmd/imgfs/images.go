// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

// imageRow is a line of images, with docker's placeholders.
type imageRow struct {
	Repository, Tag, Digest, ID        string
	CreatedSince, CreatedAt, Size      string
	Platform                           string
	Containers, SharedSize, UniqueSize string // nothing counts containers
}

// imagesFlags are the flags of images.
type imagesFlags struct {
	format, sort, store           string
	quiet, digests, noTrunc, tree bool
	filters                       []string
}

func newImages(a *app) *cobra.Command {
	var flags imagesFlags
	c := &cobra.Command{
		Use:   "images [REPOSITORY[:TAG]]",
		Short: "List the images of the store",
		Long: `Images lists the images of the store, newest first. REPOSITORY[:TAG] may be a
pattern (debian*, *:edge). SIZE is that of the uncompressed layers.

Filters: dangling=true|false (without a name), label=KEY[=VALUE],
label!=KEY[=VALUE], before=IMAGE, since=IMAGE (created before or after that
one), until=DURATION|TIME, reference=PATTERN. Several of one kind but label
and until mean any of them.

Placeholders of --format: .Repository .Tag .ID .Digest .CreatedSince
.CreatedAt .Size .SharedSize .UniqueSize .Platform

With --tree the layers are shown that images share: each image stands below the
layers that it has in common with others, which are written once.

--store lists the images and containers in the store of another engine, where
it lies: docker:PATH, containerd:PATH or containers-storage:PATH, or the kind
alone (docker:) for where that engine has it. What it lists, other verbs take:
docker:PATH:NAME. More placeholders there: .Kind (image or container)
.Namespace (containerd's) .Image (of a container) .Containers (of an image).`,
		Example: `  imgfs images
  imgfs images -q alpine
  imgfs images --filter label=stage=prod --sort size
  imgfs images --format 'table {{.Repository}}:{{.Tag}}\t{{.Size}}'
  imgfs images --store docker:/mnt/evidence/var/lib/docker`,
		Args:              takes(cobra.MaximumNArgs(1)),
		ValidArgsFunction: a.firstImage,
		RunE: func(c *cobra.Command, args []string) error {
			return a.printImages(c, args, &flags)
		},
	}
	c.Flags().BoolP("all", "a", false, "no effect: no image here is an intermediate one, which docker would hide")
	c.Flags().BoolVarP(&flags.quiet, "quiet", "q", false, "print IDs only")
	c.Flags().BoolVar(&flags.digests, "digests", false, "show digests")
	c.Flags().BoolVar(&flags.noTrunc, "no-trunc", false, "show IDs in full")
	c.Flags().BoolVar(&flags.tree, "tree", false, "show which layers images share")
	c.Flags().StringVar(&flags.sort, "sort", "created", "sort by `KEY`: created (newest first), size (largest first), name")
	c.Flags().StringVar(&flags.store, "store", "", "list what is in the `STORE` of another engine: docker:[PATH], containerd:[PATH], containers-storage:[PATH]")
	complete(c, "store", cobra.FixedCompletions([]string{"docker:", "containerd:", "containers-storage:"}, cobra.ShellCompDirectiveNoSpace))
	c.Flags().StringArrayVarP(&flags.filters, "filter", "f", nil, "list only images that `KEY=VALUE` is true of")
	c.Flags().StringVar(&flags.format, "format", "", "print as `FORMAT`: table, json (an object a line), a Go template, or \"table TEMPLATE\"")
	complete(c, "sort", cobra.FixedCompletions([]string{"created", "size", "name"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) printImages(c *cobra.Command, args []string, f *imagesFlags) error {
	filters, err := parseFilters(f.filters, "dangling", "label", "before", "since", "until", "reference")
	if err != nil {
		return err
	}
	if !slices.Contains([]string{"created", "size", "name"}, f.sort) {
		return usagef("--sort %q: want created, size or name", f.sort)
	}
	if f.tree && (f.format != "" || f.quiet || f.digests) {
		return usagef("--tree has a form of its own: leave out --format, -q and --digests")
	}
	if f.store != "" {
		return a.printEngineImages(c.Context(), args, f)
	}
	st, err := a.store()
	if err != nil {
		return err
	}
	list := st.Images
	if f.tree || strings.Contains(f.format, "SharedSize") || strings.Contains(f.format, "UniqueSize") || f.format == "json" {
		list = st.ImagesWithLayers
	}
	images, err := list(c.Context())
	if err != nil {
		return err
	}
	if images, err = filterImages(images, filters, time.Now()); err != nil {
		return err
	}
	if len(args) == 1 {
		if images, err = matchImages(images, args[0]); err != nil {
			return err
		}
	}
	sortImages(images, f.sort, func(i *imgfs.ImageSummary) (string, string, int64) { return i.Repository, i.Tag, i.Size })
	if f.tree {
		return printLayerTree(a.stdout, images, f.noTrunc)
	}
	return a.printImageRows(images, f)
}

func (a *app) printImageRows(images []imgfs.ImageSummary, f *imagesFlags) error {
	def, format := "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}", f.format
	if f.digests {
		def = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
	}
	if f.quiet && (format == "" || format == "table") {
		format = "{{.ID}}"
	}
	header := imageRow{
		Repository: "REPOSITORY", Tag: "TAG", Digest: "DIGEST", ID: "IMAGE ID",
		CreatedSince: "CREATED", CreatedAt: "CREATED AT", Size: "SIZE", Platform: "PLATFORM",
		Containers: "CONTAINERS", SharedSize: "SHARED SIZE", UniqueSize: "UNIQUE SIZE",
	}
	return formatError(term.Rows(a.stdout, format, def, a.toTerminal(), header, imageRows(images, f.noTrunc, time.Now())))
}

func imageRows(images []imgfs.ImageSummary, noTrunc bool, now time.Time) []imageRow {
	rows := make([]imageRow, 0, len(images))
	for _, i := range images {
		row := imageRow{
			Repository: i.Repository, Tag: i.Tag, ID: i.ID.String(), Digest: i.Digest.String(),
			CreatedSince: term.Age(now, i.Created), CreatedAt: createdAt(i.Created),
			Size: term.Size(i.Size), Platform: i.Platform,
			Containers: "N/A", SharedSize: term.Size(i.Shared), UniqueSize: term.Size(i.Size - i.Shared),
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

// sortImages sorts images, which come newest first, by what key says of them.
func sortImages[T any](images []T, by string, key func(*T) (repository, tag string, size int64)) {
	slices.SortStableFunc(images, func(a, b T) int {
		aName, aTag, aSize := key(&a)
		bName, bTag, bSize := key(&b)
		byName := cmp.Or(strings.Compare(aName, bName), strings.Compare(aTag, bTag))
		switch by {
		case "name":
			return byName
		case "size":
			return cmp.Or(cmp.Compare(bSize, aSize), byName)
		}
		return 0
	})
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
	rm := newRmi(a)
	rm.Use = "rm IMAGE…"
	rm.Aliases = []string{"remove"}
	c.AddCommand(ls, rm, newPrune(a), newTag(a), newInspect(a), newHistory(a), newLoad(a), newSave(a), newPull(a), newPush(a), newImport(a))
	return c
}
