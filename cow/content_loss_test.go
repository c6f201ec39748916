// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// metadata returns the files of the upper in dir that are not content. A fold
// that is done may still drop its journal: all is then read anew.
func metadata(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && e.Name() == "data":
			return fs.SkipDir
		case e.IsDir() || e.Name() == "reserve":
			return nil
		}
		b, err := os.ReadFile(path)
		files[path] = b
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return metadata(t, dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// putBack makes the files of the upper in dir that are not content those.
func putBack(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for path := range metadata(t, dir) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for path, b := range files {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Power is lost, and of what was not synced the disk kept all content and no
// record. A byte is then what was durable or what was written over it since,
// and never a zero that nobody wrote.
func TestPowerLossKeepsContent(t *testing.T) {
	files := kinds()
	for k := range files {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("file=%d/seed=%d", k, seed), func(t *testing.T) {
				t.Parallel()
				p := newPlay(t, files, k, seed)
				for range 4 {
					for range p.rnd.IntN(12) {
						p.change()
					}
					p.losePower(t)
				}
			})
		}
	}
}

// written is what a write wrote where.
type written struct {
	off int64
	b   []byte
}

func wrote(list []written, at int, v byte) bool {
	for _, w := range list {
		if k := int64(at) - w.off; k >= 0 && k < int64(len(w.b)) && w.b[k] == v {
			return true
		}
	}
	return false
}

// change writes bytes that are not zero, or truncates, and returns what it
// wrote.
func (p *play) change() written {
	off, n := p.at(), p.length()
	switch p.rnd.IntN(4) {
	case 0:
		if p.rnd.IntN(4) == 0 {
			off = 0
		}
		p.log = append(p.log, fmt.Sprintf("truncate %d of %d", off, len(p.want)))
		if err := p.u.truncate(p.n, off); err != nil {
			p.fatal("truncate: %v", err)
		}
		p.grow(off)
		p.want = p.want[:off]
		return written{}
	case 1:
		p.log = append(p.log, "reopen")
		p.f.Close()
		p.f = openFile(p.tb, p.u, p.n)
		return written{}
	}
	if p.rnd.IntN(10) == 0 {
		off, n = 0, p.max+blockSize // all of it: it becomes local
	}
	b := noise(p.rnd, n, 1)
	p.log = append(p.log, fmt.Sprintf("write %d+%d of %d", off, n, len(p.want)))
	if _, err := p.f.WriteAt(b, off); err != nil {
		p.fatal("write: %v", err)
	}
	p.grow(off + n)
	copy(p.want[off:], b)
	return written{off, b}
}

func (p *play) losePower(t *testing.T) {
	t.Helper()
	if err := p.f.Sync(false); err != nil {
		p.fatal("sync: %v", err)
	}
	p.log = append(p.log, "sync")
	c := p.f.c
	durable, was := append([]byte(nil), p.want...), *p.record()
	local := c.local
	p.u.mu.RLock()
	f := p.u.folding
	p.u.mu.RUnlock()
	if f != nil {
		<-f.done // no file changes while it is read
	}
	disk := metadata(t, p.u.dir)
	seq := p.u.journal.durable.Load()
	var over []written
	zeroed := false // a truncation of a local file is at once the disk's
	for range 1 + p.rnd.IntN(8) {
		before := len(p.want)
		over = append(over, p.change())
		zeroed = zeroed || local && len(p.want) < before
	}
	if p.u.journal.durable.Load() != seq {
		return // it was synced on the way: of that nothing may be taken back
	}
	kept := p.u.dir
	kill(p.u)
	putBack(t, kept, disk)
	u, err := Open(kept, p.u.fs, "sha256:1", Options{Log: t.Logf, boot: fmt.Sprint("another boot ", p.rnd.Uint64())})
	if err != nil {
		p.fatal("open after the loss: %v", err)
	}
	p.log = append(p.log, "power lost")
	p.u, p.f = u, openFile(t, u, p.n)
	closeLater(t, u)
	got := readAll(t, p.f, int(p.max)*2)
	if !local && len(got) != len(durable) {
		p.fatal("%d bytes after the loss, durable were %d; %+v", len(got), len(durable), was)
	}
	for i, v := range got {
		if i < len(durable) && v == durable[i] || wrote(over, i, v) || local && v == 0 && (zeroed || i >= len(durable)) {
			continue
		}
		p.fatal("byte %d after the loss is %d: neither durable nor written; %+v", i, v, was)
	}
	p.want = got
}

// record returns the record of the file, an empty one if there is none.
func (p *play) record() *inode {
	p.u.mu.RLock()
	defer p.u.mu.RUnlock()
	i, err := p.u.known(p.n)
	if err != nil {
		p.fatal("record: %v", err)
	}
	if i == nil {
		return &inode{}
	}
	return i
}

// A file that came to be local by being written over is cut only when the
// record that says so is durable, or else a loss of power would show zeros.
func TestPowerLossAfterLocal(t *testing.T) {
	const size = 300_000
	p := newPlay(t, []lowFile{{data: pattern(size)}}, 0, 1)
	if _, err := p.f.WriteAt(noise(p.rnd, 100_000, 1), 50_000); err != nil {
		t.Fatal(err)
	}
	if err := p.f.Sync(false); err != nil {
		t.Fatal(err)
	}
	if _, err := p.f.WriteAt(noise(p.rnd, size, 1), 0); err != nil {
		t.Fatal(err)
	}
	seq := p.u.seq
	if !p.f.c.local {
		t.Fatal("written whole, and not local")
	}
	if err := p.u.truncate(p.n, 10); err != nil {
		t.Fatal(err)
	}
	if p.u.journal.durable.Load() < seq {
		t.Error("cut off before the record is durable")
	}
}
