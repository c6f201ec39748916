// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
	"github.com/imgfs/imgfs/internal/regtest"
	"github.com/imgfs/imgfs/internal/tartest"
)

// aside keeps a test from the settings and credentials of who runs it.
func aside(t testing.TB) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"DOCKER_CONFIG", "XDG_CONFIG_HOME"} {
		t.(*testing.T).Setenv(name, filepath.Join(dir, name))
	}
	t.(*testing.T).Setenv("REGISTRY_AUTH_FILE", "")
	os.Unsetenv("REGISTRY_AUTH_FILE") // docker-registry takes it for itself
}

// A published image is what was put into a fake registry.
type published struct {
	manifest ocispec.Descriptor
	config   digest.Digest
	layers   [][]byte // as shipped
}

// noisy is a layer whose gzip does not shrink much.
func noisy(t testing.TB, seed uint64, size int) []byte {
	t.Helper()
	text := make([]byte, size)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range text {
		text[i] = 'a' + byte(rng.IntN(26))
	}
	return tartest.Tar(t, fmt.Sprintf("d/ d/f%d=%s", seed, text))
}

// publish puts an image of gzipped layers into f, with change done to its
// manifest before.
func publish(t testing.TB, f *regtest.Fake, repository, tag, arch string, change func(*ocispec.Manifest), tars ...[]byte) published {
	t.Helper()
	var p published
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}, RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	for _, tar := range tars {
		blob := gzipped(t, tar)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(tar))
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(blob), Size: int64(len(blob))})
		p.layers = append(p.layers, blob)
		f.Blob(blob)
	}
	raw := mustJSON(t, config)
	p.config = digest.FromBytes(raw)
	f.Blob(raw)
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: p.config, Size: int64(len(raw))}
	if change != nil {
		change(&m)
	}
	raw = mustJSON(t, m)
	f.Manifest(repository, tag, m.MediaType, raw)
	p.manifest = ocispec.Descriptor{
		MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw)),
		Platform: &ocispec.Platform{OS: "linux", Architecture: arch},
	}
	return p
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func publishIndex(t testing.TB, f *regtest.Fake, repository, tag string, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	raw := mustJSON(t, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests})
	f.Manifest(repository, tag, ocispec.MediaTypeImageIndex, raw)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
}

func gzipped(t testing.TB, tar []byte) []byte {
	t.Helper()
	return packed(t, tar, "gzip").blob
}

// A counter is a Progress that tells how many bytes went by.
type counter struct {
	n    atomic.Int64
	seen func(n int64)
}

func (c *counter) Start(string, int64) io.WriteCloser { return c }
func (c *counter) Close() error                       { return nil }

func (c *counter) Write(p []byte) (int, error) {
	c.seen(c.n.Add(int64(len(p))))
	return len(p), nil
}

// leftIn lists the files of a store, without its database and lock.
func leftIn(t testing.TB, s *imgfs.Store) (list []string) {
	t.Helper()
	filepath.WalkDir(s.Root(), func(path string, d fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(s.Root(), path); err == nil && !d.IsDir() && !strings.HasPrefix(rel, "imgfs.") {
			list = append(list, rel)
		}
		return nil
	})
	return list
}

// host returns what this machine's architecture is called.
func host() string { return image.HostPlatform().Architecture }

func other() string {
	if host() == "riscv64" {
		return "s390x"
	}
	return "riscv64"
}

func pull(t testing.TB, s *imgfs.Store, name string, opt imgfs.PullOptions) imgfs.Pulled {
	t.Helper()
	done, err := s.Pull(context.Background(), name, opt)
	if err != nil {
		t.Fatalf("pull %s: %v", name, err)
	}
	return done
}

func TestPullByNameAndDigest(t *testing.T) {
	aside(t)
	f, s := regtest.NewFake(t), openStore(t)
	p := publish(t, f, "a/b", "1", host(), nil, noisy(t, 1, 5000), noisy(t, 2, 5000))
	name := f.Host + "/a/b:1"
	var found digest.Digest
	got := pull(t, s, name, imgfs.PullOptions{Found: func(_ image.Reference, d digest.Digest) { found = d }})
	if got.Digest != p.manifest.Digest || got.ID != p.config || got.Current || found != got.Digest || got.Ref.Familiar() != name {
		t.Errorf("got %+v, found %s", got, found)
	}
	if got := pull(t, s, name, imgfs.PullOptions{}); !got.Current || got.ID != p.config {
		t.Errorf("again: %+v", got)
	}
	pinned := f.Host + "/a/b:other@" + string(p.manifest.Digest)
	if got := pull(t, s, pinned, imgfs.PullOptions{}); got.Current || got.Ref.Tag() != "" {
		t.Errorf("by digest: %+v", got)
	}
	for _, l := range p.layers {
		if n := f.Count("GET", string(digest.FromBytes(l))); n != 1 {
			t.Errorf("a layer was fetched %d times", n)
		}
	}
	info := mustInfo(t, s, name)
	if info.Digest != p.manifest.Digest || !slices.Contains(info.RepoTags, name) || !slices.Contains(info.RepoDigests, f.Host+"/a/b@"+string(p.manifest.Digest)) {
		t.Errorf("info: %+v", info)
	}
}

func TestPullOfAnIndex(t *testing.T) {
	aside(t)
	f := regtest.NewFake(t)
	ours := publish(t, f, "x", "", host(), nil, noisy(t, 1, 5000))
	theirs := publish(t, f, "x", "", other(), nil, noisy(t, 2, 5000))
	word := publish(t, f, "x", "", "unknown", nil, noisy(t, 3, 10))
	word.manifest.Platform.OS = "unknown"
	word.manifest.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	inner := publishIndex(t, f, "x", "", theirs.manifest)
	index := publishIndex(t, f, "x", "1", ours.manifest, inner, word.manifest)
	name := f.Host + "/x:1"

	s := openStore(t)
	if got := pull(t, s, name, imgfs.PullOptions{}); got.Digest != index.Digest || got.ID != ours.config {
		t.Errorf("got %+v", got)
	}
	for _, d := range []digest.Digest{theirs.manifest.Digest, theirs.config, word.manifest.Digest} {
		if n := f.Count("GET", string(d)); n != 0 {
			t.Errorf("%s of another platform was fetched", d)
		}
	}
	info := mustInfo(t, s, name)
	if want := []string{"linux/" + other() + " not loaded", "attestation " + string(word.manifest.Digest)}; !slices.Equal(info.Others, want) {
		t.Errorf("others: %q, want %q", info.Others, want)
	}
	load := imgfs.LoadOptions{Platform: "linux/" + other()}
	if got := pull(t, s, name, imgfs.PullOptions{LoadOptions: load}); got.ID != theirs.config || got.Current {
		t.Errorf("another platform: %+v", got)
	}
	for _, platform := range []string{"", load.Platform} { // both are here
		if got := pull(t, s, name, imgfs.PullOptions{LoadOptions: imgfs.LoadOptions{Platform: platform}}); !got.Current {
			t.Errorf("platform %q: %+v", platform, got)
		}
	}
	load.Platform = "linux/mips"
	if _, err := s.Pull(context.Background(), name, imgfs.PullOptions{LoadOptions: load}); !errors.Is(err, image.ErrNotFound) || strings.Contains(err.Error(), "absent") {
		t.Errorf("a platform that is not there: %v", err)
	}
	s = openStore(t)
	pull(t, s, name, imgfs.PullOptions{AllPlatforms: true})
	if info, err := s.Info(context.Background(), name, imgfs.OpenOptions{Platform: "linux/" + other()}); err != nil || info.ID != theirs.config {
		t.Errorf("all platforms: %v, %v", info, err)
	}
}

func TestPullRefuses(t *testing.T) {
	aside(t)
	for what, change := range map[string]func(*ocispec.Manifest){
		"an artifact":            func(m *ocispec.Manifest) { m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" },
		"an encrypted layer":     func(m *ocispec.Manifest) { m.Layers[0].MediaType += "+encrypted" },
		"a layer too many":       func(m *ocispec.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) },
		"a digest without sense": func(m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../etc/passwd" },
		"a foreign layer that nobody has": func(m *ocispec.Manifest) {
			m.Layers[0].MediaType = image.MediaTypeDockerForeignLayer
			m.Layers[0].Digest = digest.FromString("?")
		},
		"a layer of another size": func(m *ocispec.Manifest) { m.Layers[0].Size-- },
		"another layer's diffID":  func(m *ocispec.Manifest) { m.Layers[0], m.Layers[1] = m.Layers[1], m.Layers[0] },
	} {
		t.Run(what, func(t *testing.T) {
			f, s := regtest.NewFake(t), openStore(t)
			publish(t, f, "x", "1", host(), change, noisy(t, 1, 2000), noisy(t, 2, 2000))
			_, err := s.Pull(context.Background(), f.Host+"/x:1", imgfs.PullOptions{})
			if !errors.Is(err, image.ErrMalformed) && !errors.Is(err, archive.ErrMissing) {
				t.Fatal(err)
			}
			for _, file := range leftIn(t, s) {
				if !strings.HasPrefix(file, "tmp/partial/") {
					t.Errorf("left: %s", file)
				}
			}
		})
	}
}

// After each fault the store is as before, and the next pull fetches what is
// missing and no more.
func TestPullFaults(t *testing.T) {
	aside(t)
	tars := [][]byte{noisy(t, 1, 400_000), noisy(t, 2, 300_000), noisy(t, 3, 1000)}
	f := regtest.NewFake(t)
	var sent atomic.Int64
	var fault atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool]
	f.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if do := fault.Load(); do != nil && (*do)(w, r) {
			return true
		}
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			f.Serve(&countingWriter{w, &sent}, r)
			return true
		}
		return false
	}
	p := publish(t, f, "x", "1", host(), nil, tars...)
	name := f.Host + "/x:1"
	second := "/blobs/" + string(digest.FromBytes(p.layers[1]))
	for what, do := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"no such blob": func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, second) {
				return false
			}
			regtest.Refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", "gone")
			return true
		},
		"wrong bytes": func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, second) {
				return false
			}
			raw := bytes.Clone(p.layers[1])
			raw[len(raw)/2] ^= 1
			w.Write(raw)
			return true
		},
		"nothing allowed any more": func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, second) {
				return false
			}
			regtest.Refuse(w, http.StatusForbidden, "DENIED", "no")
			return true
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := openStore(t)
			sent.Store(0)
			fault.Store(&do)
			if _, err := s.Pull(context.Background(), name, imgfs.PullOptions{}); err == nil {
				t.Fatal("pulled")
			}
			for _, file := range leftIn(t, s) {
				if !strings.HasPrefix(file, "tmp/partial/") {
					t.Errorf("left: %s", file)
				}
			}
			if images, err := s.Images(context.Background()); err != nil || len(images) > 0 {
				t.Errorf("images: %v, %v", images, err)
			}
			fault.Store(nil)
			pull(t, s, name, imgfs.PullOptions{})
			mustBeWhole(t, s, name, tars...)
			var all int64
			for _, l := range p.layers {
				all += int64(len(l))
			}
			all += int64(len(p.layers[0]))      // may have been under way, and is lost then with its connection
			if n := sent.Load(); n > all+4096 { // and the config, twice
				t.Errorf("%d bytes were sent for layers of %d", n, all)
			}
		})
	}
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n.Add(int64(n))
	return n, err
}

// mustBeWhole compares an image with one made of the same layers by Load.
func mustBeWhole(t testing.TB, s *imgfs.Store, name string, tars ...[]byte) {
	t.Helper()
	img, err := s.OpenImage(context.Background(), name, nil, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	got := readTree(t, img.FS)
	for path, file := range got {
		if strings.HasPrefix(file.Content, "error") {
			t.Errorf("%s: %s", path, file.Content)
		}
	}
	if len(got) != len(tars)+2 { // and the root, and d
		t.Errorf("%d names, want %d", len(got), len(tars)+2)
	}
}

// A pull that is given up leaves what came for the next one.
func TestPullInterrupted(t *testing.T) {
	aside(t)
	f, s := regtest.NewFake(t), openStore(t)
	tars := [][]byte{noisy(t, 1, 2_000_000)}
	p := publish(t, f, "x", "1", host(), nil, tars...)
	ctx, cancel := context.WithCancel(context.Background())
	blob := p.layers[0]
	half := len(blob) / 2
	f.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, string(digest.FromBytes(blob))) || r.Method != http.MethodGet || r.Header.Get("Range") != "" {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		w.Write(blob[:half])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	bar := &counter{seen: func(n int64) {
		if n >= int64(half) {
			cancel()
		}
	}}
	_, err := s.Pull(ctx, f.Host+"/x:1", imgfs.PullOptions{LoadOptions: imgfs.LoadOptions{Progress: bar}})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	pull(t, s, f.Host+"/x:1", imgfs.PullOptions{})
	mustBeWhole(t, s, f.Host+"/x:1", tars...)
	var ranges []string
	for _, r := range f.Requests() {
		if strings.HasSuffix(r.Path, string(digest.FromBytes(blob))) && r.Method == http.MethodGet {
			ranges = append(ranges, r.Range)
		}
	}
	if want := []string{"", fmt.Sprintf("bytes=%d-", half)}; !slices.Equal(ranges, want) {
		t.Errorf("ranges %q, want %q", ranges, want)
	}
}

// What is missing is pulled if that was asked for; what is here never is.
func TestOpenPulls(t *testing.T) {
	aside(t)
	f, s := regtest.NewFake(t), openStore(t)
	publish(t, f, "x", "1", host(), nil, noisy(t, 1, 1000))
	name := f.Host + "/x:1"
	open := func(policy imgfs.PullPolicy) error {
		img, err := s.OpenImage(context.Background(), name, nil, imgfs.OpenOptions{Pull: policy})
		if err == nil {
			err = img.Close()
		}
		return err
	}
	for _, policy := range []imgfs.PullPolicy{"", imgfs.PullNever} {
		if err := open(policy); !errors.Is(err, image.ErrNotFound) {
			t.Errorf("%q: %v", policy, err)
		}
	}
	if n := len(f.Requests()); n > 0 {
		t.Errorf("%d requests", n)
	}
	if err := open(imgfs.PullMissing); err != nil {
		t.Fatal(err)
	}
	n := len(f.Requests())
	if err := open(imgfs.PullMissing); err != nil || len(f.Requests()) != n {
		t.Errorf("what is here: %v, %d requests", err, len(f.Requests())-n)
	}
	if err := open(imgfs.PullAlways); err != nil || len(f.Requests()) == n {
		t.Errorf("always: %v, %d requests", err, len(f.Requests())-n)
	}
	newer := publish(t, f, "x", "1", host(), nil, noisy(t, 2, 1000))
	if err := open(imgfs.PullAlways); err != nil {
		t.Fatal(err)
	}
	if info := mustInfo(t, s, name); info.ID != newer.config {
		t.Errorf("always brought %s", info.ID)
	}
	_, err := s.OpenImage(context.Background(), f.Host+"/y", nil, imgfs.OpenOptions{Pull: imgfs.PullMissing})
	var missing *imgfs.MissingError
	if !errors.As(err, &missing) || !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
	for _, src := range []string{"./none", "/none", "sha256:" + strings.Repeat("a", 64), "UPPER"} {
		n := len(f.Requests())
		_, err := s.OpenImage(context.Background(), src, nil, imgfs.OpenOptions{Pull: imgfs.PullMissing})
		if err == nil || errors.As(err, &missing) || len(f.Requests()) != n {
			t.Errorf("%s: %v", src, err)
		}
	}
}

// Tags of signatures and other artifacts stand beside those of images.
func TestPullAllPassesArtifactsOver(t *testing.T) {
	aside(t)
	f := regtest.NewFake(t)
	for _, tag := range []string{"1", "2", "3"} {
		publish(t, f, "x", tag, host(), func(m *ocispec.Manifest) {
			if tag == "2" {
				m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json"
			}
		}, noisy(t, 1, 5000))
	}
	s := openStore(t)
	var images, artifacts int
	for done, err := range s.PullAll(context.Background(), f.Host+"/x", imgfs.PullOptions{}) {
		switch {
		case errors.Is(err, imgfs.ErrArtifact):
			artifacts++
		case err != nil:
			t.Error(done, err)
		default:
			images++
		}
	}
	if images != 2 || artifacts != 1 {
		t.Errorf("%d images, %d artifacts", images, artifacts)
	}
}
