// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/imgfs/imgfs/index"
)

// A placeAt says where a place lies, for who wants to know whether it is still
// there: HEX.at.
type placeAt struct {
	Path string `json:"path"` // absolute
	Off  int64  `json:"off"`  // bytes
	Size int64  `json:"size"`
}

// writeAt notes where the place lies, unless that is known.
func (p *Place) writeAt(path string) error {
	raw, err := json.Marshal(placeAt{p.f.Name(), p.off, p.size})
	if err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o600)
}

// placeIsThere reports whether the file that the place id was made from is
// where it was, unchanged.
func (s *Store) placeIsThere(id string) bool {
	raw, err := os.ReadFile(filepath.Join(s.root, "index/place", id+".at"))
	var at placeAt
	if err != nil || json.Unmarshal(raw, &at) != nil || !filepath.IsAbs(at.Path) {
		return false
	}
	fi, err := os.Stat(at.Path)
	return err == nil && fmt.Sprintf("%x", placeID(fi, at.Off, at.Size)) == id
}

// deadPlaces returns the files of index/place whose place is gone or changed,
// and the trees that have such a layer, relative to the store. They are needed
// by nobody: who has one open keeps it open.
func (s *Store) deadPlaces() (paths []string, err error) {
	const dir = "index/place/"
	list, err := os.ReadDir(filepath.Join(s.root, dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	there := make(map[string]bool)   // ids, asked once
	diffIDs := make(map[string]bool) // of verified places that are there
	var trees []string
	for _, e := range list {
		id, kind, _ := strings.Cut(e.Name(), ".")
		if kind == "tree" {
			trees = append(trees, e.Name())
			continue
		}
		if _, asked := there[id]; !asked {
			if there[id] = s.placeIsThere(id); there[id] {
				if l, ok := readWord(filepath.Join(s.root, dir, id+".ok")); ok {
					diffIDs[string(l.DiffID)] = true
				}
			}
		}
		if !there[id] {
			paths = append(paths, dir+e.Name())
		}
	}
	for _, name := range trees {
		if !s.treeIsOf(filepath.Join(s.root, dir, name), there, diffIDs) {
			paths = append(paths, dir+name)
		}
	}
	return paths, nil
}

// treeIsOf reports whether all layers of a tree are places that are there. Its
// layers are named as Place.Key does.
func (s *Store) treeIsOf(path string, there, diffIDs map[string]bool) bool {
	t, err := index.Open[index.NodeID](path)
	if err != nil {
		return false
	}
	defer t.Close()
	for _, key := range t.Meta().Layers {
		if id, _, scanned := strings.Cut(key, " "); !diffIDs[key] && !(scanned && there[id]) {
			return false
		}
	}
	return true
}
