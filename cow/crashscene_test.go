// SPDX-License-Identifier: Apache-2.0

package cow_test

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/internal/crashfs"
)

// at returns what a path leads to.
func (w *workload) at(path string) *place {
	w.t.Helper()
	p := w.pick(func(p *place) bool { return p.path == "./"+path })
	if p == nil {
		w.t.Fatalf("no %s", path)
	}
	w.knows(p.attr.Node)
	return p
}

// writes writes to the file at path.
func (w *workload) writes(path string, off int64, size int) {
	w.t.Helper()
	p := w.at(path)
	f, done := w.handle(p.attr.Node)
	defer done()
	w.writeTo(f, p, off, size)
}

// makes makes a file in the root.
func (w *workload) makes(name string) {
	w.t.Helper()
	if !w.createAs(w.pick(func(p *place) bool { return p.name == "" }), name) {
		w.t.Fatalf("%s is there", name)
	}
}

// scenes are what random work seldom does: where the order of writes matters.
// big1 is a little larger than what is copied whole, big2 some 300 000 bytes.
var scenes = []struct {
	name string
	do   func(w *workload)
}{
	{"blocks, synced, then the whole file rewritten and cut off", func(w *workload) {
		w.writes("big1", 4000, 9000)
		w.sync(w.at("big1"), false)
		w.writes("big1", 0, cow.CopyWhole)
		w.writes("big1", cow.CopyWhole, 4000)
		w.setSize(w.at("big1"), 100)
		w.writes("big1", 5000, 10)
		w.syncAll()
	}},
	{"blocks, synced, cut off and grown", func(w *workload) {
		w.writes("big2", 100_000, 90_000)
		w.sync(w.at("big2"), true)
		w.setSize(w.at("big2"), 120_000)
		w.setSize(w.at("big2"), 200_000)
		w.writes("big2", 199_000, 3000)
		w.setSize(w.at("big2"), 0)
		w.writes("big2", 10_000, 3000)
		w.sync(w.at("big2"), false)
	}},
	{"cut off, then written behind its end", func(w *workload) {
		w.writes("big2", 0, 299_000)
		w.sync(w.at("big2"), false)
		w.setSize(w.at("big2"), 50_001)
		w.writes("big2", 90_000, 5000)
		w.background()
		w.writes("big2", 40_000, 30_000)
	}},
	{"punched and zeroed", func(w *workload) {
		w.writes("big2", 20_000, 60_000)
		w.sync(w.at("big2"), false)
		w.fallocate(w.at("big2"), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 30_000, 200_000)
		w.writes("big2", 50_000, 100)
		w.fallocate(w.at("big2"), unix.FALLOC_FL_ZERO_RANGE, 290_000, 30_000)
		w.writes("big2", 300_000, 5000)
	}},
	{"removed and not synced", func(w *workload) {
		w.writes("a/small", 0, 5000)
		w.writes("big1", 0, 5000)
		w.syncAll()
		w.unlink(w.at("a/small"))
		w.unlink(w.at("big1"))
		time.Sleep(2 * time.Millisecond)
		w.writes("dir/1", 0, 10)
		w.writes("dir/2", 0, 10)
	}},
	{"cut off and removed while it is open", func(w *workload) {
		for _, name := range []string{"big1", "big2"} {
			p := w.at(name)
			w.writes(name, 4000, 9000)
			w.sync(p, false)
			f, err := w.u.Open(p.attr.Node, true)
			if err != nil {
				w.fail("open", err)
			}
			w.setSize(p, 5000)
			w.unlink(p)
			w.writes("dir/1", 0, 10)
			if err := f.Close(); err != nil {
				w.fail("close", err)
			}
			w.u.Forget(p.attr.Node)
			w.writes("dir/1", 5, 10)
		}
	}},
	{"replaced by a rename, as editors do", func(w *workload) {
		w.writes("a/small", 0, 5000)
		w.sync(w.at("a/small"), false)
		w.replaceFile(w.at("a/small"))
		w.writes("dir/1", 0, 10)
		w.sync(w.at("dir/1"), false)
		w.replaceFile(w.at("dir/2"))
		w.replaceFile(w.at("dir/2"))
	}},
	{"emptied and written anew", func(w *workload) {
		for _, name := range []string{"a/small", "big1", "big2"} {
			w.setSize(w.at(name), 0)
			w.writes(name, 0, 7000)
		}
		w.writes("dir/1", 0, 10)
		w.sync(w.at("dir/1"), true)
		w.setSize(w.at("big2"), 0)
		w.writes("big2", 0, 7000)
	}},
	{"new, small, synced, and grown", func(w *workload) {
		w.makes("new")
		w.writes("new", 0, 500)
		w.sync(w.at("new"), true)
		w.writes("new", 100, 50)
		w.writes("new", 400, 40_000)
		w.setSize(w.at("new"), 300)
		w.writes("new", 1000, 5)
		w.makes("other")
		w.writes("other", 10, 3000)
		w.writes("other", 3000, 90_000)
		w.sync(w.at("other"), false)
		w.writes("dir/1", 0, 30_000)
		w.setSize(w.at("dir/1"), 2)
		w.fallocate(w.at("dir/1"), 0, 0, 50_000)
		w.syncAll()
	}},
	{"new, small, and renamed over an old one", func(w *workload) {
		w.makes("new")
		w.writes("new", 0, 500)
		w.sync(w.at("new"), false)
		w.replaceFile(w.at("new"))
		w.writes("new", 0, 60_000)
		w.replaceFile(w.at("new"))
		w.unlink(w.at("new"))
	}},
	{"closed and opened", func(w *workload) {
		w.writes("big2", 1000, 10_000)
		w.writes("a/small", 0, 10_000)
		w.reopen()
		w.writes("big2", 2000, 300_000)
		w.unlink(w.at("a/small"))
		w.create()
		w.reopen()
		w.create()
		w.writes("big2", 2000, 20)
	}},
}

// TestPowerLossScenes cuts the power at each record of short stories.
func TestPowerLossScenes(t *testing.T) {
	needDisk(t)
	fs := crashFS(t, crashTar(t))
	const short = 8 * time.Second
	until, seed := effort(t, short)
	perCut, long := 6, os.Getenv("IMGFS_CRASH_TIME") != ""
	if long {
		perCut = 40
	}
	states := 0
	for ; time.Now().Before(until) && !t.Failed(); seed++ {
		for _, k := range rand.New(rand.NewPCG(seed, 8)).Perm(len(scenes)) {
			if only := os.Getenv("IMGFS_CRASH_SCENE"); !strings.Contains(scenes[k].name, only) {
				continue
			}
			if time.Now().After(until) {
				break
			}
			opt := cow.Options{}
			if seed%2 == 0 {
				opt.SetFold(1, 1<<20)
			}
			h, log := record(t, fs, seed, opt, func(w *workload, _ *crashfs.FS) { scenes[k].do(w) })
			c := newChecker(t, fs, h, log, seed)
			slice := time.Now().Add(short / time.Duration(len(scenes)))
			for _, k := range rand.New(rand.NewPCG(seed, 9)).Perm(len(log.Ops) + 1 - c.cuts[0]) {
				if t.Failed() || !long && time.Now().After(slice) {
					break
				}
				cut := c.cuts[0] + k
				for s := range log.States(cut, seed+uint64(cut), perCut) {
					states++
					c.check(s, false)
				}
				c.check(log.State(cut, crashfs.All, 0), true)
			}
			if t.Failed() {
				t.Fatalf("scene: %s", scenes[k].name)
			}
		}
	}
	t.Logf("%d states checked", states)
}
