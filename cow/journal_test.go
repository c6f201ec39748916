// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

// A state is what an upper says, as lines, to be compared.
func state(t testing.TB, v *view) string {
	t.Helper()
	lines := map[string]string{}
	nodes := map[Node]bool{}
	if v.cp != nil {
		if err := v.cp.eachInode(func(n Node, _ *inode) bool { nodes[n] = true; return true }); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []*delta{v.frozen, v.active} {
		if d != nil {
			for n := range d.inodes {
				nodes[n] = true
			}
		}
	}
	for n := range nodes {
		i, gone, err := v.record(n)
		if err != nil {
			t.Fatal(err)
		}
		if gone || i == nil {
			continue
		}
		c := *i
		c.seq = 0
		lines[fmt.Sprintf("%d", n)] = fmt.Sprintf("%+v", c)
		names := map[string]bool{}
		if v.cp != nil {
			v.cp.entries(n, 0, func(_ uint64, name string, _ entry) bool { names[name] = true; return true })
		}
		for _, d := range []*delta{v.frozen, v.active} {
			if d != nil {
				for name := range d.dirs[n] {
					names[name] = true
				}
			}
		}
		for name := range names {
			e, ok, err := v.entry(n, name)
			if err != nil {
				t.Fatal(err)
			}
			if ok && e != (entry{}) {
				lines[fmt.Sprintf("%d/%s", n, name)] = fmt.Sprint(e)
			}
		}
		v.eachXattr(n, func(name string, value []byte) bool {
			lines[fmt.Sprintf("%d:%s", n, name)] = fmt.Sprintf("%q", value)
			return true
		})
		for k := range uint64(4) {
			c, err := v.chunk(chunkKey{n, k})
			if err != nil {
				t.Fatal(err)
			}
			if c != nil && *c != (chunk{}) && i.flags&flagMixed != 0 {
				lines[fmt.Sprintf("%d#%d", n, k)] = fmt.Sprintf("%x", *c)
			}
		}
	}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintf(&b, "%s %s\n", k, lines[k])
	}
	return b.String()
}

// difference says which lines stand in one text alone.
func difference(got, want string) string {
	var b strings.Builder
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for _, v := range g {
		if !slices.Contains(w, v) {
			fmt.Fprintf(&b, "\n got %s", v)
		}
	}
	for _, v := range w {
		if !slices.Contains(g, v) {
			fmt.Fprintf(&b, "\nwant %s", v)
		}
	}
	return b.String()
}

func newUpper(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "u")
	if err := Create(dir, Base{Image: "a", ChainID: "c"}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func openUpper(t testing.TB, dir string, fs *unionfs.FS, opt Options) *Upper {
	t.Helper()
	if opt.Log == nil {
		opt.Log = t.Logf
	}
	u, err := Open(dir, fs, "c", opt)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// kill ends u as kill -9 would: nothing is folded or synced.
func kill(u *Upper) {
	u.poison(syscall.EIO)
	close(u.stop)
	u.tasks.Wait()
	u.letGo()
}

// A changer makes random changes, as they come: only the journal's side of them
// makes sense.
type changer struct {
	r     *rand.Rand
	u     *Upper
	nodes []Node // but directories
	dirs  []Node
}

func (c *changer) change(t testing.TB) {
	t.Helper()
	u := c.u
	u.room()
	u.mu.Lock()
	defer u.mu.Unlock()
	tx := u.begin()
	pick := func() Node { return c.nodes[c.r.IntN(len(c.nodes))] }
	pickDir := func() Node { return c.dirs[c.r.IntN(len(c.dirs))] }
	name := func() string { return fmt.Sprintf("n%d", c.r.IntN(50)) }
	record := func(n Node, mode uint32) *inode {
		i, gone, err := u.record(n)
		if err != nil {
			t.Fatal(err)
		}
		if i == nil || gone {
			return &inode{mode: mode | 0o644, nlink: 1, tail: strings.Repeat("t", c.r.IntN(5))}
		}
		k := *i
		k.size = c.r.Int64N(1 << 40)
		k.mtime = Time{c.r.Int64N(1 << 33), uint32(c.r.IntN(1e9))}
		return &k
	}
	n := pick()
	switch c.r.IntN(10) {
	case 0, 1, 2:
		n, err := u.newNode()
		if err != nil {
			t.Fatal(err)
		}
		mode := []uint32{index.ModeDir, index.ModeRegular, index.ModeSymlink}[c.r.IntN(3)]
		tx.put(n, record(n, mode))
		dir := pickDir()
		if mode == index.ModeDir {
			c.dirs = append(c.dirs, n)
		} else {
			c.nodes = append(c.nodes, n)
		}
		tx.put(dir, record(dir, index.ModeDir))
		tx.link(dir, name(), n, 8)
	case 3:
		if len(c.nodes) < 5 {
			return
		}
		k := 1 + c.r.IntN(len(c.nodes)-1)
		n = c.nodes[k]
		c.nodes = slices.Delete(c.nodes, k, k+1)
		tx.drop(n)
		if k < len(c.dirs) { // and one that had entries
			tx.drop(c.dirs[k])
			c.dirs = slices.Delete(c.dirs, k, k+1)
		}
		dir := pickDir()
		tx.put(dir, record(dir, index.ModeDir))
		tx.muts = append(tx.muts, mutation{kind: putEntry, node: dir, name: name(), entry: entry{0, uint8(c.r.IntN(2) * whiteout)}})
	case 4, 5:
		i := record(n, index.ModeRegular)
		i.flags |= flagXattrs
		tx.put(n, i)
		tx.setXattr(n, name(), []byte(strings.Repeat("v", c.r.IntN(100))))
	case 6:
		i := record(n, index.ModeRegular)
		if i.flags&flagXattrs == 0 {
			return
		}
		tx.put(n, i)
		tx.dropXattr(n, name())
	case 7:
		i := record(n, index.ModeRegular)
		if i.flags&flagLocal != 0 || !i.isRegular() {
			return
		}
		i.flags |= flagMixed
		tx.put(n, i)
		tx.blocks(n, c.r.Uint64N(3*chunkBlocks), 1+c.r.Uint64N(chunkBlocks))
	case 8:
		i := record(n, index.ModeRegular)
		if i.flags&flagMixed == 0 {
			return
		}
		i.flags = i.flags&^flagMixed | flagLocal | flagData
		tx.put(n, i)
		tx.barrier(n)
	default:
		tx.put(n, record(n, index.ModeRegular))
	}
	if err := tx.commit(); err != nil {
		t.Fatal(err)
	}
}

func TestReopenIsEqual(t *testing.T) {
	fs := emptyTree(t)
	for seed := range uint64(8) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			dir := newUpper(t)
			c := &changer{r: rand.New(rand.NewPCG(seed, 1)), nodes: []Node{2}, dirs: []Node{RootNode}}
			opt := Options{foldAt: 20 << 10, foldBy: 60 << 10}
			for range 12 {
				c.u = openUpper(t, dir, fs, opt)
				for range c.r.IntN(500) {
					c.change(t)
					if c.r.IntN(100) == 0 {
						if err := c.u.sync(c.u.journal.last()); err != nil {
							t.Fatal(err)
						}
					}
				}
				c.u.mu.RLock()
				want, next := state(t, &c.u.view), c.u.next
				c.u.mu.RUnlock()
				how := "closed"
				if c.r.IntN(2) == 0 {
					how = "killed"
					kill(c.u)
				} else if err := c.u.Close(); err != nil {
					t.Fatal(err)
				}
				if how == "closed" {
					if names, _ := filepath.Glob(filepath.Join(dir, "journal.*")); len(names) != 0 {
						t.Errorf("closed, and there is %v", names)
					}
				}
				u := openUpper(t, dir, fs, opt)
				u.mu.RLock()
				if got := state(t, &u.view); got != want {
					t.Fatalf("%s: %s", how, difference(got, want))
				}
				if u.next < next {
					t.Errorf("%s: the next node is %d, was %d", how, u.next, next)
				}
				u.mu.RUnlock()
				if err := u.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestAnotherFormatIsRefused(t *testing.T) {
	dir := newUpper(t)
	path := filepath.Join(dir, infoName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{`"format": 0`, `"format": 2`} {
		if err := os.WriteFile(path, []byte(strings.Replace(string(b), `"format": 1`, v, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, emptyTree(t), "c", Options{}); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", v, err)
		}
	}
}

func TestInUse(t *testing.T) {
	fs, dir := emptyTree(t), newUpper(t)
	u := openUpper(t, dir, fs, Options{MountDir: "/mnt/there"})
	_, err := Open(dir, fs, "c", Options{})
	var inUse *InUseError
	if !errors.Is(err, ErrInUse) || !errors.As(err, &inUse) || inUse.PID != os.Getpid() || inUse.Dir != "/mnt/there" {
		t.Errorf("the second Open: %v", err)
	}
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, fs, "other", Options{}); !errors.Is(err, ErrOtherTree) {
		t.Errorf("over another tree: %v", err)
	}
}
