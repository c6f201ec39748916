// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/imgfs/imgfs/index"
)

// A snapshot reads what it saw also when it lost its last name since.
func TestSnapshotKeepsData(t *testing.T) {
	u := openUpper(t, newUpper(t), emptyTree(t), Options{})
	closeLater(t, u)
	var a Attr
	f, err := u.CreateFile(Caller{}, RootNode, "f", Creation{Mode: index.ModeRegular | 0o644}, &a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, maxInline+1), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := u.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Unlink(RootNode, "f"); err != nil {
		t.Fatal(err)
	}
	u.Forget(a.Node)
	if err := u.Sync(); err != nil {
		t.Fatal(err)
	}
	u.removeDoomed()
	path := filepath.Join(u.dir, dataDirName, dataName(a.Node))
	if _, err := os.Stat(path); err != nil {
		t.Errorf("while the snapshot is open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(path); os.IsNotExist(err) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the data file stays when the snapshot is closed")
		}
	}
}
