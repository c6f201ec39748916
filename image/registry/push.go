// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"errors"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/imgfs/imgfs/image"
)

// PushBlob uploads blob d to the repository of ref, unless it is there. from,
// if it is not nil, is another repository of the same registry, which the
// blob may be mounted from: then no byte is sent. open returns the bytes from
// the first on; it may be called again, when an upload broke off. sent is
// false if the blob was there or was mounted.
func (c *Client) PushBlob(ctx context.Context, ref image.Reference, d ocispec.Descriptor, from *image.Reference, open func() (io.ReadCloser, error)) (sent bool, err error) {
	has, err := c.HasBlob(ctx, ref, d)
	if err != nil || has {
		return false, err
	}
	repo, err := c.origin(ctx, ref)
	if err != nil {
		return false, err
	}
	what := "blob " + d.Digest.String()
	if from != nil && from.Domain() == ref.Domain() && from.Repository() != ref.Repository() {
		sent, err := mount(ctx, repo, d, from.Repository(), open)
		if err == nil || ctx.Err() != nil {
			return sent, newError(ref.Domain(), ref.Repository(), what, err)
		}
		c.log("%s: %s is not mounted from %s: %s", ref.Name(), what, from.Name(), scrub(withoutURL(err).Error()))
	}
	for retries := 0; ; retries++ {
		err := upload(ctx, repo, d, open)
		if err == nil {
			return true, nil
		}
		err = newError(ref.Domain(), ref.Repository(), what, err)
		// A token may run out during a long upload; the next one has a new one.
		expired := errors.Is(err, ErrUnauthorized) && retries == 0
		if ctx.Err() != nil || retries == maxRetries || !expired && !temporaryError(err) {
			return false, err
		}
		c.log("%v: trying again", err)
		if err := c.sleep(ctx, retries); err != nil {
			return false, err
		}
	}
}

// mount mounts d from another repository; a registry that does not know how
// is sent the bytes.
func mount(ctx context.Context, repo *remote.Repository, d ocispec.Descriptor, from string, open func() (io.ReadCloser, error)) (sent bool, err error) {
	err = repo.Blobs().(registry.Mounter).Mount(ctx, d, from, func() (io.ReadCloser, error) {
		sent = true
		return open()
	})
	return sent, err
}

func upload(ctx context.Context, repo *remote.Repository, d ocispec.Descriptor, open func() (io.ReadCloser, error)) error {
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	return repo.Blobs().Push(ctx, d, r)
}

// PushManifest puts a manifest or an index, whose bytes are raw, under the
// tag of ref, or under its digest alone if ref has no tag. All that it names
// has to be there before.
func (c *Client) PushManifest(ctx context.Context, ref image.Reference, d ocispec.Descriptor, raw []byte) error {
	if err := image.VerifyDocument(raw, d); err != nil {
		return err
	}
	repo, err := c.origin(ctx, ref)
	if err != nil {
		return err
	}
	name := orElse(ref.Tag(), d.Digest.String())
	err = repo.Manifests().PushReference(ctx, d, bytes.NewReader(raw), name)
	return newError(ref.Domain(), ref.Repository(), "manifest "+name, err)
}
