// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/regtest"
)

func mustTag(t testing.TB, s *imgfs.Store, name, as string) {
	t.Helper()
	if err := s.Tag(context.Background(), name, as); err != nil {
		t.Fatal(err)
	}
}

// pushed pushes a name and returns how many layers were sent, were there, and
// were mounted.
func pushed(t testing.TB, s *imgfs.Store, name string, opt imgfs.PushOptions) (done imgfs.Pushed, sent, there, mounted int) {
	t.Helper()
	var mu sync.Mutex
	opt.Layer = func(l imgfs.PushedLayer) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case l.Sent:
			sent++
		case l.Mounted != "":
			mounted++
		default:
			there++
		}
	}
	done, err := s.Push(context.Background(), name, opt)
	if err != nil {
		t.Fatalf("push %s: %v", name, err)
	}
	return done, sent, there, mounted
}

func TestPushSendsWhatIsMissing(t *testing.T) {
	aside(t)
	r := regtest.Start(t, regtest.Options{})
	f, s := regtest.NewFake(t), openStore(t)
	p := publish(t, f, "x", "1", host(), nil, noisy(t, 1, 50_000), noisy(t, 2, 50_000))
	publish(t, f, "x", "2", host(), nil, noisy(t, 1, 50_000), noisy(t, 3, 50_000))
	pull(t, s, f.Host+"/x:1", imgfs.PullOptions{})
	pull(t, s, f.Host+"/x:2", imgfs.PullOptions{})
	for _, tt := range []struct {
		rule, from, to       string
		sent, there, mounted int
	}{
		{"a registry that has nothing gets all", "x:1", "a/x:1", 2, 0, 0},
		{"what is there is not sent", "x:1", "a/x:again", 0, 2, 0},
		{"what is there of another image is not sent", "x:2", "a/x:2", 1, 1, 0},
		{"what another repository has is mounted", "x:2", "b:1", 0, 0, 2},
	} {
		mustTag(t, s, f.Host+"/"+tt.from, r.Host+"/"+tt.to)
		_, sent, there, mounted := pushed(t, s, r.Host+"/"+tt.to, imgfs.PushOptions{})
		if sent != tt.sent || there != tt.there || mounted != tt.mounted {
			t.Errorf("%s: sent %d, there %d, mounted %d; want %d, %d, %d", tt.rule, sent, there, mounted, tt.sent, tt.there, tt.mounted)
		}
	}
	back := openStore(t)
	if got := pull(t, back, r.Host+"/a/x:1", imgfs.PullOptions{}); got.Digest != p.manifest.Digest || got.ID != p.config {
		t.Errorf("it came back as %+v", got)
	}
	if _, err := s.Push(context.Background(), r.Host+"/none:1", imgfs.PushOptions{}); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
	n := 0
	for done, err := range s.PushAll(context.Background(), r.Host+"/a/x", imgfs.PushOptions{}) {
		if n++; err != nil {
			t.Error(done, err)
		}
	}
	if n != 3 {
		t.Errorf("%d tags were pushed", n)
	}
	n = 0
	for done, err := range back.PullAll(context.Background(), r.Host+"/a/x", imgfs.PullOptions{}) {
		if n++; err != nil {
			t.Error(done, err)
		}
	}
	if n != 3 {
		t.Errorf("%d tags were pulled", n)
	}
}

// An index goes round with all its platforms and attestations, byte for byte.
func TestPushOfAnIndex(t *testing.T) {
	aside(t)
	r := regtest.Start(t, regtest.Options{})
	f := regtest.NewFake(t)
	ours := publish(t, f, "x", "", host(), nil, noisy(t, 1, 5000))
	theirs := publish(t, f, "x", "", other(), nil, noisy(t, 2, 5000))
	word := publish(t, f, "x", "", "unknown", nil, noisy(t, 3, 10))
	word.manifest.Platform.OS = "unknown"
	word.manifest.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	index := publishIndex(t, f, "x", "1", ours.manifest, theirs.manifest, word.manifest)

	s, name := openStore(t), r.Host+"/x:1"
	pull(t, s, f.Host+"/x:1", imgfs.PullOptions{})
	mustTag(t, s, f.Host+"/x:1", name)
	if done, _, _, _ := pushed(t, s, name, imgfs.PushOptions{}); done.Digest != ours.manifest.Digest {
		t.Errorf("one platform: %+v", done)
	}
	if _, err := s.Push(context.Background(), name, imgfs.PushOptions{AllPlatforms: true}); !errors.Is(err, imgfs.ErrIncomplete) {
		t.Errorf("an index that is not whole: %v", err)
	}
	s = openStore(t)
	pull(t, s, f.Host+"/x:1", imgfs.PullOptions{AllPlatforms: true})
	mustTag(t, s, f.Host+"/x:1", name)
	if done, _, _, _ := pushed(t, s, name, imgfs.PushOptions{AllPlatforms: true}); done.Digest != index.Digest {
		t.Errorf("the index: %+v", done)
	}
	back := openStore(t)
	for _, p := range []published{ours, theirs} {
		load := imgfs.LoadOptions{Platform: "linux/" + p.manifest.Platform.Architecture}
		if got := pull(t, back, name, imgfs.PullOptions{LoadOptions: load}); got.Digest != index.Digest || got.ID != p.config {
			t.Errorf("it came back as %+v", got)
		}
	}
}

// skopeo pulls what imgfs pushed, and imgfs what skopeo pushed.
func TestPushAgainstSkopeo(t *testing.T) {
	needTools(t, "skopeo")
	aside(t)
	r := regtest.Start(t, regtest.Options{})
	b := newOCI(t)
	made := b.image("linux/amd64", textLayers(t, "gzip", "a=1 || b=2 || .wh.a"), nil)
	path := b.write(named(made, "docker.io/library/made:1"))
	s := openStore(t)
	mustLoad(t, s, path)
	mustTag(t, s, "made:1", r.Host+"/made:1")
	pushed(t, s, r.Host+"/made:1", imgfs.PushOptions{Platform: "linux/amd64"})
	dir := t.TempDir()
	run(t, "skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "docker://"+r.Host+"/made:1", "oci:"+dir+"/o:1")
	info, err := s.Info(context.Background(), dir+"/o", imgfs.OpenOptions{})
	if err != nil || info.Digest != made.Digest {
		t.Fatalf("skopeo got %v, %v", info, err)
	}
	run(t, "skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "oci:"+dir+"/o:1", "docker://"+r.Host+"/from/skopeo:1")
	run(t, "skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "--format", "v2s2", "oci:"+dir+"/o:1", "docker://"+r.Host+"/from/skopeo:docker")
	want := treeOf(t, s, "made:1")
	for _, tag := range []string{"1", "docker"} {
		back := openStore(t)
		pull(t, back, r.Host+"/from/skopeo:"+tag, imgfs.PullOptions{LoadOptions: imgfs.LoadOptions{Platform: "linux/amd64"}})
		diffTrees(t, "from skopeo, "+tag, treeOf(t, back, r.Host+"/from/skopeo:"+tag), want)
	}
}

// Of two who pull images with a layer in common, each layer is fetched once.
func TestPullTogether(t *testing.T) {
	aside(t)
	f, s := regtest.NewFake(t), openStore(t)
	shared, a, b := noisy(t, 1, 1_000_000), noisy(t, 2, 100_000), noisy(t, 3, 100_000)
	p := publish(t, f, "x", "a", host(), nil, shared, a)
	publish(t, f, "x", "b", host(), nil, b, shared)
	var wg sync.WaitGroup
	for _, tag := range []string{"a", "b", "a", "b"} {
		wg.Go(func() {
			own, err := imgfs.Open(s.Root()) // as another process
			if err == nil {
				_, err = own.Pull(context.Background(), f.Host+"/x:"+tag, imgfs.PullOptions{})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	mustBeWhole(t, s, f.Host+"/x:a", shared, a)
	mustBeWhole(t, s, f.Host+"/x:b", shared, b)
	if n := f.Count("GET", string(digest.FromBytes(p.layers[0]))); n != 1 {
		t.Errorf("the common layer was fetched %d times", n)
	}
	if left := storeFiles(t, s, "tmp/"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestHelperPull is no test: it is the process that TestKillDuringPull kills.
func TestHelperPull(t *testing.T) {
	root := os.Getenv("IMGFS_TEST_PULL_ROOT")
	if root == "" {
		return // not that child
	}
	s, err := imgfs.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	pull(t, s, os.Getenv("IMGFS_TEST_PULL_NAME"), imgfs.PullOptions{})
}

// A pull that is killed leaves the store as it was, or complete; the next one
// makes it complete.
func TestKillDuringPull(t *testing.T) {
	aside(t)
	f := regtest.NewFake(t)
	var tars [][]byte
	for i := range uint64(6) {
		tars = append(tars, noisy(t, i, 200_000))
	}
	publish(t, f, "x", "1", host(), nil, tars...)
	name := f.Host + "/x:1"
	process := func(s *imgfs.Store) *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHelperPull$")
		cmd.Env = append(os.Environ(), "IMGFS_TEST_PULL_ROOT="+s.Root(), "IMGFS_TEST_PULL_NAME="+name)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	s := openStore(t)
	began := time.Now()
	if err := process(s).Wait(); err != nil {
		t.Fatal(err)
	}
	k := killer{whole: time.Since(began), rounds: 8}
	want := treeOf(t, s, name)
	for k.next() {
		s := openStore(t)
		k.wait(process(s))
		if _, err := s.Info(context.Background(), name, imgfs.OpenOptions{}); err == nil {
			diffTrees(t, fmt.Sprintf("round %d, as it was left", k.round), treeOf(t, s, name), want)
		} else if !errors.Is(err, image.ErrNotFound) {
			t.Error(err)
		}
		checkFiles(t, s)
		pull(t, s, name, imgfs.PullOptions{})
		diffTrees(t, fmt.Sprintf("round %d, pulled again", k.round), treeOf(t, s, name), want)
		left := storeFiles(t, s, "tmp/")
		left = slices.DeleteFunc(left, func(path string) bool { return strings.Contains(path, "/stage-") }) // swept later
		if len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
	k.end(t)
}

// A blob that was lost is brought back by a pull of a name that is current.
func TestPullBringsBackWhatIsLost(t *testing.T) {
	aside(t)
	f, s := regtest.NewFake(t), openStore(t)
	tars := [][]byte{noisy(t, 1, 10_000), noisy(t, 2, 10_000)}
	p := publish(t, f, "x", "1", host(), nil, tars...)
	name := f.Host + "/x:1"
	pull(t, s, name, imgfs.PullOptions{})
	if err := os.Remove(filepath.Join(s.Root(), "blobs/sha256", digest.FromBytes(p.layers[1]).Encoded())); err != nil {
		t.Fatal(err)
	}
	if got := pull(t, s, name, imgfs.PullOptions{}); got.Current {
		t.Error("current")
	}
	mustBeWhole(t, s, name, tars...)
	if n := f.Count("GET", string(digest.FromBytes(p.layers[0]))); n != 1 {
		t.Errorf("the other layer was fetched %d times", n)
	}
}
