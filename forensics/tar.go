// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"context"
	"io"

	"github.com/imgfs/imgfs/index"
)

// A TarSource is the layer that an uncompressed tar holds. What is derived is
// written to new files at first need; the caller removes them.
type TarSource struct {
	Tar                   *io.SectionReader // Close closes nothing of it
	TablePath, HashesPath string
}

// OpenTable implements LayerSource.
func (s *TarSource) OpenTable(ctx context.Context) (*index.Layer, error) {
	r := io.NewSectionReader(s.Tar, 0, s.Tar.Size())
	if _, err := index.ScanFiles(ctx, r, s.TablePath, index.Limits{}, nil); err != nil {
		return nil, err
	}
	return index.Open[index.EntryID](s.TablePath)
}

// OpenHashes implements LayerSource. It reads every file.
func (s *TarSource) OpenHashes(ctx context.Context) (*index.Hashes, error) {
	t, err := index.Open[index.EntryID](s.TablePath)
	if err != nil {
		return nil, err
	}
	defer t.Close() // it was only read
	tree := &tableTree[index.EntryID]{t: t, layers: []*Layer{NewLayer(0, s)}}
	defer tree.layers[0].close() // as was this
	var files []index.FileHash
	for id := range t.Count() {
		var e Entry
		if err := index.Guard(func() error { return tree.fill(&e, "", index.EntryID(id+1)) }); err != nil {
			return nil, err
		}
		if !e.IsRegular() {
			continue
		}
		sum, err := hashContent(ctx, tree, &e)
		if err != nil {
			return nil, err
		}
		files = append(files, index.FileHash{Sum: sum, Header: e.Header})
	}
	if err := index.WriteHashes(s.HashesPath, files); err != nil {
		return nil, err
	}
	return index.OpenHashes(s.HashesPath)
}

// OpenContent implements LayerSource.
func (s *TarSource) OpenContent(context.Context) (io.ReaderAt, error) {
	return struct{ io.ReaderAt }{s.Tar}, nil
}
