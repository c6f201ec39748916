// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/internal/tartest"
)

// dump writes all that a table says, names sorted by their place in the tree,
// and looks each name up. answers are checked one by one: an ErrCorrupt is
// written as "?".
func dump[ID ~uint32](t *Table[ID], say func(key, value string)) error {
	corrupt := func(key string, err error) error {
		if errors.Is(err, ErrCorrupt) {
			say(key, "?")
			return nil
		}
		return fmt.Errorf("%s: %w", key, err)
	}
	for i := uint32(1); i <= t.Count(); i++ {
		key := fmt.Sprint("node ", i)
		var n Node
		if err := t.Node(ID(i), &n); err != nil {
			if err := corrupt(key, err); err != nil {
				return err
			}
			continue
		}
		say(key, fmt.Sprintf("%+v", n))
		switch n.Type() {
		case ModeSymlink, 0:
			if b, err := t.Target(&n); err == nil {
				say(key+" target", string(b))
			} else if err := corrupt(key, err); err != nil {
				return err
			}
		case ModeDir:
			if err := dumpDir(t, ID(i), say, corrupt); err != nil {
				return err
			}
		}
		if err := t.EachXattr(&n, func(k, v []byte) bool { say(key+" xattr "+string(k), string(v)); return true }); err != nil {
			if err := corrupt(key, err); err != nil {
				return err
			}
		}
		e, _, err := t.Extents(&n)
		if err != nil {
			if err := corrupt(key, err); err != nil {
				return err
			}
		}
		for j := range e.Len() {
			say(fmt.Sprint(key, " extent ", j), fmt.Sprint(e.At(j)))
		}
	}
	return nil
}

func dumpDir[ID ~uint32](t *Table[ID], id ID, say func(key, value string), corrupt func(string, error) error) error {
	key := fmt.Sprint("dir ", id)
	d, err := t.ReadDir(id, 0)
	if err != nil {
		return corrupt(key, err)
	}
	for i := 0; ; i++ {
		e, ok, err := d.Next()
		if err != nil {
			return corrupt(key, err)
		}
		if !ok {
			say(key+" length", fmt.Sprint(i))
			return nil
		}
		value := fmt.Sprintf("%d %d", e.ID, e.Type)
		say(key+" "+string(e.Name), value)
		got, dt, err := t.Lookup(id, string(e.Name))
		if err != nil {
			if err := corrupt(key, err); err != nil {
				return err
			}
		} else if fmt.Sprintf("%d %d", got, dt) != value {
			return fmt.Errorf("lookup of %q: %d %d, readdir %s", e.Name, got, dt, value)
		}
	}
}

// sample is a table with all kinds of values, of several 64 KiB blocks.
func sample(t testing.TB) []byte {
	t.Helper()
	text := "d/ l->" + strings.Repeat("t", 500) + " d/f=x g=>d/f .wh.w dev%1,3 o=>below"
	for i := range 1500 {
		text += fmt.Sprintf(" many/file-%d->%s%d", i, strings.Repeat("u", 40), i)
	}
	path := filepath.Join(t.TempDir(), "t")
	if _, err := Scan(bytes.NewReader(tartest.Tar(t, text)), path, Limits{}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checkDamaged opens the bytes as a table: it must not open, or say nothing
// that is not in good.
func checkDamaged(t testing.TB, path string, b []byte, good map[string]string) (opened bool) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open[EntryID](path)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("open: %v", err)
		}
		return false
	}
	defer l.Close()
	if err := Guard(func() error {
		return dump(l, func(key, value string) {
			if want, ok := good[key]; value != "?" && (!ok || value != want) {
				t.Fatalf("%s: %.80q, want %.80q", key, value, want)
			}
		})
	}); err != nil && !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	return true
}

func goodAnswers(t testing.TB, b []byte) map[string]string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "good")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	good := make(map[string]string)
	if err := dump(openTable(t, path), func(k, v string) { good[k] = v }); err != nil {
		t.Fatal(err)
	}
	return good
}

// Any one flipped bit is told or does not matter; never is it a wrong answer.
func TestFlippedBits(t *testing.T) {
	b := sample(t)
	good := goodAnswers(t, b)
	path := filepath.Join(t.TempDir(), "t")
	r := rand.New(rand.NewPCG(3, 4))
	opened := 0
	flip := func(bit int) {
		b[bit/8] ^= 1 << (bit % 8)
		if checkDamaged(t, path, b, good) {
			opened++
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
	for i := range 160 { // heads of the first pages, and the trailer
		flip(i*64 + r.IntN(64))
		flip(8*len(b) - 1 - 4*i)
	}
	for range 300 {
		flip(r.IntN(8 * len(b)))
	}
	t.Logf("%d bytes, %d of 620 opened", len(b), opened)
}

// bbolt's keys lie between its values.
func TestFlippedKeys(t *testing.T) {
	b := sample(t)
	good := goodAnswers(t, b)
	path := filepath.Join(t.TempDir(), "t")
	for _, key := range []string{"n\x00\x00\x00\x00", "d\x00\x00\x00\x00", "s\x00\x00\x00\x00", "m{\"ver"} {
		for at := 0; ; at++ {
			i := bytes.Index(b[at:], []byte(key))
			if i < 0 {
				break
			}
			at += i
			for bit := range 8 * 2 {
				b[at+bit/8] ^= 1 << (bit % 8)
				checkDamaged(t, path, b, good)
				b[at+bit/8] ^= 1 << (bit % 8)
			}
		}
	}
}

func TestCutShort(t *testing.T) {
	b := sample(t)
	good := goodAnswers(t, b)
	path := filepath.Join(t.TempDir(), "t")
	sizes := []int{0, 1, 31, 32, 1023, 1024, 2048, 4095, 4096, 65535, 65536, 65537, len(b) / 2, len(b) - footerSize - 1, len(b) - footerSize, len(b) - 5, len(b) - 1}
	for _, n := range sizes {
		if checkDamaged(t, path, b[:n], good) {
			t.Errorf("%d of %d bytes open", n, len(b))
		}
	}
	if checkDamaged(t, path, append(bytes.Clone(b), 0), good) {
		t.Error("a byte more opens")
	}
}

// A file that is cut short below its map is an error, not the process's death.
// (Cut within a page, what is left of that page reads as zeros, and a block
// that was checked before is not checked again: nothing can notice.)
func TestCutShortWhileMapped(t *testing.T) {
	b := sample(t)
	good := goodAnswers(t, b)
	for _, left := range []int64{0, 4096, 65536, int64(len(b)) / 2 &^ 4095} {
		path := filepath.Join(t.TempDir(), "t")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l := openTable(t, path)
		if err := os.Truncate(path, left); err != nil {
			t.Fatal(err)
		}
		err := Guard(func() error {
			return dump(l, func(key, value string) {
				if value != "?" && value != good[key] {
					t.Errorf("%s: %.80q, want %.80q", key, value, good[key])
				}
			})
		})
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut to %d: %v", left, err)
		}
	}
}

func TestWarm(t *testing.T) {
	b := sample(t)
	path := filepath.Join(t.TempDir(), "t")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openTable(t, path).Warm(nil); err != nil {
		t.Errorf("a good table: %v", err)
	}
	size := int(le.Uint64(b[len(b)-20:]))
	b[size-crcBlock-100] ^= 1
	path = filepath.Join(t.TempDir(), "t")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open[EntryID](path)
	if err == nil {
		defer l.Close()
		err = l.Warm(nil)
	}
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("a damaged table: %v", err)
	}
}

func TestGuard(t *testing.T) {
	if err := Guard(func() error { return io.EOF }); err != io.EOF {
		t.Errorf("an error became %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a panic of ours was swallowed")
		}
	}()
	_ = Guard(func() error { var s []int; _ = s[len(s)]; return nil })
}

// A table whose bytes were changed opens or not; it never says what was not
// written, and never kills the process.
func FuzzTable(f *testing.F) {
	b := sample(f)
	good := goodAnswers(f, b)
	f.Add(uint32(0), []byte{1})
	f.Add(uint32(1024), []byte("xxxxxxxxxxxxxxxx"))
	f.Add(uint32(len(b)-32), []byte{0, 1, 2, 3, 4, 5})
	f.Fuzz(func(t *testing.T, off uint32, xor []byte) {
		if len(xor) > 4096 {
			return
		}
		c := bytes.Clone(b)
		for i, x := range xor {
			c[(int(off)+i)%len(c)] ^= x
		}
		checkDamaged(t, filepath.Join(memoryDir(t), "t"), c, good)
	})
}
