// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"github.com/imgfs/imgfs/index"
)

// A directory is listed in two parts. First come the names that the tree has
// in it, in the tree's order: a name keeps its place whatever it leads to now.
// Then come those that the upper added, in the order of their hashes. So a
// place means the same to every reader, before and after a fold or a remount,
// and none has to hold all names.
//
// A cookie below ownPart is one of the tree, packed; else it is ownPart and the
// hash from which to go on.
const ownPart = 1 << 62

// A Dirent is an entry of a directory as it is listed.
type Dirent struct {
	Node   Node
	Type   uint8  // DT_*
	Name   string // valid until the next call
	Cookie uint64 // where the next entry lies; below 1<<63
}

// A Dir is a directory that is being listed. It is safe for concurrent use.
type Dir struct {
	u *Upper
	n Node

	mu    sync.Mutex // orders before Upper.mu
	batch []listed   // scratch; guarded by mu
	names []addition // scratch; guarded by mu
	over  overrides  // guarded by mu

	// What was added in memory is sorted once while the listing goes forwards.
	sorted bool     // guarded by mu
	from   uint64   // added lacks what has a smaller hash; guarded by mu
	added  []hashed // guarded by mu
}

// hashed is a name with its hash.
type hashed struct {
	hash uint64
	name string
}

func (h hashed) compare(o hashed) int {
	if h.hash != o.hash {
		return cmp.Compare(h.hash, o.hash)
	}
	return strings.Compare(h.name, o.name)
}

// An addition is a name that the upper added.
type addition struct {
	hashed
	e      entry
	folded bool // e is what the checkpoint says
}

// listed is an entry about to be given out.
type listed struct {
	e    Dirent
	a    Attr
	rest rest
}

// batchSize is how many entries are taken under one locking.
const batchSize = 64

// OpenDir opens a directory for listing.
func (u *Upper) OpenDir(n Node) (*Dir, error) {
	var a Attr
	if _, err := u.attrRLocked(n, &a); err != nil {
		return nil, err
	}
	if a.Mode&index.ModeType != index.ModeDir {
		return nil, syscall.ENOTDIR
	}
	return &Dir{u: u, n: n}, nil
}

// Node returns which directory it is.
func (d *Dir) Node() Node { return d.n }

// Parent returns the directory above, of the root itself.
func (d *Dir) Parent() (Node, error) {
	d.u.mu.RLock()
	defer d.u.mu.RUnlock()
	return d.u.parent(d.n)
}

// Read calls f for the entries from cookie on (0: the first), "." and ".." not
// among them, until it returns false. If attrs is true a is filled, else nil.
// Entries that are not removed or added meanwhile are met just once, whatever
// else happens in the directory. The attributes of a damaged node have Node 0:
// its name is there, and who looks it up gets the error.
//
// Two added names that share a 61-bit hash are an exception: a listing that is
// cut between them loses the second. Nobody can choose names that do.
func (d *Dir) Read(cookie uint64, attrs bool, f func(e *Dirent, a *Attr) bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for given := false; ; {
		next, err := d.fill(cookie, attrs)
		for k := range d.batch {
			l := &d.batch[k]
			var a *Attr
			if attrs {
				a = &l.a
				if err := d.u.stat(l.e.Node, a, l.rest); err != nil {
					if d.u.isGone(l.e.Node) {
						continue // since the batch was filled
					}
					*a = Attr{}
				}
			}
			if !f(&l.e, a) {
				return nil
			}
			given = true
		}
		if err != nil {
			if given {
				return nil // it is told again to who goes on
			}
			return err
		}
		if next == 0 {
			return nil
		}
		cookie = next
	}
}

// fill fills d.batch with what comes from cookie on. next is where to go on, 0
// at the end. On an error the entries before it are in the batch.
func (d *Dir) fill(cookie uint64, attrs bool) (next uint64, err error) {
	d.batch = d.batch[:0]
	d.u.mu.RLock()
	defer d.u.mu.RUnlock()
	i, err := d.u.knownHead(d.n)
	if err != nil {
		return 0, err
	}
	if i != nil && i.nlink == 0 {
		return 0, nil
	}
	if cookie < ownPart {
		d.sorted = false // the listing starts again
		if d.n < FirstOwn {
			next, err = d.fillTree(i, cookie, attrs)
			if err != nil || next != 0 {
				return next, err
			}
		}
		cookie = ownPart
	}
	if i == nil {
		return 0, nil
	}
	return d.fillAdded(cookie&^ownPart, attrs)
}

// isGone reports whether n ended.
func (u *Upper) isGone(n Node) bool {
	u.mu.RLock()
	defer u.mu.RUnlock()
	_, err := u.knownHead(n)
	return err == syscall.ESTALE
}

// fillTree takes from the tree's part.
func (d *Dir) fillTree(i *inode, cookie uint64, attrs bool) (next uint64, err error) {
	r, err := d.u.fs.Tree.ReadDir(index.NodeID(d.n), index.UnpackCookie(cookie))
	if err != nil {
		return 0, err
	}
	if i != nil {
		if err := d.over.load(d.u, d.n); err != nil {
			return 0, err
		}
	}
	// A directory may have lost any number of names in a row.
	for range 4 * batchSize {
		t, ok, err := r.Next()
		if err != nil {
			return 0, err
		}
		if !ok {
			return 0, nil
		}
		cookie = index.PackCookie(t.Cookie)
		n, typ := Node(t.ID), t.Type
		if i != nil {
			e, ok := d.u.inMemory(d.n, inPlace(t.Name))
			if !ok {
				if e, ok, err = d.over.entry(d.u, d.n, inPlace(t.Name)); err != nil {
					return 0, err
				}
			}
			if ok {
				n, typ = e.node, e.typ
			}
			if n == 0 {
				continue
			}
		}
		if n == Node(t.ID) {
			if err := d.u.checkTreeNode(n); err != nil {
				return 0, err
			}
		}
		d.take(n, typ, inPlace(t.Name), cookie, attrs)
		if len(d.batch) == batchSize {
			break
		}
	}
	return cookie, nil
}

// inPlace returns bytes of the table's map as a string: valid until the table
// is closed.
func inPlace(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// take adds an entry to the batch.
func (d *Dir) take(n Node, typ uint8, name string, cookie uint64, attrs bool) {
	l := listed{e: Dirent{Node: n, Type: typ, Name: name, Cookie: cookie}}
	if attrs {
		var err error
		if l.rest, err = d.u.attr(n, &l.a); err != nil {
			l.a, l.rest = Attr{}, restNone
		}
	}
	d.batch = append(d.batch, l)
}

// inMemory returns what the deltas say of a name, ok is false where they say
// nothing.
func (v *view) inMemory(dir Node, name string) (e entry, ok bool) {
	for _, d := range [...]*delta{v.active, v.frozen} {
		if d == nil {
			continue
		}
		if e, ok := d.dirs[dir][name]; ok {
			return e, true
		}
	}
	return entry{}, false
}

// overrides are the entries that a checkpoint has of a directory, if there are
// not too many to be held: most have few, and then a name of the tree costs no
// search.
type overrides struct {
	cp   *checkpoint
	few  bool
	list map[string]entry
}

const maxOverrides = 1024

// load makes o those of the checkpoint of this moment.
func (o *overrides) load(u *Upper, dir Node) error {
	if u.cp == nil || o.cp == u.cp {
		return nil
	}
	*o = overrides{list: make(map[string]entry)}
	err := u.cp.entries(dir, 0, func(_ uint64, name string, e entry) bool {
		o.list[name] = e
		return len(o.list) <= maxOverrides
	})
	if err != nil {
		return err
	}
	o.cp, o.few = u.cp, len(o.list) <= maxOverrides
	if !o.few {
		o.list = nil
	}
	return nil
}

// entry returns what the checkpoint says of a name.
func (o *overrides) entry(u *Upper, dir Node, name string) (e entry, ok bool, err error) {
	switch {
	case u.cp == nil:
		return entry{}, false, nil
	case o.few:
		e, ok = o.list[name]
		return e, ok, nil
	}
	return u.cp.entry(dir, u.hashName(name), name)
}

// fillAdded takes from the part of the names that the upper added: those in
// memory, which were sorted when the listing came here, and those of the
// checkpoint, which lie in order.
func (d *Dir) fillAdded(hash uint64, attrs bool) (next uint64, err error) {
	if !d.sorted || hash < d.from {
		d.added, d.sorted = d.u.addedInMemory(d.n, hash, d.added[:0]), true
	}
	k, _ := slices.BinarySearchFunc(d.added, hash, func(h hashed, hash uint64) int { return cmp.Compare(h.hash, hash) })
	d.added, d.from = d.added[k:], hash
	m := merge{memory: d.added, names: d.names[:0]}
	err = d.u.mergeAdded(d.n, hash, &m)
	d.names = m.names
	if err != nil {
		return 0, err
	}
	for _, h := range m.names {
		e, ok := d.u.inMemory(d.n, h.name)
		switch {
		case !ok && h.folded:
			e = h.e
		case !ok: // folded since it was sorted
			if e, _, err = d.u.entry(d.n, h.name); err != nil {
				return 0, err
			}
		}
		if e.node != 0 {
			d.take(e.node, e.typ, h.name, ownPart|(h.hash+1), attrs)
		}
	}
	if m.next == 0 {
		return 0, nil
	}
	return ownPart | m.next, nil
}

// A merge takes a batch of names, and all that share the last one's hash.
type merge struct {
	memory []hashed   // sorted, not taken yet
	names  []addition // taken
	next   uint64     // the hash to go on from; 0: nothing is left
}

// mergeSteps bounds how many entries of the checkpoint are looked at in one go.
const mergeSteps = 64 * batchSize

// take takes h, or says that the batch is full and ends it there.
func (m *merge) take(h addition) bool {
	if k := len(m.names); k >= batchSize && h.hash != m.names[k-1].hash {
		m.next = h.hash
		return false
	}
	m.names = append(m.names, h)
	return true
}

// takeMemory takes the names of memory that come before h, and leaves out h
// itself: the checkpoint has it too.
func (m *merge) takeMemory(h *addition) bool {
	for len(m.memory) > 0 {
		c := m.memory[0].compare(h.hashed)
		if c > 0 {
			break
		}
		if c < 0 && !m.take(addition{hashed: m.memory[0]}) {
			return false
		}
		m.memory = m.memory[1:]
	}
	return true
}

// mergeAdded fills m with names from hash on.
//
// Preconditions: u.mu is held.
func (u *Upper) mergeAdded(dir Node, hash uint64, m *merge) error {
	if u.cp != nil {
		var failed error
		steps := 0
		err := u.cp.entries(dir, hash, func(hash uint64, name string, e entry) bool {
			if steps++; steps > mergeSteps && (len(m.names) == 0 || m.names[len(m.names)-1].hash != hash) {
				m.next = hash
				return false
			}
			h := addition{hashed{hash, name}, e, true}
			if !m.takeMemory(&h) {
				return false
			}
			if e.node == 0 {
				return true // of the tree's part
			}
			below, err := u.below(dir, name)
			if err != nil {
				failed = err
				return false
			}
			return below || m.take(h)
		})
		if err != nil || failed != nil {
			return cmp.Or(err, failed)
		}
	}
	for m.next == 0 && len(m.memory) > 0 && m.take(addition{hashed: m.memory[0]}) {
		m.memory = m.memory[1:]
	}
	return nil
}

// addedInMemory appends the names from hash on that the deltas say were added
// to a directory, sorted.
//
// Preconditions: u.mu is held.
func (u *Upper) addedInMemory(dir Node, hash uint64, names []hashed) []hashed {
	for _, d := range [...]*delta{u.active, u.frozen} {
		if d == nil {
			continue
		}
		for name, e := range d.dirs[dir] {
			if e.node == 0 {
				continue
			}
			if h := u.hashName(name); h >= hash {
				names = append(names, hashed{h, name})
			}
		}
	}
	slices.SortFunc(names, hashed.compare)
	names = slices.Compact(names)
	if dir < FirstOwn {
		names = slices.DeleteFunc(names, func(h hashed) bool {
			below, err := u.below(dir, h.name)
			return err == nil && below
		})
	}
	return names
}
