// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/imgfs/imgfs/image"
)

// accept lists the documents that a name may stand for.
var accept = strings.Join([]string{
	ocispec.MediaTypeImageIndex, image.MediaTypeDockerManifestList,
	ocispec.MediaTypeImageManifest, image.MediaTypeDockerManifest,
}, ", ")

// Resolve returns what ref names: the descriptor of a manifest or an index,
// and its exact bytes. A reference with a digest gets just that document; the
// digest of any other is that of the bytes that came. A document that is no
// manifest and no index, or both, is an image.ErrMalformed.
func (c *Client) Resolve(ctx context.Context, ref image.Reference) (ocispec.Descriptor, []byte, error) {
	name := ref.Tag()
	if ref.Digest() != "" {
		name = ref.Digest().String()
	}
	var (
		d   ocispec.Descriptor
		raw []byte
	)
	err := c.read(ctx, ref, "manifest "+name, nil, func(ctx context.Context, repo *remote.Repository) (err error) {
		d, raw, err = c.resolve(ctx, repo, ref, name)
		return err
	})
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	return d, raw, nil
}

func (c *Client) resolve(ctx context.Context, repo *remote.Repository, ref image.Reference, name string) (ocispec.Descriptor, []byte, error) {
	resp, raw, err := c.get(ctx, repo, "manifests/"+name, accept, image.MaxDocument)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	d := ocispec.Descriptor{Digest: ref.Digest(), Size: int64(len(raw))}
	if d.Digest == "" {
		d.Digest = digest.FromBytes(raw)
	}
	if err := image.VerifyDocument(raw, d); err != nil {
		return d, nil, err
	}
	said := resp.Header.Get("Docker-Content-Digest")
	if strings.HasPrefix(said, d.Digest.Algorithm().String()+":") && said != d.Digest.String() {
		return d, nil, fmt.Errorf("bytes have digest %s, the registry says %s: %w", d.Digest, bounded(said), image.ErrMalformed)
	}
	d.MediaType, err = kind(raw, resp.Header.Get("Content-Type"))
	return d, raw, err
}

// kind returns the media type of a manifest or an index: its own, else what
// the server says, else what it looks like. It checks that it is one of them
// and not both.
func kind(raw []byte, contentType string) (string, error) {
	said, _, err := mime.ParseMediaType(contentType)
	if err != nil || !image.IsIndexType(said) && !image.IsManifestType(said) {
		said = "" // text/plain, of a server that serves files
	}
	x, indexErr := image.ParseIndex(raw, said)
	if indexErr == nil {
		return orElse(x.MediaType, ocispec.MediaTypeImageIndex), nil
	}
	m, err := image.ParseManifest(raw, said)
	switch {
	case err == nil:
		return orElse(m.MediaType, ocispec.MediaTypeImageManifest), nil
	case image.IsIndexType(said):
		return "", indexErr
	}
	return "", err
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// Document returns a manifest, an index, a config or another small blob of
// the repository of ref, verified against d. It is refused if d is larger than
// image.MaxDocument.
func (c *Client) Document(ctx context.Context, ref image.Reference, d ocispec.Descriptor) ([]byte, error) {
	if err := image.ValidateDescriptor(d); err != nil {
		return nil, err
	}
	if d.Size > image.MaxDocument {
		return nil, fmt.Errorf("%s: document of %d bytes: limit is %d: %w", d.Digest, d.Size, image.MaxDocument, image.ErrMalformed)
	}
	path, what, types := "blobs/"+d.Digest.String(), "blob ", ""
	if image.IsIndexType(d.MediaType) || image.IsManifestType(d.MediaType) {
		path, what, types = "manifests/"+d.Digest.String(), "manifest ", d.MediaType
	}
	var raw []byte
	err := c.read(ctx, ref, what+d.Digest.String(), nil, func(ctx context.Context, repo *remote.Repository) (err error) {
		_, raw, err = c.get(ctx, repo, path, types, d.Size)
		if err == nil {
			err = image.VerifyDocument(raw, d)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return raw, nil
}

// get returns the answer to GET of a path of repo, and its body of at most
// limit bytes. An answer that breaks off is asked for again a few times.
func (c *Client) get(ctx context.Context, repo *remote.Repository, path, types string, limit int64) (*http.Response, []byte, error) {
	for retries := 0; ; retries++ {
		resp, raw, err := c.getOnce(ctx, repo, path, types, limit)
		if err == nil || !temporary(err) || retries == maxRetries || ctx.Value(noRetries{}) != nil {
			return resp, raw, err
		}
		c.log("%s: %s: trying again", repo.Reference.Registry, scrub(withoutURL(err).Error()))
		if err := c.sleep(ctx, retries); err != nil {
			return nil, nil, err
		}
	}
}

func (c *Client) getOnce(ctx context.Context, repo *remote.Repository, path, types string, limit int64) (*http.Response, []byte, error) {
	resp, err := c.start(ctx, repo, path, http.Header{"Accept": {orElse(types, "*/*")}})
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, answerError(resp)
	}
	raw, err := readAll(resp, limit)
	return resp, raw, err
}

// readAll reads an answer of at most limit bytes.
func readAll(resp *http.Response, limit int64) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, tooLong(limit)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(raw)) > limit:
		return nil, tooLong(limit)
	}
	return raw, nil
}

func tooLong(limit int64) error {
	return fmt.Errorf("over %d bytes: %w", limit, image.ErrMalformed)
}

// start sends a GET of a path of repo.
func (c *Client) start(ctx context.Context, repo *remote.Repository, path string, header http.Header) (*http.Response, error) {
	ctx = auth.AppendRepositoryScope(ctx, repo.Reference, auth.ActionPull)
	scheme := "https://"
	if repo.PlainHTTP {
		scheme = "http://"
	}
	url := scheme + repo.Reference.Host() + "/v2/" + repo.Reference.Repository + "/" + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	req.Header = header
	return repo.Client.Do(req)
}
