// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/term"
)

// newManifest gathers the verbs that docker has under "manifest".
func newManifest(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "manifest VERB",
		Short:   "Look at manifests in a registry",
		Long:    "Manifest groups verbs about manifests as docker does.",
		Example: "  imgfs manifest inspect alpine",
		Args:    noVerb,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newManifestInspect(a))
	return c
}

// A verboseManifest is what docker manifest inspect -v prints of one manifest.
type verboseManifest struct {
	Ref              string
	Descriptor       ocispec.Descriptor
	Raw              []byte          // as the registry has it, in base64
	SchemaV2Manifest json.RawMessage `json:",omitempty"` // docker's
	OCIManifest      json.RawMessage `json:",omitempty"`
}

func newManifestInspect(a *app) *cobra.Command {
	var verbose bool
	c := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Print the manifest, or the list of them, that a registry has of an image",
		Long: `Inspect prints the document that a registry has under the name of an image, a
manifest or a list of one for each platform, as JSON. Nothing is pulled. With -v
it prints each manifest of a list, with the descriptor that leads to it.`,
		Example: `  imgfs manifest inspect alpine
  imgfs manifest inspect -v alpine:3 | jq '.[].Descriptor.platform'`,
		Args:              takes(cobra.ExactArgs(1)),
		ValidArgsFunction: a.firstImage,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			st, err := a.store()
			if err != nil {
				return err
			}
			m, err := st.RemoteManifest(ctx, args[0])
			if err != nil {
				return err
			}
			if !verbose {
				return term.JSON(a.stdout, json.RawMessage(m.Raw), "\t")
			}
			list, err := st.RemoteManifests(ctx, m)
			if err != nil {
				return err
			}
			all := make([]verboseManifest, len(list))
			for i := range list {
				all[i] = newVerboseManifest(&list[i])
			}
			if !image.IsIndexType(m.Descriptor.MediaType) {
				return term.JSON(a.stdout, all[0], "\t")
			}
			return term.JSON(a.stdout, all, "\t")
		},
	}
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "print all manifests of a list, with descriptors")
	a.remoteFlags(c)
	return c
}

func newVerboseManifest(m *imgfs.RemoteManifest) verboseManifest {
	v := verboseManifest{Ref: m.Ref, Descriptor: m.Descriptor, Raw: m.Raw}
	if m.Descriptor.MediaType == image.MediaTypeDockerManifest {
		v.SchemaV2Manifest = m.Raw
	} else {
		v.OCIManifest = m.Raw
	}
	return v
}
