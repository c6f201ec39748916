// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// summaryName is the file that an upper closed in order leaves, for listings
// that do not open it. It is not there while the upper is open.
const summaryName = "summary.json"

type summary struct {
	Changed int64 `json:"changed"`
}

// writeSummary says how many inodes of dir differ. It is not synced: what it
// says is for people.
func writeSummary(dir string, changed int64) error {
	b, err := json.Marshal(summary{changed})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, summaryName), append(b, '\n'), 0o600)
}

// dropSummary takes it away, since the upper is about to change.
func dropSummary(dir string) error {
	err := os.Remove(filepath.Join(dir, summaryName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// readSummary returns how many inodes of dir differ, -1 if nobody has said.
func readSummary(dir string) int64 {
	f, err := os.Open(filepath.Join(dir, summaryName))
	if err != nil {
		return -1
	}
	defer f.Close()
	var b [256]byte
	n, _ := f.Read(b[:]) // what is not there does not decode
	var s summary
	if json.Unmarshal(b[:n], &s) != nil || s.Changed < 0 {
		return -1
	}
	return s.Changed
}
