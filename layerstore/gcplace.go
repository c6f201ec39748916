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

	// Seen is the stamp of what is at Path, of a layer that lies in no one file.
	Seen     string `json:"seen,omitempty"`
	Unproven string `json:"unproven,omitempty"` // as Layer.Unproven
}

// writeAt notes where the place lies, unless that is known.
func (p *Place) writeAt(path string) error {
	at := placeAt{Path: p.src.Name(), Size: p.size, Unproven: p.why}
	if r, ok := p.src.(*fileRange); ok {
		_, at.Off, _ = r.Outer()
	} else {
		fi, err := os.Lstat(at.Path)
		if err != nil {
			return err
		}
		at.Seen = fileStamp(fi)
	}
	raw, err := json.Marshal(at)
	if err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o600)
}

// at reads where the place id lies.
func (s *Store) at(id string) (at placeAt, ok bool) {
	raw, err := os.ReadFile(filepath.Join(s.root, "index/place", id+".at"))
	return at, err == nil && json.Unmarshal(raw, &at) == nil && filepath.IsAbs(at.Path)
}

// scannedAt returns what is known of a place that was scanned before, so that
// nothing of it need be read now.
func (p *Place) scannedAt() (at placeAt, ok bool) {
	if _, err := os.Stat(p.path("scan")); err != nil {
		return at, false
	}
	at, ok = p.s.at(fmt.Sprintf("%x", p.id))
	return at, ok && at.Size > 0
}

// placeIsThere reports whether what the place id was made from is where it
// was, unchanged.
func (s *Store) placeIsThere(id string) bool {
	at, ok := s.at(id)
	if !ok {
		return false
	}
	if at.Seen != "" {
		fi, err := os.Lstat(at.Path)
		return err == nil && fileStamp(fi) == at.Seen
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
