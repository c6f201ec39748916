// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"fmt"
	"path/filepath"
	"testing"
)

// A syncCounter counts whose content is synced for the journal.
type syncCounter struct {
	*Upper
	synced int
}

func (c *syncCounter) syncData(n Node) error {
	c.synced++
	return c.Upper.syncData(n)
}

// fsync of a file syncs its content once, not once more for the journal's
// barriers.
func TestFsyncSyncsContentOnce(t *testing.T) {
	u := newContentUpper(t, lowFS(t, nil, lowFile{size: 1 << 20}), filepath.Join(t.TempDir(), "u"))
	count := &syncCounter{Upper: u}
	u.journal.data = count
	f := openFile(t, u, 2)
	defer f.Close()
	write := func(off int64) {
		t.Helper()
		if _, err := f.WriteAt([]byte("new"), off); err != nil {
			t.Fatal(err)
		}
	}
	for off := range int64(3) {
		write(off << 16)
		if err := f.Sync(true); err != nil {
			t.Fatal(err)
		}
		if u.journal.durable.Load() < u.seqOf(2) || len(u.journal.barriers) != 0 {
			t.Errorf("%d frames are durable, %d barriers are left", u.journal.durable.Load(), len(u.journal.barriers))
		}
	}
	if count.synced != 0 {
		t.Errorf("the journal synced content %d times more", count.synced)
	}
	write(5 << 16)
	if err := f.Sync(true); err != nil {
		t.Fatal(err)
	}
	write(6 << 16)
	if err := u.sync(u.seq); err != nil {
		t.Fatal(err)
	}
	if count.synced != 1 {
		t.Errorf("without an fsync the journal synced content %d times, want once", count.synced)
	}
}

// A close waits for the upper's own files, not for all of the disk, unless they
// are many.
func TestCloseSyncsOwnFiles(t *testing.T) {
	for _, files := range []int{0, 3, maxUsed + 1} {
		t.Run(fmt.Sprint(files), func(t *testing.T) {
			m := over(t, "")
			flushed := 0
			m.opt.Passthrough = true
			m.opt.flush = func() error { flushed++; return nil }
			m.remount()
			for k := range files {
				m.writeNew(fmt.Sprint(k), "text")
			}
			if files > 0 { // one that is gone need not be synced
				m.writeNew("gone", "text")
				m.must("rm gone")
			}
			flushed = 0
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			if many := files > maxUsed; (flushed > 0) != many {
				t.Errorf("%d files: the disk was synced %d times", files, flushed)
			}
			m.open()
			for k := range files {
				if got := m.readAll(m.node(fmt.Sprint(k))); got != "text" {
					t.Fatalf("file %d: %q", k, got)
				}
			}
		})
	}
}
