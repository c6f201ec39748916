// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

// storeRow is a line of images --store: what imageRow has, and what else an
// engine's store has.
type storeRow struct {
	Repository, Tag, Digest, ID        string
	CreatedSince, CreatedAt, Size      string
	Platform                           string
	Containers, SharedSize, UniqueSize string
	Kind, Namespace, Image             string
}

// containerTag stands in the place of a container's tag.
const containerTag = "<container>"

// printEngineImages lists what is in the store of another engine.
func (a *app) printEngineImages(ctx context.Context, args []string, f *imagesFlags) error {
	if len(args) > 0 || len(f.filters) > 0 || f.tree {
		return usagef("--store lists all that is there: leave out REPOSITORY, --filter and --tree")
	}
	st, err := a.store()
	if err != nil {
		return err
	}
	list, err := st.EngineItems(ctx, f.store)
	if err != nil {
		return err
	}
	sortImages(list, f.sort, func(i *imgfs.EngineItem) (string, string, int64) { return i.Repository, i.Tag, i.Size })
	columns := []string{"{{.Repository}}", "{{.Tag}}", "{{.ID}}", "{{.CreatedSince}}", "{{.Size}}"}
	if f.digests {
		columns = slices.Insert(columns, 2, "{{.Digest}}")
	}
	if slices.ContainsFunc(list, func(i imgfs.EngineItem) bool { return i.Namespace != "" }) {
		columns = append(columns, "{{.Namespace}}")
	}
	format := f.format
	if f.quiet && (format == "" || format == "table") {
		format = "{{.ID}}"
	}
	header := storeRow{
		Repository: "REPOSITORY", Tag: "TAG", Digest: "DIGEST", ID: "IMAGE ID",
		CreatedSince: "CREATED", CreatedAt: "CREATED AT", Size: "SIZE", Platform: "PLATFORM",
		Containers: "CONTAINERS", SharedSize: "SHARED SIZE", UniqueSize: "UNIQUE SIZE",
		Kind: "KIND", Namespace: "NAMESPACE", Image: "IMAGE",
	}
	now := time.Now()
	rows := make([]storeRow, 0, len(list))
	for i := range list {
		rows = append(rows, newStoreRow(&list[i], f.noTrunc, now))
	}
	return formatError(term.Rows(a.stdout, format, strings.Join(columns, "\t"), a.toTerminal(), header, rows))
}

func newStoreRow(i *imgfs.EngineItem, noTrunc bool, now time.Time) storeRow {
	const unknown = "N/A"
	row := storeRow{
		Repository: i.Repository, Tag: i.Tag, ID: i.ID.String(), Digest: i.Digest.String(),
		CreatedSince: term.Age(now, i.Created), CreatedAt: createdAt(i.Created), Size: unknown, Platform: i.Platform,
		Containers: strconv.Itoa(i.Containers), SharedSize: unknown, UniqueSize: unknown,
		Kind: "image", Namespace: i.Namespace, Image: i.Image,
	}
	if i.Size >= 0 {
		row.Size = term.Size(i.Size)
	}
	if i.Container {
		row.Kind, row.Tag, row.ID, row.Containers = "container", containerTag, i.ContainerID, unknown
	}
	if !noTrunc {
		row.ID = term.ShortID(row.ID)
	}
	for _, s := range []*string{&row.Repository, &row.Digest} {
		if *s == "" {
			*s = "<none>"
		}
	}
	return row
}

// engineHint returns the cure of an error about what an engine's store has not.
func engineHint(err *imgfs.EngineNotFoundError) string {
	switch {
	case len(err.Found) > 0:
		return "take more digits of the ID, or the name with its tag"
	case len(err.Have) == 0:
		return ""
	case err.Name == "":
		return "a name stands behind the store: " + err.Store + ":NAME; imgfs images --store " + err.Store + " lists them"
	}
	return "imgfs images --store " + err.Store + " lists what is there"
}
