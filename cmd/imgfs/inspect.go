// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"text/template"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/term"
)

// inspected is what inspect prints of an image: docker's fields, then ours.
type inspected struct {
	ID            string `json:"Id"`
	RepoTags      []string
	RepoDigests   []string
	Comment       string
	Created       string
	DockerVersion string
	Author        string
	Config        image.RunConfig
	Architecture  string
	Variant       string `json:",omitempty"`
	Os            string
	OsVersion     string `json:",omitempty"`
	Size          int64
	RootFS        struct {
		Type   string
		Layers []digest.Digest
	}
	Metadata struct {
		LastTagTime time.Time
	}
	Descriptor struct {
		MediaType string        `json:"mediaType"`
		Digest    digest.Digest `json:"digest"`
		Size      int64         `json:"size"`
	}

	Layers []imgfs.LayerInfo // base first
	Others []string          `json:",omitempty"` // what else the index holds
}

func newInspect(a *app) *cobra.Command {
	var (
		flags  imageFlags
		format string
	)
	c := &cobra.Command{
		Use:   "inspect IMAGE…",
		Short: "Show all that is known about images, as JSON",
		Long: `Inspect prints a JSON array with an object for each image, in docker's field
names. Layers, base first, tells of each layer its digest as shipped, its
diffID, its sizes and how many oddities were met in it. Of an image file whose
layers are compressed, the uncompressed sizes are not known (-1).`,
		Example: `  imgfs inspect alpine
  imgfs inspect --format '{{join .Config.Cmd " "}}' alpine
  imgfs inspect --format '{{json .Config.Labels}}' ./image.tar`,
		Args:              takes(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.imageNames,
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkPlatform(flags.platform); err != nil {
				return err
			}
			st, err := a.store()
			if err != nil {
				return err
			}
			var found []*inspected
			var missing []error
			for _, arg := range args {
				i, err := inspect(c.Context(), st, arg, flags.options(a))
				if err != nil {
					missing = append(missing, notImage(err))
					continue
				}
				found = append(found, i)
			}
			// As docker: what is there is shown, then comes the error.
			if err := printInspected(a.stdout, found, format, a.toTerminal()); err != nil {
				return formatError(err)
			}
			return errors.Join(missing...)
		},
	}
	c.Flags().StringVarP(&format, "format", "f", "", "print as `FORMAT`: json (an object a line) or a Go template")
	flags.add(a, c)
	return c
}

func inspect(ctx context.Context, st *imgfs.Store, arg string, opt imgfs.OpenOptions) (*inspected, error) {
	info, err := st.Info(ctx, arg, opt)
	if err != nil {
		return nil, err
	}
	return newInspected(info)
}

func newInspected(info *imgfs.ImageInfo) (*inspected, error) {
	config, err := image.ParseConfig(info.Config)
	if err != nil {
		return nil, err
	}
	i := &inspected{
		ID: info.ID.String(), RepoTags: info.RepoTags, RepoDigests: info.RepoDigests,
		Comment: config.Comment, DockerVersion: config.DockerVersion, Author: config.Author,
		Config: config.Config, Architecture: config.Architecture, Variant: config.Variant,
		Os: config.OS, OsVersion: config.OSVersion, Size: info.Size,
		Layers: info.Layers, Others: info.Others,
	}
	i.Metadata.LastTagTime = info.Tagged
	if i.RepoTags == nil {
		i.RepoTags = []string{}
	}
	if i.RepoDigests == nil {
		i.RepoDigests = []string{}
	}
	if !info.Created.IsZero() {
		i.Created = info.Created.Format(time.RFC3339Nano)
	}
	if i.Layers == nil {
		i.Layers = []imgfs.LayerInfo{}
	}
	i.RootFS.Type, i.RootFS.Layers = "layers", info.DiffIDs
	var manifest struct{ MediaType string }
	if err := json.Unmarshal(info.Manifest, &manifest); err == nil {
		i.Descriptor.MediaType = manifest.MediaType
	}
	i.Descriptor.Digest, i.Descriptor.Size = info.Digest, int64(len(info.Manifest))
	return i, nil
}

func printInspected[T any](w io.Writer, images []T, format string, escape bool) error {
	if format == "" {
		if images == nil {
			images = []T{}
		}
		return term.JSON(w, images, "    ")
	}
	if format == "json" {
		for _, i := range images {
			if err := term.JSON(w, i, ""); err != nil {
				return err
			}
		}
		return nil
	}
	t, err := term.Template(format)
	if err != nil {
		return err
	}
	for _, i := range images {
		if err := printTemplate(w, t, i, escape); err != nil {
			return err
		}
	}
	return nil
}

// printTemplate runs t over i, and where that has no such field over its
// JSON, as docker does: .ID and .Id are both right.
func printTemplate(w io.Writer, t *template.Template, i any, escape bool) error {
	raw, err := json.Marshal(i)
	if err != nil {
		return err
	}
	var decoded any
	if err := json.Unmarshal(raw, &decoded); err != nil {
		return err
	}
	if escape {
		decoded = term.EscapeValues(decoded)
		safe, err := json.Marshal(decoded)
		if err != nil {
			return err
		}
		i = new(inspected)
		if err := json.Unmarshal(safe, i); err != nil {
			return err
		}
	}
	err = term.Execute(w, t, i)
	if errors.Is(err, term.ErrTemplate) {
		err = term.Execute(w, t, decoded)
	}
	return err
}
