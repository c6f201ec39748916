// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

// A Base says what an upper lies over, as its creator names it. It is kept in
// upper.json.
type Base struct {
	Image    string `json:"image"`    // name, for people
	ImageID  string `json:"image_id"` // digest of the config
	Manifest string `json:"manifest"` // digest of the manifest
	Platform string `json:"platform"`
	ChainID  string `json:"chain_id"`
	File     string `json:"file,omitempty"` // an image opened in place
}

// Create makes an empty upper in the new directory dir. It is not open.
func Create(dir string, base Base) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	info := Info{Format: format, Base: base, Created: now()}
	var salt [32]byte
	rand.Read(salt[:])
	info.ID, info.Key = hex.EncodeToString(salt[:16]), hex.EncodeToString(salt[16:])
	if err := makeDataDir(filepath.Join(dir, dataDirName)); err != nil {
		return fmt.Errorf("%s/%s: %w", dir, dataDirName, err)
	}
	return writeInfo(dir, &info)
}

func now() Time {
	t := time.Now()
	return Time{t.Unix(), uint32(t.Nanosecond())}
}

const infoName = "upper.json"

// format is the version of the whole directory: what lies where, and what it
// means.
const format = 1

// writeInfo replaces upper.json of dir.
func writeInfo(dir string, info *Info) error {
	b, err := json.MarshalIndent(info, "", "\t")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, infoName+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, infoName))
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return syncDir(dir)
}

func random32() uint32 {
	var b [4]byte
	rand.Read(b[:])
	return le.Uint32(b[:])
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Info is what is known of an upper without opening it.
type Info struct {
	Format int `json:"format"`
	Base
	Created Time   `json:"created"`
	ID      string `json:"id"`   // random
	Key     string `json:"key"`  // random, of the hashes of names
	Tree    string `json:"tree"` // index.Meta.Identity of the tree
	// Changed is how many inodes differed when it was closed; -1: it was not
	// closed in order.
	Changed int64 `json:"-"`
}

// ReadInfo reads upper.json of dir.
func ReadInfo(dir string) (*Info, error) {
	f, err := os.Open(filepath.Join(dir, infoName))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxInfo))
	if err != nil {
		return nil, err
	}
	info, err := decodeInfo(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	info.Changed = readSummary(dir)
	return info, nil
}

func decodeInfo(b []byte) (*Info, error) {
	info := new(Info)
	if err := json.Unmarshal(b, info); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	if info.Format != format {
		return nil, fmt.Errorf("%w (format %d, this one knows %d)", ErrFormat, info.Format, format)
	}
	return info, nil
}

const maxInfo = 1 << 20 // bytes of upper.json

// Open opens the upper in dir over fs. One process at a time has an upper
// open: others get ErrInUse. The error is ErrOtherTree if chainID is not that
// of its base.
func Open(dir string, fs *unionfs.FS, chainID string, opt Options) (*Upper, error) {
	info, err := ReadInfo(dir)
	if err != nil {
		return nil, err
	}
	if info.ChainID != chainID {
		return nil, fmt.Errorf("%w: %s", ErrOtherTree, info.Image)
	}
	if opt.foldAt == 0 {
		opt.foldAt, opt.foldBy = foldAt, foldBy
	}
	lock, err := lockUpper(dir, opt.MountDir)
	if err != nil {
		return nil, err
	}
	u := &Upper{dir: dir, opt: opt, info: *info, lock: lock,
		orphans: make(map[Node]*inode), files: make(map[Node]*content)}
	u.view = view{fs: fs, active: newDelta()}
	u.stop, u.hurry = make(chan struct{}), make(chan struct{}, 1)
	err = dropSummary(dir)
	if err == nil {
		err = u.open()
	}
	if err != nil {
		u.letGo()
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return u, nil
}

// open brings back the state that was left.
func (u *Upper) open() error {
	if !fromHex(u.key[:], u.info.Key) {
		return fmt.Errorf("%w: key of names", ErrDamaged)
	}
	j, err := u.newJournal()
	if err != nil {
		return err
	}
	u.journal = j
	u.space = openSpace(u.dir)
	j.space = u.space
	path := filepath.Join(u.dir, checkpointName)
	if _, err := os.Lstat(path); err == nil {
		if u.folded, err = openStore(path, u.fs.Tree.Count(), j.tree, 0); err != nil {
			return err
		}
		if u.cp, err = u.folded.checkpoint(); err != nil {
			return err
		}
	}
	if err := u.firstNumbers(); err != nil {
		return err
	}
	if j.tree, err = u.keyedTree(); err != nil { // until rekey
		return err
	}
	u.unswept, err = u.replay()
	if err != nil {
		return err
	}
	if err := u.rekey(); err != nil {
		return err
	}
	u.tasks.Add(1)
	go u.keep()
	if j.used() {
		u.mu.Lock()
		err := u.freeze()
		u.mu.Unlock()
		if err != nil {
			u.logf("changes stay in the journal: %v", err)
		}
	}
	if u.unswept {
		u.data.useMany()
		u.tasks.Add(1)
		go u.sweep(u.next)
	}
	return nil
}

// fromHex fills to with the bytes that s stands for, and reports whether s has
// exactly as many.
func fromHex(to []byte, s string) bool {
	if len(s) != hex.EncodedLen(len(to)) {
		return false
	}
	_, err := hex.Decode(to, []byte(s))
	return err == nil
}

// newJournal returns a journal without segments.
func (u *Upper) newJournal() (*journal, error) {
	j := &journal{
		dir: u.dir, data: u, next: 1,
		dirty:    make(chan struct{}, 1),
		barriers: make(map[Node]barrierSpan),
		lost:     make(map[Node]bool),
	}
	j.fail = func(err error) {
		u.logf("the journal cannot be synced, no changes are taken: %v", err)
		u.poison(syscall.EROFS)
	}
	if !fromHex(j.id[:], u.info.ID) {
		return nil, fmt.Errorf("%w: id", ErrDamaged)
	}
	boot := u.opt.boot
	if boot == "" {
		b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return nil, err
		}
		boot = string(b)
	}
	// Of no length that is known, so its hash stands for it.
	sum := sha256.Sum256([]byte(boot))
	copy(j.boot[:], sum[:])
	if !fromHex(j.tree[:], u.fs.Tree.Meta().Identity) {
		return nil, fmt.Errorf("%w: the tree's table has no identity", index.ErrCorrupt)
	}
	return j, nil
}

// firstNumbers sets which numbers this session may give out. The first session
// of an upper has a batch for nothing; each of the others makes sure that the
// one after it will know.
func (u *Upper) firstNumbers() error {
	switch {
	case u.info.Tree == "":
		u.info.Tree = hex.EncodeToString(u.journal.tree[:])
		u.next, u.reserved = FirstOwn, FirstOwn+numbersAhead
		return writeInfo(u.dir, &u.info)
	case u.folded == nil:
		u.next = FirstOwn + numbersAhead
	default:
		u.next = u.folded.meta.next
	}
	u.reserved = u.next
	return nil
}

// letGo closes what is open.
func (u *Upper) letGo() error {
	var errs []error
	u.cp.close()
	u.cp = nil
	if u.journal != nil {
		errs = append(errs, u.journal.close(false))
	}
	if u.folded != nil {
		errs = append(errs, u.folded.close())
	}
	errs = append(errs, u.closeData(), u.lock.Close())
	return errors.Join(errs...)
}

// Close folds what is in memory, makes all content durable and lets go of the
// directory. Nothing of u may be used meanwhile or afterwards.
func (u *Upper) Close() error {
	if u.closed.Swap(true) {
		return nil
	}
	var err error
	if u.mayChange() == nil {
		err = u.settle()
	}
	close(u.stop)
	u.tasks.Wait()
	u.space.shrink()
	if err == nil {
		u.summarize()
	}
	return errors.Join(err, u.letGo())
}

// summarize leaves a summary. Without one a listing says less.
func (u *Upper) summarize() {
	records, err := u.Changed()
	if err == nil {
		err = writeSummary(u.dir, records)
	}
	if err != nil {
		u.logf("no summary for listings: %v", err)
	}
}

// settle brings everything into the checkpoint, so that the next Open finds no
// journal. Where there is no room for it, the journal stays.
func (u *Upper) settle() error {
	u.mu.Lock()
	for n, i := range u.orphans { // nobody can come to have them any more
		if i.flags&flagData != 0 {
			u.doomed = append(u.doomed, doomed{n, u.seq})
		}
	}
	clear(u.orphans)
	for _, d := range u.doomed {
		u.data.unuse(d.node)
	}
	u.mu.Unlock()
	if err := u.syncAll(); err != nil {
		return err
	}
	if !u.journal.used() {
		u.removeDoomed()
		return nil
	}
	if err := u.sync(u.journal.last()); err != nil {
		return err
	}
	u.removeDoomed()
	for {
		u.mu.Lock()
		f := u.folding
		mine := f == nil
		if mine {
			u.reserved, u.wanted = u.next, 0 // those that were not given out are free
			if err := u.freeze(); err != nil {
				u.mu.Unlock()
				u.logf("changes stay in the journal: %v", err)
				return nil
			}
			f = u.folding
		}
		u.mu.Unlock()
		select {
		case <-f.done:
		case <-f.failed:
			return nil // said already; nothing is lost
		}
		if mine {
			return u.journal.close(true)
		}
	}
}

// Sync makes everything durable that was answered before.
func (u *Upper) Sync() error {
	seq := u.journal.last()
	if err := u.syncAll(); err != nil {
		return err
	}
	return u.sync(seq)
}

// Abandon lets go of an upper that is going to be removed: nothing more of it is
// brought to the disk.
func (u *Upper) Abandon() error {
	if u.closed.Swap(true) {
		return nil
	}
	u.poison(syscall.EROFS)
	close(u.stop)
	u.tasks.Wait()
	return u.letGo()
}

// Size returns how many bytes the upper in dir takes on disk, but for what it
// holds in reserve.
func Size(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() == reserveName {
			return unlessGone(err)
		}
		info, err := e.Info()
		if err != nil {
			return unlessGone(err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}

// Changed returns how many inodes differ from the tree. It holds no lock for
// long.
func (u *Upper) Changed() (count int64, err error) {
	u.mu.RLock()
	nodes := make([]Node, 0, len(u.active.inodes))
	for _, d := range []*delta{u.active, u.frozen} {
		if d != nil {
			nodes = slices.AppendSeq(nodes, maps.Keys(d.inodes))
		}
	}
	u.mu.RUnlock()
	slices.Sort(nodes)
	for part := range slices.Chunk(slices.Compact(nodes), 1000) {
		n, err := u.fresh(part)
		if err != nil {
			return 0, err
		}
		count += n
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	if u.cp != nil {
		count += u.cp.meta.records
	}
	return count, nil
}

// fresh returns how many records of nodes the checkpoint lacks, less those it
// has that are gone.
func (u *Upper) fresh(nodes []Node) (n int64, err error) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	for _, node := range nodes {
		i, gone := u.deltaRecord(node)
		var old *inode
		if u.cp != nil {
			if old, _, err = u.cp.inode(node); err != nil {
				return 0, err
			}
		}
		switch {
		case i != nil && old == nil:
			n++
		case gone && old != nil:
			n--
		}
	}
	return n, nil
}

// Empty reports whether nothing differs from the tree.
func (u *Upper) Empty() (bool, error) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	for _, d := range []*delta{u.active, u.frozen} {
		if d == nil {
			continue
		}
		for n := range d.inodes {
			if i, _ := u.deltaRecord(n); i != nil {
				return false, nil
			}
		}
	}
	if u.cp == nil {
		return true, nil
	}
	empty := true
	err := u.cp.eachInode(func(n Node, _ *inode) bool {
		_, gone := u.deltaRecord(n)
		empty = gone
		return empty
	})
	return empty, err
}

// unlessGone returns err unless it says that a file is not there any more.
func unlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
