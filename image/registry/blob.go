// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/imgfs/imgfs/image"
)

// Breaks of one blob.
const (
	maxBreaks = 6       // without progress between them
	progress  = 1 << 20 // bytes that are some
	maxURLs   = 4       // of a foreign layer
)

// Blob returns a reader of blob d from byte off on. After a break it goes on
// by itself where it was, on another server if there is one. It ends after
// d.Size bytes, never later. The bytes are not verified: who needs all of
// them hashes them, and tells Distrust if they are wrong.
func (c *Client) Blob(ctx context.Context, ref image.Reference, d ocispec.Descriptor, off int64) (io.ReadCloser, error) {
	if err := image.ValidateDescriptor(d); err != nil {
		return nil, err
	}
	if off < 0 || off > d.Size {
		return nil, fmt.Errorf("blob %s: offset %d of %d bytes", d.Digest, off, d.Size)
	}
	b := &blob{c: c, ctx: ctx, ref: ref, d: d, off: off, moved: off, broke: make(map[string]bool)}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

// A blob is a read of one that may move from server to server.
type blob struct {
	c   *Client
	ctx context.Context
	ref image.Reference
	d   ocispec.Descriptor

	off    int64         // of the next byte
	body   io.ReadCloser // nil when all was read
	host   string        // that gives body
	broke  map[string]bool
	breaks int   // since moved
	moved  int64 // off when breaks was 0
}

// open asks for the bytes from off on.
func (b *blob) open() error {
	if b.off == b.d.Size {
		return nil
	}
	what := "blob " + b.d.Digest.String()
	skip := func(host string) bool { return b.broke[host] || b.c.isDistrusted(host, b.d) }
	err := b.c.read(b.ctx, b.ref, what, skip, func(ctx context.Context, repo *remote.Repository) error {
		resp, err := b.c.start(ctx, repo, "blobs/"+b.d.Digest.String(), b.header())
		if err != nil {
			return err
		}
		if err := b.take(resp); err != nil {
			return err
		}
		b.host = repo.Reference.Registry
		b.c.noteServed(b.host, b.d)
		return nil
	})
	if errors.Is(err, ErrNotFound) && image.IsForeignType(b.d.MediaType) {
		return b.openForeign(err)
	}
	return err
}

func (b *blob) header() http.Header {
	h := http.Header{"Accept": {"*/*"}}
	if b.off > 0 {
		h.Set("Range", "bytes="+strconv.FormatInt(b.off, 10)+"-")
	}
	return h
}

// take begins to read an answer. It is closed if it is not the one asked for.
func (b *blob) take(resp *http.Response) (err error) {
	defer func() {
		if err != nil {
			resp.Body.Close()
		}
	}()
	left := b.d.Size - b.off
	switch resp.StatusCode {
	case http.StatusOK:
		if n := resp.ContentLength; n >= 0 && n != b.d.Size {
			return fmt.Errorf("want %d bytes, the server has %d: %w", b.d.Size, n, image.ErrMalformed)
		}
		// It knows no ranges: what is here already comes again.
		if _, err := io.CopyN(io.Discard, resp.Body, b.off); err != nil {
			return err
		}
	case http.StatusPartialContent:
		if err := b.checkRange(resp.Header.Get("Content-Range")); err != nil {
			return err
		}
		if n := resp.ContentLength; n >= 0 && n > left {
			return fmt.Errorf("want %d bytes, the server has %d: %w", left, n, image.ErrMalformed)
		}
	case http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("want %d bytes, the server has fewer: %w", b.d.Size, image.ErrMalformed)
	default:
		return answerError(resp)
	}
	b.body = resp.Body
	return nil
}

// checkRange checks that an answer begins at off and is of a blob of the
// right size.
func (b *blob) checkRange(value string) error {
	rest, ok := strings.CutPrefix(value, "bytes ")
	first, rest, ok2 := strings.Cut(rest, "-")
	_, size, ok3 := strings.Cut(rest, "/")
	off, err := strconv.ParseInt(first, 10, 64)
	if !ok || !ok2 || !ok3 || err != nil || off != b.off {
		return fmt.Errorf("want bytes from %d on, the server has range %.60q: %w", b.off, value, image.ErrMalformed)
	}
	if size != "*" && size != strconv.FormatInt(b.d.Size, 10) {
		return fmt.Errorf("want %d bytes, the server has %.20s: %w", b.d.Size, size, image.ErrMalformed)
	}
	return nil
}

func (b *blob) Read(p []byte) (int, error) {
	for {
		if b.off == b.d.Size {
			return 0, io.EOF
		}
		if left := b.d.Size - b.off; int64(len(p)) > left {
			p = p[:left]
		}
		n, err := b.body.Read(p)
		b.off += int64(n)
		if n > 0 || err == nil {
			return n, nil // the error comes again, or the end was reached
		}
		if err := b.reopen(err); err != nil {
			return 0, err
		}
	}
}

// reopen goes on after err, or returns the error that ends the read.
func (b *blob) reopen(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	b.body.Close()
	for {
		if b.off-b.moved >= progress {
			b.breaks, b.moved = 0, b.off
		}
		isMirror := b.host != b.ref.Domain()
		if b.ctx.Err() != nil || b.breaks >= maxBreaks || !isMirror && !temporaryError(err) {
			return newError(b.host, b.ref.Repository(), "blob "+b.d.Digest.String(), err)
		}
		b.c.log("%s: blob %s broke off at %d of %d bytes: %s", b.host, b.d.Digest, b.off, b.d.Size, scrub(withoutURL(err).Error()))
		if isMirror {
			b.broke[b.host] = true
		} else if b.breaks > 0 {
			if err := b.c.sleep(b.ctx, b.breaks-1); err != nil {
				return err
			}
		}
		b.breaks++
		if err = b.open(); err == nil {
			return nil
		}
		b.host = b.ref.Domain()
	}
}

func (b *blob) Close() error {
	if b.body == nil {
		return nil
	}
	return b.body.Close()
}

// openForeign asks at the addresses that the descriptor of a foreign layer
// gives, without credentials. err is what the registry said.
func (b *blob) openForeign(err error) error {
	for i, raw := range b.d.URLs {
		if i == maxURLs {
			break
		}
		u, parseErr := url.Parse(raw)
		if parseErr != nil || u.User != nil || u.Scheme != "https" &&
			(u.Scheme != "http" || !isLoopback(u.Host) && !b.c.config.isInsecure(u.Host)) {
			continue
		}
		req, reqErr := http.NewRequestWithContext(b.ctx, http.MethodGet, raw, nil)
		if reqErr != nil {
			continue
		}
		req.Header = b.header()
		resp, getErr := b.c.auth.http.Do(req)
		if getErr == nil {
			getErr = b.take(resp)
		}
		if getErr == nil {
			b.host = b.ref.Domain()
			return nil
		}
		err = newError(u.Host, "", "blob "+b.d.Digest.String(), getErr)
	}
	return err
}

// temporaryError reports whether err, of a connection or of an answer, may
// pass.
func temporaryError(err error) bool {
	var e *Error
	if errors.Is(err, ErrOffline) {
		return true // it was there before
	}
	if errors.As(err, &e) {
		return e.Status != 0 && retryable(e.Status) || temporary(e.Err)
	}
	return temporary(err)
}

// sleep waits as long as it is wise after so many retries.
func (c *Client) sleep(ctx context.Context, retries int) error {
	t := time.NewTimer(backoff(c.firstWait, retries))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// HasBlob reports whether the registry of ref, not a mirror, has blob d in
// ref's repository.
func (c *Client) HasBlob(ctx context.Context, ref image.Reference, d ocispec.Descriptor) (bool, error) {
	if err := image.ValidateDescriptor(d); err != nil {
		return false, err
	}
	repo, err := c.origin(ctx, ref)
	if err != nil {
		return false, err
	}
	got, err := repo.Blobs().Resolve(ctx, d.Digest.String())
	switch {
	case errors.Is(err, errdef.ErrNotFound):
		return false, nil
	case err != nil:
		return false, newError(ref.Domain(), ref.Repository(), "blob "+d.Digest.String(), err)
	}
	return got.Size == d.Size, nil
}
