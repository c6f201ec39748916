// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
	"github.com/imgfs/imgfs/layerstore/seek"
)

func newStage(t testing.TB) (*Store, *Stage) {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	g, err := s.NewStage()
	if err != nil {
		t.Fatal(err)
	}
	return s, g
}

func TestNewLayer(t *testing.T) {
	raw := tartest.Tar(t, "a/ a/b=text .wh.c a/d=>a/b")
	for _, c := range []seek.Compression{seek.Gzip, seek.Zstd, seek.None} {
		t.Run(c.String(), func(t *testing.T) {
			s, g := newStage(t)
			l, err := g.NewLayer(context.Background(), c, 0, func(w io.Writer) error {
				for _, b := range raw {
					if _, err := w.Write([]byte{b}); err != nil {
						return err
					}
				}
				return nil
			}, index.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if l.DiffID != digest.FromBytes(raw) || l.TarSize != int64(len(raw)) || l.Compression != c.String() || l.Oddities != 0 {
				t.Errorf("got %+v", l)
			}
			if err := g.Commit(); err != nil {
				t.Fatal(err)
			}
			blob, err := s.ReadBlob(l.Digest, 1<<20)
			if err != nil || int64(len(blob)) != l.Size {
				t.Errorf("the blob has %d bytes, %v; want %d", len(blob), err, l.Size)
			}
			table, err := s.OpenTable(context.Background(), l)
			if err != nil {
				t.Fatal(err)
			}
			table.Close()
			content, err := s.OpenContent(context.Background(), l, seek.NewCache(1<<20))
			if err != nil {
				t.Fatal(err)
			}
			defer content.Close()
			got, err := io.ReadAll(io.NewSectionReader(content, 0, l.TarSize))
			if err != nil || !bytes.Equal(got, raw) {
				t.Errorf("%d bytes come back, %v", len(got), err)
			}
		})
	}
}

// Whoever failed first is the one to tell.
func TestNewLayerErrors(t *testing.T) {
	own := errors.New("of its own")
	wrapped := func(w io.Writer, p []byte) error {
		for {
			if _, err := w.Write(p); err != nil {
				return fmt.Errorf("writer: %w", err)
			}
		}
	}
	tests := []struct {
		name  string
		write func(cancel context.CancelFunc, w io.Writer) error
		want  error
	}{
		{"the writer at once", func(context.CancelFunc, io.Writer) error { return own }, own},
		{"the writer in the middle", func(_ context.CancelFunc, w io.Writer) error {
			w.Write(make([]byte, 3<<20))
			return own
		}, own},
		{"the pass", func(_ context.CancelFunc, w io.Writer) error { return wrapped(w, bytes.Repeat([]byte("no tar"), 1000)) }, index.ErrBadLayer},
		{"the pass, and the writer does not say so", func(_ context.CancelFunc, w io.Writer) error {
			wrapped(w, bytes.Repeat([]byte("no tar"), 1000))
			return nil
		}, index.ErrBadLayer},
		{"the context", func(cancel context.CancelFunc, w io.Writer) error {
			cancel()
			return wrapped(w, make([]byte, 1<<10))
		}, context.Canceled},
		{"the context, and the writer is done", func(cancel context.CancelFunc, w io.Writer) error {
			cancel()
			return nil
		}, context.Canceled},
	}
	for _, tt := range tests {
		for _, c := range []seek.Compression{seek.Gzip, seek.Zstd, seek.None} {
			t.Run(tt.name+"/"+c.String(), func(t *testing.T) {
				_, g := newStage(t)
				defer g.Discard()
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				l, err := g.NewLayer(ctx, c, 0, func(w io.Writer) error { return tt.write(cancel, w) }, index.Limits{})
				if !errors.Is(err, tt.want) || l != (Layer{}) {
					t.Errorf("got %+v, %v, want %v", l, err, tt.want)
				}
				if list, _ := os.ReadDir(g.dir); len(list) > 0 {
					t.Errorf("left in the stage: %v", list)
				}
			})
		}
	}
	_, g := newStage(t)
	defer g.Discard()
	if _, err := g.NewLayer(context.Background(), seek.XZ, 0, nil, index.Limits{}); err == nil {
		t.Error("xz is taken")
	}
	small := index.Limits{Size: 1 << 20}
	if _, err := g.NewLayer(context.Background(), seek.Gzip, 0, func(w io.Writer) error {
		return wrapped(w, make([]byte, 1<<20))
	}, small); err == nil || errors.Is(err, errLayerAborted) {
		t.Errorf("a layer over the limit: %v", err)
	}
}

// What is needed has to be there when it is published.
func TestNeed(t *testing.T) {
	s, g := newStage(t)
	d := digest.FromString("document")
	if err := g.Blob(d, []byte("document")); err != nil {
		t.Fatal(err)
	}
	if err := g.Commit(); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []bool{false, true} {
		g, err := s.NewStage()
		if err != nil {
			t.Fatal(err)
		}
		g.Need(d)
		if gone {
			if err := os.Remove(s.blobPath(d)); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.Publish(nil, nil); errors.Is(err, ErrVanished) != gone || (err != nil) != gone {
			t.Errorf("gone %v: %v", gone, err)
		}
		g.Discard()
	}
}
