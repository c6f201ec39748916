// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

// recorded is an upper that was killed, with its states: of its only segment
// the ends of frames, and what the upper said after each.
type recorded struct {
	dir     string
	tree    *unionfs.FS
	segment []byte
	ends    []int64
	states  []string
}

func record(t *testing.T, frames int) *recorded {
	t.Helper()
	r := &recorded{dir: newUpper(t), tree: emptyTree(t)}
	u := openUpper(t, r.dir, r.tree, Options{})
	c := &changer{r: rand.New(rand.NewPCG(7, 7)), u: u, nodes: []Node{2}, dirs: []Node{RootNode}}
	note := func() {
		r.states = append(r.states, state(t, &u.view))
		end := int64(segmentHead)
		if len(u.journal.segments) > 0 {
			end = u.journal.segments[0].off
		}
		r.ends = append(r.ends, end)
	}
	note()
	for len(r.states) <= frames {
		seq := u.seq
		c.change(t)
		if u.seq != seq {
			note()
		}
	}
	kill(u)
	b, err := os.ReadFile(filepath.Join(r.dir, journalName(1)))
	if err != nil {
		t.Fatal(err)
	}
	r.segment = b[:r.ends[len(r.ends)-1]]
	return r
}

// replay opens the upper with another segment and returns what it says.
func (r *recorded) replay(t *testing.T, segment []byte) (string, error) {
	t.Helper()
	dir := filepath.Join(memoryDir(t), "u")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	info, err := os.ReadFile(filepath.Join(r.dir, infoName))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, infoName), info, 0o600),
		os.WriteFile(filepath.Join(dir, journalName(1)), segment, 0o600)); err != nil {
		t.Fatal(err)
	}
	u, err := Open(dir, r.tree, "c", Options{})
	if err != nil {
		return "", err
	}
	u.mu.RLock()
	got := state(t, &u.view)
	u.mu.RUnlock()
	if err := u.Close(); err != nil {
		t.Error(err)
	}
	os.RemoveAll(dir)
	return got, nil
}

func TestReplayOfEveryPrefix(t *testing.T) {
	r := record(t, 60)
	whole := len(r.ends) - 4
	var cuts []int64
	cuts = append(cuts, r.ends...)
	for at := r.ends[whole]; at < int64(len(r.segment)); at += 3 {
		cuts = append(cuts, at)
	}
	for _, at := range cuts {
		want := 0
		for want+1 < len(r.ends) && r.ends[want+1] <= at {
			want++
		}
		got, err := r.replay(t, r.segment[:at])
		if err != nil {
			t.Errorf("cut at %d: %v", at, err)
		} else if got != r.states[want] {
			t.Errorf("cut at %d, want %d frames: %s", at, want, difference(got, r.states[want]))
		}
	}
	// What follows may be anything.
	junk := append(slices.Clone(r.segment), make([]byte, 4096)...)
	for k := len(r.segment); k < len(junk); k++ {
		junk[k] = byte(rand.Uint32())
	}
	if got, err := r.replay(t, junk); err != nil || got != r.states[len(r.states)-1] {
		t.Errorf("with junk behind: %v", err)
	}
}

func TestReplayOfFlippedBits(t *testing.T) {
	r := record(t, 30)
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		b := slices.Clone(r.segment)
		at := rnd.IntN(len(b))
		b[at] ^= 1 << rnd.IntN(8)
		got, err := r.replay(t, b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("bit of byte %d: %v", at, err)
			}
			continue
		}
		want := 0
		for want+1 < len(r.ends) && r.ends[want+1] <= int64(at) {
			want++
		}
		if got != r.states[want] {
			t.Errorf("bit of byte %d: %s", at, difference(got, r.states[want]))
		}
	}
}

func TestPowerLossStopsAtBarriers(t *testing.T) {
	tree := emptyTree(t)
	put := func(t *testing.T, u *Upper, n Node, wait bool) {
		u.mu.Lock()
		defer u.mu.Unlock()
		tx := u.begin()
		tx.put(n, &inode{mode: index.ModeRegular})
		if wait {
			tx.barrier(n)
		}
		if err := tx.commit(); err != nil {
			t.Fatal(err)
		}
	}
	has := func(u *Upper, n Node) bool {
		u.mu.RLock()
		defer u.mu.RUnlock()
		i, _, err := u.record(n)
		return err == nil && i != nil
	}
	const a, b, c = FirstOwn, FirstOwn + 1, FirstOwn + 2
	tests := []struct {
		rule  string
		sync  func(u *Upper) error
		boot  string
		holds []Node
	}{
		{"the same boot keeps what was answered", nil, "1", []Node{a, b, c}},
		{"a loss of power ends the journal before a barrier", nil, "2", []Node{a}},
		{"a sync of what is before it confirms it too", func(u *Upper) error { return u.sync(1) }, "2", []Node{a, b, c}},
		{"a sync confirms it", func(u *Upper) error { return u.sync(u.journal.last()) }, "2", []Node{a, b, c}},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			dir := newUpper(t)
			u := openUpper(t, dir, tree, Options{boot: "1"})
			put(t, u, a, false)
			put(t, u, b, true)
			put(t, u, c, false)
			if tt.sync != nil {
				if err := tt.sync(u); err != nil {
					t.Fatal(err)
				}
			}
			kill(u)
			for range 3 { // once, and again
				u = openUpper(t, dir, tree, Options{boot: tt.boot})
				for _, n := range []Node{a, b, c} {
					if got, want := has(u, n), slices.Contains(tt.holds, n); got != want {
						t.Errorf("node %d: %v, want %v", n-FirstOwn, got, want)
					}
				}
				kill(u)
			}
			// What comes afterwards is not taken for what was dropped.
			u = openUpper(t, dir, tree, Options{boot: tt.boot})
			put(t, u, FirstOwn+9, false)
			kill(u)
			u = openUpper(t, dir, tree, Options{boot: tt.boot})
			defer u.Close()
			if !has(u, FirstOwn+9) || has(u, c) != slices.Contains(tt.holds, Node(c)) {
				t.Error("a frame after the loss does not hold, or one before it is back")
			}
		})
	}
}

func TestSnapshotIsOneMoment(t *testing.T) {
	u := openUpper(t, newUpper(t), emptyTree(t), Options{foldAt: 30 << 10, foldBy: 100 << 10})
	defer u.Close()
	c := &changer{r: rand.New(rand.NewPCG(3, 3)), u: u, nodes: []Node{2}, dirs: []Node{RootNode}}
	var pause sync.Mutex
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(2)
	go func() {
		defer wg.Done()
		for {
			select {
			case <-stop:
				return
			default:
			}
			pause.Lock()
			c.change(t)
			pause.Unlock()
		}
	}()
	go func() { // a reader
		defer wg.Done()
		for {
			select {
			case <-stop:
				return
			default:
			}
			u.mu.RLock()
			if _, _, err := u.record(RootNode); err != nil {
				t.Error(err)
			}
			if _, _, err := u.entry(RootNode, "n1"); err != nil {
				t.Error(err)
			}
			u.mu.RUnlock()
		}
	}()
	for range 8 {
		pause.Lock()
		u.mu.RLock()
		want := state(t, &u.view)
		u.mu.RUnlock()
		s, err := u.Snapshot()
		pause.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := u.Sync(); err != nil {
				t.Error(err)
			}
		}
		if got := state(t, &s.view); got != want {
			t.Errorf("the snapshot differs: %s", difference(got, want))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestNoDescriptorStays(t *testing.T) {
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(list)
	}
	tree, dir := emptyTree(t), newUpper(t)
	before := count()
	for k := range 6 {
		u := openUpper(t, dir, tree, Options{foldAt: 4 << 10, foldBy: 1 << 20})
		c := &changer{r: rand.New(rand.NewPCG(uint64(k), 3)), u: u, nodes: []Node{2}, dirs: []Node{RootNode}}
		for range 100 {
			c.change(t)
		}
		if k%2 == 0 {
			kill(u)
		} else if err := u.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(dir, tree, "other", Options{}); err == nil {
		t.Error("opened over another tree")
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors, were %d", after, before)
	}
	if u, err := Open(dir, tree, "c", Options{}); err != nil {
		t.Error(err)
	} else {
		defer u.Close()
		if empty, err := u.Empty(); err != nil || empty {
			t.Errorf("empty: %v, %v", empty, err)
		}
		if n, err := u.Changed(); err != nil || n == 0 {
			t.Errorf("changed: %d, %v", n, err)
		}
		if n, err := Size(dir); err != nil || n == 0 {
			t.Errorf("size: %d, %v", n, err)
		}
	}
}

func TestChangedCounts(t *testing.T) {
	u := openUpper(t, newUpper(t), emptyTree(t), Options{foldAt: 10 << 10, foldBy: 1 << 20})
	defer u.Close()
	if empty, err := u.Empty(); err != nil || !empty {
		t.Errorf("a new one is empty: %v, %v", empty, err)
	}
	c := &changer{r: rand.New(rand.NewPCG(5, 3)), u: u, nodes: []Node{2}, dirs: []Node{RootNode}}
	for k := range 1000 {
		c.change(t)
		if k%100 != 0 {
			continue
		}
		for {
			u.mu.RLock()
			f := u.folding
			u.mu.RUnlock()
			if f == nil {
				break
			}
			select {
			case <-f.done:
			case <-f.failed:
				t.Fatal(f.failing())
			}
		}
		want := int64(0)
		u.mu.RLock()
		for _, n := range append(slices.Clone(c.nodes), c.dirs...) {
			if i, _, err := u.record(n); err != nil {
				t.Error(err)
			} else if i != nil {
				want++
			}
		}
		u.mu.RUnlock()
		if got, err := u.Changed(); err != nil || got != want {
			t.Errorf("%d changed, want %d: %v", got, want, err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	u := openUpper(b, newUpper(b), emptyTree(b), Options{})
	defer u.Close()
	i := &inode{mode: index.ModeRegular | 0o644, nlink: 1}
	n := FirstOwn
	b.ReportAllocs()
	for b.Loop() {
		u.room()
		u.mu.Lock()
		tx := u.begin()
		tx.put(n, i)
		if err := tx.commit(); err != nil {
			b.Fatal(err)
		}
		u.mu.Unlock()
	}
}

func BenchmarkFold(b *testing.B) {
	for _, had := range []int{0, 1_000_000} {
		b.Run(fmt.Sprintf("had=%d", had), func(b *testing.B) {
			dir := b.TempDir()
			u := &Upper{}
			s, err := openStore(filepath.Join(dir, "db"), 1, id256{}, FirstOwn)
			if err != nil {
				b.Fatal(err)
			}
			defer s.close()
			next := FirstOwn
			fill := func(count int) *delta {
				d := newDelta()
				d.dirs[RootNode] = make(map[string]entry)
				for range count {
					d.inodes[next] = &inode{mode: index.ModeRegular | 0o644, nlink: 1}
					d.dirs[RootNode][fmt.Sprintf("name%d", next)] = entry{next, 8}
					next++
				}
				return d
			}
			none := func() error { return nil }
			for next < FirstOwn+Node(had) {
				if err := s.fold(fill(50_000), 1, next, u.hashName, none); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				b.StopTimer()
				d := fill(28_000) // about 8 MiB of the journal
				b.StartTimer()
				if err := s.fold(d, 1, next, u.hashName, none); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
