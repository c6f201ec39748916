// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/fusetest"
	"github.com/imgfs/imgfs/internal/tartest"
	"github.com/imgfs/imgfs/layerstore"
)

// A swapper changes a file without a change of its identity: through a map
// whose pages are dirty already.
type swapper struct {
	t    *testing.T
	path string
	m    []byte
	was  unix.Stat_t
}

// newSwapper writes an archive of one layer.
func newSwapper(t *testing.T, layer []byte) *swapper {
	t.Helper()
	b := newOCI(t)
	s := &swapper{t: t, path: b.write(b.image("linux/amd64", []packedLayer{packed(t, layer, "")}, nil))}
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if s.m, err = unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		t.Skipf("no shared map: %v", err)
	}
	t.Cleanup(func() { unix.Munmap(s.m) })
	for i := 0; i < len(s.m); i += os.Getpagesize() {
		p := &s.m[i]
		*p ^= 1
		*p ^= 1
	}
	if err := unix.Stat(s.path, &s.was); err != nil {
		t.Fatal(err)
	}
	return s
}

// swap writes now where old was. It skips if the kernel has noticed.
func (s *swapper) swap(old, now []byte) {
	s.t.Helper()
	if len(old) != len(now) || !bytes.Contains(s.m, old) {
		s.t.Fatal("nothing to swap")
	}
	copy(s.m[bytes.Index(s.m, old):], now)
	var st unix.Stat_t
	if err := unix.Stat(s.path, &st); err != nil {
		s.t.Fatal(err)
	}
	if st.Ctim != s.was.Ctim || st.Mtim != s.was.Mtim {
		s.t.Skip("this write through a map was noticed: its pages were written back meanwhile")
	}
}

func openPlain(t testing.TB, s *imgfs.Store, path string, verify bool) *imgfs.Image {
	t.Helper()
	i, err := s.OpenImage(context.Background(), path, nil, imgfs.OpenOptions{Verify: verify})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return i
}

// What was scanned, and never verified, is never shown as verified.
func TestPlaceSwapped(t *testing.T) {
	good, evil := tartest.Tar(t, "good=text"), tartest.Tar(t, "evil:4755=text")
	has := func(i *imgfs.Image, name string) bool {
		_, ok := readTree(t, i.FS)[name]
		return ok
	}

	t.Run("verified at the next opening", func(t *testing.T) {
		w := newSwapper(t, good)
		w.swap(good, evil)
		s := openStore(t)
		if first := openPlain(t, s, w.path, false); !has(first, "evil") || !first.Unverified() {
			t.Fatal("the scan does not show what lies there")
		}
		w.swap(evil, good)
		for _, verify := range []bool{true, false} {
			i := openPlain(t, s, w.path, verify)
			if i.Unverified() || !has(i, "good") || has(i, "evil") {
				t.Errorf("verify %v: unverified %v, evil %v", verify, i.Unverified(), has(i, "evil"))
			}
		}
	})

	t.Run("verified behind", func(t *testing.T) {
		w := newSwapper(t, good)
		w.swap(good, evil)
		s := openStore(t)
		first, second := openPlain(t, s, w.path, false), openPlain(t, s, w.path, false)
		w.swap(evil, good)
		if err := first.Verify(context.Background()); !errors.Is(err, layerstore.ErrChanged) {
			t.Errorf("got %v, want ErrChanged", err)
		}
		if !first.Damaged() || !first.Unverified() {
			t.Errorf("damaged %v, unverified %v", first.Damaged(), first.Unverified())
		}
		// The scan is made anew, and no tree of the old one is taken.
		third := openPlain(t, s, w.path, false)
		if !has(third, "good") || has(third, "evil") {
			t.Error("an old scan is shown")
		}
		if err := third.Verify(context.Background()); err != nil || third.Unverified() {
			t.Errorf("got %v, unverified %v", err, third.Unverified())
		}
		// Somebody else's verified table does not speak for this scan.
		if err := second.Verify(context.Background()); !errors.Is(err, layerstore.ErrChanged) {
			t.Errorf("got %v, want ErrChanged", err)
		}
	})

	t.Run("lost tables", func(t *testing.T) {
		w := newSwapper(t, good)
		s := openStore(t)
		openPlain(t, s, w.path, true)
		for _, f := range storeFiles(t, s, "index/place/") {
			if !strings.HasSuffix(f, ".ok") && !strings.HasSuffix(f, ".seek") {
				os.Remove(f)
			}
		}
		w.swap(good, evil)
		if i, err := s.OpenImage(context.Background(), w.path, nil, imgfs.OpenOptions{}); !errors.Is(err, layerstore.ErrDigest) {
			t.Errorf("got %v, want ErrDigest", err)
			i.Close()
		}
	})
}

// badLayers is an image whose layers are not what its config says.
func badLayers(t testing.TB, layers ...[]byte) string {
	b := newOCI(t)
	var list []packedLayer
	for _, raw := range layers {
		list = append(list, packed(t, raw, ""))
	}
	return b.write(b.image("linux/amd64", list, func(c *ocispec.Image, _ *ocispec.Manifest) {
		for i := range c.RootFS.DiffIDs {
			if i != 1 {
				c.RootFS.DiffIDs[i] = digest.FromString("another")
			}
		}
	}))
}

func TestVerifyNamesAllLayers(t *testing.T) {
	path := badLayers(t, tartest.Tar(t, "a=1"), tartest.Tar(t, "b=2"), tartest.Tar(t, "c=3"))
	check := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, layerstore.ErrDigest) || !isRefusal(err) {
			t.Fatalf("%s: got %v", what, err)
		}
		for n, want := range map[string]bool{"layer 1: ": true, "layer 2: ": false, "layer 3: ": true, "\n": false} {
			if got := strings.Contains(err.Error(), n); got != want {
				t.Errorf("%s: %q in %q: %v", what, n, err, got)
			}
		}
	}
	s := openStore(t)
	i := openPlain(t, s, path, false)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := i.Verify(ctx); !errors.Is(err, context.Canceled) || i.Damaged() {
		t.Errorf("interrupted: %v, damaged %v", err, i.Damaged())
	}
	check("Verify", i.Verify(context.Background()))
	check("again", i.Verify(context.Background()))
	got := readTree(t, i.FS)
	for name, bad := range map[string]bool{"a": true, "b": false, "c": true} {
		if strings.HasPrefix(got[name].Content, "error") != bad {
			t.Errorf("%s: %s", name, got[name].Content)
		}
	}
	_, err := s.OpenImage(context.Background(), path, nil, imgfs.OpenOptions{Verify: true})
	check("OpenImage", err)
}

// A word of a verifying pass that is damaged, or of something else, condemns
// no image.
func TestDamagedWord(t *testing.T) {
	for _, how := range []string{"", "gzip"} {
		path := textImage(t, "", how, "who=one")
		s := openStore(t)
		want := readTree(t, openPlain(t, s, path, true).FS)
		other := openStore(t)
		otherPath := textImage(t, "", how, "who=two")
		openPlain(t, other, otherPath, true)
		word := func(s *imgfs.Store) string {
			for _, f := range storeFiles(t, s, "index/place/") {
				if strings.HasSuffix(f, ".ok") {
					return f
				}
			}
			t.Fatal("no word")
			return ""
		}
		raw, err := os.ReadFile(word(s))
		if err != nil {
			t.Fatal(err)
		}
		stale, err := os.ReadFile(word(other))
		if err != nil {
			t.Fatal(err)
		}
		flipped := bytes.Clone(raw)
		flipped[len(flipped)/2] ^= 1
		for name, b := range map[string][]byte{"flipped": flipped, "stale": stale, "short": raw[:70], "empty": nil} {
			if err := os.WriteFile(word(s), b, 0o600); err != nil {
				t.Fatal(err)
			}
			i := openPlain(t, s, path, false)
			if how == "" && !i.Unverified() {
				t.Errorf("%s: taken as verified", name)
			}
			if err := i.Verify(context.Background()); err != nil {
				t.Errorf("%q, %s: %v", how, name, err)
			}
			diffTrees(t, name, readTree(t, i.FS), want)
			if got, _ := os.ReadFile(word(s)); !bytes.Equal(got, raw) {
				t.Errorf("%q, %s: the word was not made good: %q", how, name, got)
			}
		}
	}
}

// Scanning headers alone and reading all make the same table, byte for byte:
// a difference would be taken for an attack.
func TestScanIsPass(t *testing.T) {
	paths := []string{
		textImage(t, "", "", "who=one a/ a/b=text l->who s=>a || .wh.who a/.wh..wh..opq a/c:600=x || d/e/f=implied odd ="),
		manyLayers(t, "several", "", 3, 300_000),
	}
	b := newOCI(t)
	var layers []packedLayer
	for _, raw := range judgeLayers(t) {
		layers = append(layers, packed(t, raw, ""))
	}
	paths = append(paths, b.write(b.image("linux/amd64", layers, nil)))
	samples, _ := filepath.Glob("../shared/images/*.tar")
	for _, path := range append(paths, samples...) {
		s := openStore(t)
		i, err := s.OpenImage(context.Background(), path, nil, imgfs.OpenOptions{})
		if isRefusal(err) || errors.Is(err, image.ErrNotFound) {
			continue // one that is damaged, or holds several
		}
		if err != nil {
			t.Logf("%s: %v", filepath.Base(path), err)
			continue
		}
		if err := i.Verify(context.Background()); err != nil {
			t.Errorf("%s: %v", filepath.Base(path), err)
		}
		i.Close()
	}
}

// What the kernel was given of a layer that fails is taken back.
func TestDamagedMount(t *testing.T) {
	fusetest.Need(t)
	big := newTar(t)
	big.file("f", bytes.Repeat([]byte("EVIL"), 5000))
	big.file("big", make([]byte, 16<<20)) // f is read before this is hashed
	path := badLayers(t, big.bytes(), tartest.Tar(t, "good=text"))
	s := openStore(t)
	dir := t.TempDir()
	var logged atomic.Int32
	m, err := s.Mount(context.Background(), path, dir, nil, imgfs.MountOptions{Logf: func(f string, args ...any) {
		logged.Add(1)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- m.Wait() }()
	t.Cleanup(func() {
		if err := m.Unmount(false); err != nil {
			t.Error(err)
			m.Unmount(true)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if logged.Load() == 0 {
			t.Error("nothing was logged")
		}
	})
	_, early := os.ReadFile(dir + "/f")
	t.Logf("before the layer was verified: %v", early)
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !m.Damaged() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("not found damaged")
		}
	}
	if raw, err := os.ReadFile(dir + "/f"); !errors.Is(err, syscall.EIO) {
		t.Errorf("a failed layer is read: %d bytes, %v", len(raw), err)
	}
	if raw, err := os.ReadFile(dir + "/good"); err != nil || string(raw) != "text" {
		t.Errorf("the other layer: %q, %v", raw, err)
	}
	if m.Info().Verified {
		t.Error("verified")
	}
}
