// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/layerstore"
)

// Usage tells how much of one kind there is in the store.
type Usage struct {
	Type              string
	Total, Active     int
	Size, Reclaimable int64 // bytes on disk
}

// ImageUsage is what an image takes on disk, under one of its names.
type ImageUsage struct {
	Repository, Tag string // "<none>" without one
	ID              digest.Digest
	Created         time.Time
	Size            int64    // bytes on disk of its blobs
	Shared          int64    // of these in blobs that other images need, too
	UsedBy          []string // "mount /mnt", "upper x", "process 12"
}

// DiskUsage is what the store takes on disk; nothing is counted twice.
type DiskUsage struct {
	// Rows: Images with their blobs, Unused blobs that no image needs, Indexes
	// and all else that is derived, Uppers, Partial blobs that have not come
	// whole. Reclaimable is what goes when nothing is kept but what is in use.
	Rows   []Usage
	Images []ImageUsage // a row for each name, as Images has them
	Uppers []UpperInfo
}

// DiskUsage returns what the store takes on disk. Uppers that cannot be read
// are left out; the error then says which, beside a result.
func (s *Store) DiskUsage(ctx context.Context) (*DiskUsage, error) {
	u, err := s.ls.Usages()
	if err != nil {
		return nil, err
	}
	uppers, bad := s.Uppers(ctx)
	out := &DiskUsage{Uppers: uppers}
	row := func(what string, u layerstore.Usage) {
		out.Rows = append(out.Rows, Usage{what, u.Total, u.Active, u.Size, u.Reclaimable})
	}
	row("Images", u.Images)
	row("Unused blobs", u.Unused)
	row("Indexes", u.Indexes)
	row("Uppers", upperUsage(uppers))
	row("Partial blobs", u.Partial)
	names := mountNames(ctx)
	for _, r := range u.Refs {
		for _, m := range r.Images {
			i, ok := u.Each[m]
			if !ok {
				continue
			}
			one := ImageUsage{ID: i.Image.ID, Created: i.Image.Created, Size: i.Size, Shared: i.Shared}
			one.Repository, one.Tag = repositoryAndTag(r.Name)
			for _, use := range i.Uses {
				text := useText(use)
				one.UsedBy = append(one.UsedBy, cmp.Or(names[text], text))
			}
			slices.Sort(one.UsedBy)
			one.UsedBy = slices.Compact(one.UsedBy)
			out.Images = append(out.Images, one)
		}
	}
	slices.SortStableFunc(out.Images, func(a, b ImageUsage) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.Repository, b.Repository), strings.Compare(a.Tag, b.Tag))
	})
	return out, bad
}

func upperUsage(list []UpperInfo) (u layerstore.Usage) {
	for _, i := range list {
		u.Total++
		u.Size += i.Size
		if i.PID != 0 {
			u.Active++
		} else {
			u.Reclaimable += i.Size
		}
	}
	return u
}
