// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/layerstore/seek"
)

// A Fetch says where a layer comes from that is not on this machine.
type Fetch struct {
	// Open returns the blob's bytes from byte off on. They need not be right.
	Open func(ctx context.Context, off int64) (io.ReadCloser, error)

	// Wrong is told that the bytes were not the blob's. It reports whether they
	// can be had from elsewhere by a new Open. May be nil.
	Wrong func() bool

	// Told is told of the bytes, as they go through the pass. May be nil.
	Told io.Writer
}

// A Fetched is a layer that FetchLayer brought.
type Fetched struct {
	Layer
	Had     bool // it was in the store
	Sidecar bool // a second, seekable copy had to be made
}

// FetchLayer brings a layer of which digest, diffID and size are known into
// the stage, as AddLayer does, in one pass that follows the bytes while they
// come. Nothing is fetched of a layer that the store holds, and of others
// only what did not come before: what came stays when the fetch breaks off.
// What another process fetches at the same time is waited for, and taken. The
// errors are those of AddLayer and of the fetch.
func (g *Stage) FetchLayer(ctx context.Context, want Layer, from Fetch, limits index.Limits) (Fetched, error) {
	if from.Told == nil {
		from.Told = io.Discard
	}
	if err := ctx.Err(); err != nil {
		return Fetched{Layer: want}, err
	}
	l, ok, err := g.have(want)
	if err != nil || ok {
		return Fetched{Layer: l, Had: ok}, err
	}
	g.s.sweepPartials()
	p, err := g.s.lockPartial(ctx, want.Digest)
	if err != nil {
		return Fetched{Layer: want}, err
	}
	defer p.Close()
	if l, ok, err := g.have(want); err != nil || ok {
		if ok {
			p.remove()
		}
		return Fetched{Layer: l, Had: ok}, err
	}
	if p.size > want.Size {
		if err := p.empty(); err != nil {
			return Fetched{Layer: want}, err
		}
	}
	for {
		resumed := p.size > 0 // bytes that lay on the disk may have been wrong
		got, err := g.follow(ctx, p, want, from, limits)
		if !isContent(err) {
			return got, err
		}
		wrong := from.Wrong != nil && from.Wrong()
		if !resumed && !wrong {
			p.remove()
			return got, err
		}
		if err := p.empty(); err != nil {
			return got, err
		}
	}
}

// isContent reports whether err is about the bytes of a layer.
func isContent(err error) bool {
	for _, is := range []error{ErrDigest, seek.ErrFormat, index.ErrBadLayer, index.ErrLimit} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// have returns what the store knows of a layer, if it holds its blob.
func (g *Stage) have(want Layer) (l Layer, ok bool, err error) {
	l, ok, err = g.known(want)
	if err != nil || !ok {
		return want, false, err
	}
	if err := g.claimLayer(l); err != nil {
		return want, false, err
	}
	f, size, err := g.s.OpenBlob(l.Digest)
	if err != nil {
		return want, false, nil // it is lost, then
	}
	f.Close()
	switch {
	case size != l.Size:
		return want, false, nil
	case size != want.Size:
		return want, false, fmt.Errorf("%w: %s has %d bytes, the manifest says %d", ErrDigest, l.Digest, size, want.Size)
	}
	g.need(f.Name())
	l.MediaType = want.MediaType
	return l, true, nil
}

// follow fetches what p lacks and makes the pass over it, both at once.
func (g *Stage) follow(ctx context.Context, p *partial, want Layer, from Fetch, limits index.Limits) (got Fetched, err error) {
	got.Layer = want
	tmp, err := os.MkdirTemp(g.dir, "layer-")
	if err != nil {
		return got, err
	}
	files := passFiles{table: tmp + "/table", seek: tmp + "/seek", sidecar: tmp + "/sidecar", hashes: tmp + "/hashes"}
	fetching, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.end(p.fetch(fetching, want, from))
	}()
	res, err := runPass(ctx, &partialReader{p: p, total: want.Size, told: from.Told}, files, want.Digest, want.DiffID, limits)
	failed := p.failed()
	stop()
	<-done
	if err == nil {
		files.blob = tmp + "/blob"
		err = linkOrMove(p.path, files.blob)
	}
	if err != nil {
		os.RemoveAll(tmp)
		if failed != nil && failed != io.EOF {
			err = failed // the cause
		}
		return got, err
	}
	g.fetched(want.Digest)
	return Fetched{Layer: g.take(want, files, &res), Sidecar: res.seek.Sidecar}, nil
}

// fetch appends to p what it lacks of want, and returns io.EOF when all is
// there.
func (p *partial) fetch(ctx context.Context, want Layer, from Fetch) error {
	p.mu.Lock()
	have := p.size
	p.mu.Unlock()
	if have < want.Size {
		r, err := from.Open(ctx, have)
		if err != nil {
			return err
		}
		err = p.fill(&ctxReader{ctx, io.LimitReader(r, want.Size-have)})
		if closeErr := r.Close(); err == nil && ctx.Err() == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.size < want.Size {
		return fmt.Errorf("%s: want %d bytes, got %d: %w", want.Digest, want.Size, p.size, io.ErrUnexpectedEOF)
	}
	return io.EOF
}

// fetched notes that the partial file of a blob is not needed once the stage
// is published.
func (g *Stage) fetched(d digest.Digest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.partials = append(g.partials, d)
}
