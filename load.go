// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
	"github.com/imgfs/imgfs/image/engine"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/noatime"
	"github.com/imgfs/imgfs/layerstore"
	"github.com/imgfs/imgfs/layerstore/seek"
	"github.com/imgfs/imgfs/unionfs"
)

// Load reads an image archive (the path of a file or directory, or "-" with
// stdin) into the store and returns its images in the archive's order. An
// archive that is compressed as a whole is unpacked to a temporary file first.
// On an error the store is as it was before.
func (s *Store) Load(ctx context.Context, path string, stdin io.Reader, opt LoadOptions) ([]Loaded, error) {
	stage, err := s.ls.NewStage()
	if err != nil {
		return nil, err
	}
	defer stage.Discard()
	src, err := s.openToLoad(ctx, stage, path, stdin, opt)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	loaded, err := s.loadSource(ctx, stage, src, opt)
	for range maxAgain {
		if !errors.Is(err, layerstore.ErrVanished) {
			break
		}
		loaded, err = s.loadAgain(ctx, src, opt)
	}
	return loaded, err
}

// openToLoad opens an archive, or what KIND:[ROOT:]NAME means in the store of an
// engine.
func (s *Store) openToLoad(ctx context.Context, stage *layerstore.Stage, path string, stdin io.Reader, opt LoadOptions) (*archive.Source, error) {
	if l, ok := engine.Parse(path, isDir); ok && !onDisk(path) {
		src, err := s.loadable(ctx, l)
		if err != nil {
			err = about(path, err)
		}
		return src, err
	}
	return openArchive(ctx, stage, path, stdin, opt)
}

// maxAgain is how often work is begun again because somebody removes from the
// store what it relied on.
const maxAgain = 3

func (s *Store) loadAgain(ctx context.Context, src *archive.Source, opt LoadOptions) ([]Loaded, error) {
	stage, err := s.ls.NewStage()
	if err != nil {
		return nil, err
	}
	defer stage.Discard()
	return s.loadSource(ctx, stage, src, opt)
}

func (s *Store) loadSource(ctx context.Context, stage *layerstore.Stage, src *archive.Source, opt LoadOptions) ([]Loaded, error) {
	platform, err := wantedPlatform(opt.Platform)
	if err != nil {
		return nil, err
	}
	l := &loader{s: s, stage: stage, opt: opt, platform: platform, one: platform != nil}
	return l.load(ctx, src.Entries())
}

// wantedPlatform reads a platform; that of an empty one is nil.
func wantedPlatform(platform string) (*image.Platform, error) {
	if platform == "" {
		return nil, nil
	}
	p, err := image.ParsePlatform(platform)
	return &p, err
}

// openArchive opens path for random access; a stream is spooled to a file of
// the stage that has no name any more.
func openArchive(ctx context.Context, stage *layerstore.Stage, path string, stdin io.Reader, opt LoadOptions) (*archive.Source, error) {
	if path == "-" {
		if stdin == nil {
			return nil, errors.New("no standard input")
		}
		return spool(ctx, stage, "stdin", stdin, opt)
	}
	src, err := openOnDisk(path)
	if !mustSpool(err) {
		return src, err
	}
	f, err := noatime.Open(path, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return spool(ctx, stage, path, f, opt)
}

// openOnDisk opens an archive where it lies. A pipe is not touched: its writer
// gets one reader.
func openOnDisk(path string) (*archive.Source, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() && !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", path, archive.ErrStream)
	}
	return archive.Open(path)
}

// mustSpool reports whether openOnDisk could not go on because its file is
// compressed as a whole, or a pipe.
func mustSpool(err error) bool {
	return errors.Is(err, archive.ErrCompressed) || errors.Is(err, archive.ErrStream)
}

// maxArchive bounds a spooled archive: what a layer may be, and as much again.
const maxArchive = 2 << 40

// spool copies an archive, decompressed, to a file that has no name.
func spool(ctx context.Context, stage *layerstore.Stage, name string, r io.Reader, opt LoadOptions) (*archive.Source, error) {
	in := &ctxReader{ctx: ctx, r: r}
	dec, _, err := seek.NewDecoder(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, in.blame(err))
	}
	defer dec.Close()
	tar := bufio.NewReaderSize(dec, 64<<10)
	head, err := tar.Peek(512)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("%s: %w", name, in.blame(err))
	}
	if err := archive.CheckHead(head); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f, err := os.OpenFile(stage.Temp("archive"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	bar := start(opt.Progress, "reading archive", 0)
	n, err := io.Copy(io.MultiWriter(f, bar), io.LimitReader(tar, maxArchive))
	bar.Close()
	if err != nil {
		err = in.blame(err)
	}
	if err == nil && n == maxArchive {
		err = fmt.Errorf("%w: archive over %d bytes", image.ErrMalformed, int64(maxArchive))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	// Errors name what the user gave, not our file.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	f.Close()
	if err != nil {
		return nil, err
	}
	return archive.OpenFile(os.NewFile(uintptr(fd), name), n)
}

// A ctxReader reads until its context ends. It remembers its own error, so
// that a decoder's can be told from it.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
	err error
}

func (c *ctxReader) Read(p []byte) (n int, err error) {
	if err = c.ctx.Err(); err == nil {
		n, err = c.r.Read(p)
	}
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// blame makes err, which came from a decoder of c or from where its output
// went, an image.ErrMalformed if the bytes are to blame.
func (c *ctxReader) blame(err error) error {
	var path *fs.PathError
	switch {
	case c.err != nil:
		return c.err
	case errors.As(err, &path):
		return err
	}
	return fmt.Errorf("%w: %w", image.ErrMalformed, err)
}

type silent struct{}

func (silent) Write(p []byte) (int, error) { return len(p), nil }
func (silent) Close() error                { return nil }

func start(p Progress, what string, total int64) io.WriteCloser {
	if p == nil {
		return silent{}
	}
	return p.Start(what, total)
}

// A loader brings what one archive, or one name of a registry, holds into a
// stage.
type loader struct {
	s        *Store
	stage    *layerstore.Stage
	opt      LoadOptions
	platform *image.Platform // the one asked for; nil: nobody asked
	one      bool            // of an index only the image that stands for it

	from *repository // where layers come from; nil: they lie in files

	images map[digest.Digest]layerstore.Image // by manifest
	odd    map[digest.Digest]bool             // by manifest: oddities where layers meet

	mu     sync.Mutex
	layers map[layerKey]*loadedLayer // guarded by mu; the values by their once
}

// layerKey is where a layer lies; a digest is only its claim.
type layerKey struct {
	path   string
	off    int64
	size   int64
	digest digest.Digest
	diffID digest.Digest
}

type loadedLayer struct {
	once sync.Once
	l    layerstore.Layer
	err  error
}

func (l *loader) warn(format string, args ...any) {
	if l.opt.Warn != nil {
		l.opt.Warn(fmt.Sprintf(format, args...))
	}
}

func (l *loader) load(ctx context.Context, entries []archive.Entry) ([]Loaded, error) {
	l.images = make(map[digest.Digest]layerstore.Image)
	l.odd = make(map[digest.Digest]bool)
	l.layers = make(map[layerKey]*loadedLayer)
	var out []Loaded
	var refs []layerstore.Ref
	for i := range entries {
		e := &entries[i]
		ref, shown, err := l.entry(ctx, e)
		if err != nil {
			return nil, err
		}
		names := e.Names
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			r := ref
			r.Name, name = storedName(name)
			refs = append(refs, r)
			out = append(out, Loaded{Name: name, ID: shown})
		}
		if slices.ContainsFunc(ref.Images, l.isOdd) {
			l.warn("imgfs lint %s tells what is odd", cmp.Or(out[len(out)-1].Name, short(shown)))
		}
	}
	var images []layerstore.Image
	for _, i := range l.images {
		images = append(images, i)
	}
	if err := l.stage.Publish(refs, images); err != nil {
		return nil, err
	}
	return out, nil
}

// isOdd reports whether something was told of an image that lint tells more of.
func (l *loader) isOdd(manifest digest.Digest) bool {
	return slices.ContainsFunc(l.images[manifest].Layers, func(l layerstore.Layer) bool { return countOdd(l) > 0 }) || l.odd[manifest]
}

// storedName returns a name as the store keeps it and as docker prints it. A
// name that is no reference is kept as it stands.
func storedName(name string) (key, familiar string) {
	r, err := image.ParseReference(name)
	if err != nil {
		return name, name
	}
	return r.String(), r.Familiar()
}

// entry loads the images of one name and returns its ref, without the name,
// and the ID of the image that stands for it.
func (l *loader) entry(ctx context.Context, e *archive.Entry) (ref layerstore.Ref, shown digest.Digest, err error) {
	chosen, err := e.Select(l.platform)
	if err != nil {
		if chosen, err = l.instead(e, err); err != nil {
			return ref, "", err
		}
	}
	for i := range e.Images {
		m := &e.Images[i]
		if line := absence(m); line != "" {
			ref.Others = append(ref.Others, line)
			continue
		}
		if l.one && m != chosen {
			ref.Others = append(ref.Others, image.FormatPlatform(m.Platform)+" not loaded")
			continue
		}
		rec, err := l.image(ctx, m)
		if err != nil {
			return ref, "", err
		}
		ref.Images = append(ref.Images, rec.Manifest)
		if m == chosen {
			shown = rec.ID
			ref.Target = rec.Manifest
		}
	}
	for _, d := range e.Documents {
		if err := l.stage.Blob(d.Desc.Digest, d.Raw); err != nil {
			return ref, "", err
		}
	}
	if e.Target.Digest != "" {
		ref.Target = e.Target.Digest
	}
	ref.Since = time.Now().UTC()
	return ref, shown, nil
}

// absence says in a line why m of an index is no image that can be used, or
// returns "".
func absence(m *archive.Image) string {
	switch {
	case m.Attestation:
		return "attestation " + string(m.Manifest.Desc.Digest)
	case errors.Is(m.Missing, archive.ErrUnread):
		return image.FormatPlatform(m.Platform) + " not loaded"
	case m.Missing != nil:
		return fmt.Sprintf("%s absent: %v", image.FormatPlatform(m.Platform), m.Missing)
	}
	return ""
}

// instead picks the image that stands for an entry with nothing for the
// host. Nobody asked for a platform: then all that are here come in, and the
// first stands for them. With none, the archive is at fault.
func (l *loader) instead(e *archive.Entry, err error) (*archive.Image, error) {
	if l.one {
		return nil, err
	}
	for i := range e.Images {
		if absence(&e.Images[i]) == "" {
			return &e.Images[i], nil
		}
	}
	return nil, fmt.Errorf("%w: %w", image.ErrMalformed, err)
}

// image loads one platform: layers beside each other, then its documents and
// its tree.
func (l *loader) image(ctx context.Context, m *archive.Image) (rec layerstore.Image, err error) {
	layers := make([]layerstore.Layer, len(m.Layers))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.NumCPU()) // many small layers wait for the disk
	for i := range m.Layers {
		group.Go(func() error {
			var err error
			layers[i], err = l.layer(gctx, i, &m.Layers[i])
			if err != nil {
				return layerError(i, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return rec, err
	}
	manifest := m.Manifest.Raw
	if manifest == nil {
		if manifest, err = synthesize(m, layers); err != nil {
			return rec, err
		}
	}
	rec = record(m.Parsed, m.Config.Desc.Digest, digest.FromBytes(manifest), layers)
	if m.Manifest.Raw != nil {
		rec.Manifest = m.Manifest.Desc.Digest
	}
	if err := l.stage.Blob(rec.Manifest, manifest); err != nil {
		return rec, err
	}
	if err := l.stage.Blob(m.Config.Desc.Digest, m.Config.Raw); err != nil {
		return rec, err
	}
	l.images[rec.Manifest] = rec
	tree, err := l.s.stageTree(ctx, l.stage, rec)
	if err == nil {
		l.odd[rec.Manifest] = tree.Odd > 0
		warnStack(l.opt.Warn, tree)
	}
	return rec, err
}

// layerError names the layer as a person counts: from 1, the base. A layer
// that is not what its digests say makes a malformed image.
func layerError(i int, err error) error {
	if errors.Is(err, layerstore.ErrDigest) {
		err = lyingError{err}
	}
	var e *unionfs.LayerError
	if errors.As(err, &e) || errors.Is(err, layerstore.ErrDamaged) {
		return err // it has the layer, or is about the store
	}
	return fmt.Errorf("layer %d: %w", i+1, err)
}

// A lyingError is an image.ErrMalformed that does not say so twice.
type lyingError struct{ error }

func (e lyingError) Is(target error) bool { return target == image.ErrMalformed }
func (e lyingError) Unwrap() error        { return e.error }

// layer loads one layer, once however often the archive names it.
func (l *loader) layer(ctx context.Context, i int, a *archive.Layer) (layerstore.Layer, error) {
	key := layerKey{a.Path, a.Offset, 0, a.Desc.Digest, a.DiffID}
	if a.Blob != nil {
		key.size = a.Blob.Size()
	}
	l.mu.Lock()
	done := l.layers[key]
	if done == nil {
		done = new(loadedLayer)
		l.layers[key] = done
	}
	l.mu.Unlock()
	done.once.Do(func() { done.l, done.err = l.readLayer(ctx, i, a) })
	return done.l, done.err
}

func (l *loader) readLayer(ctx context.Context, i int, a *archive.Layer) (layerstore.Layer, error) {
	if l.from != nil {
		return l.fetchLayer(ctx, i, a)
	}
	want := layerstore.Layer{Digest: a.Desc.Digest, DiffID: a.DiffID, MediaType: a.Desc.MediaType}
	blob, err := a.Section(ctx)
	if err != nil {
		return want, err
	}
	bar := start(l.opt.Progress, fmt.Sprintf("layer %d %s", i+1, short(a.DiffID)), blob.Size())
	defer bar.Close()
	src := &toldReader{SectionReader: io.NewSectionReader(blob, 0, blob.Size()), told: bar}
	got, sidecar, err := l.stage.AddLayer(ctx, want, src, index.Limits{})
	if err != nil {
		return got, unproven(ctx, a, err)
	}
	if sidecar {
		l.warn("%s", sidecarLine(i))
	}
	warnOdd(l.opt.Warn, i, got)
	return got, nil
}

func sidecarLine(i int) string {
	return fmt.Sprintf("layer %d is one long compressed stream: a seekable copy is kept beside it", i+1)
}

// A toldReader tells a bar how far reading has come.
type toldReader struct {
	*io.SectionReader
	told      io.Writer
	pos, seen int64
}

func (r *toldReader) Read(p []byte) (int, error) {
	n, err := r.SectionReader.Read(p)
	r.pos += int64(n)
	if news := r.pos - r.seen; news > 0 {
		r.told.Write(p[int64(n)-news : n])
		r.seen = r.pos
	}
	return n, err
}

func (r *toldReader) Seek(off int64, whence int) (pos int64, err error) {
	r.pos, err = r.SectionReader.Seek(off, whence)
	return r.pos, err
}

// warnOdd tells what is odd about a layer: how many oddities and the first.
func warnOdd(warn func(string), i int, l layerstore.Layer) {
	n, first := countOdd(l), l.Oddity
	if lie := mediaTypeLie(l); lie != "" {
		first = lie
	}
	if n == 0 || warn == nil {
		return
	}
	line := fmt.Sprintf("%s in layer %d: %s", count(n, "oddity", "oddities"), i+1, first)
	if n > 1 {
		line += ", …"
	}
	warn(line)
}

// countOdd returns how many oddities are known of a layer.
func countOdd(l layerstore.Layer) int {
	if mediaTypeLie(l) != "" {
		return l.Oddities + 1
	}
	return l.Oddities
}

// warnStack tells what was odd where the layers of a tree meet.
func warnStack(warn func(string), tree *index.Meta) {
	if warn == nil || tree.Odd == 0 || len(tree.Oddities) == 0 {
		return
	}
	o := tree.Oddities[0]
	line := fmt.Sprintf("%s where layers meet: %s: %s (%s)", count(tree.Odd, "oddity", "oddities"), strconv.Quote(o.Name), o.What, o.Rule)
	if tree.Odd > 1 {
		line += ", …"
	}
	warn(line)
}

// mediaTypeLie says what a layer is if its media type says otherwise (C2), or
// returns "".
func mediaTypeLie(l layerstore.Layer) string {
	said := ""
	switch t := l.MediaType; {
	case strings.HasSuffix(t, "gzip"):
		said = seek.Gzip.String()
	case strings.HasSuffix(t, "zstd"):
		said = seek.Zstd.String()
	case strings.HasSuffix(t, ".tar"):
		said = seek.None.String()
	}
	if said == "" || l.Compression == "" || l.Compression == said {
		return ""
	}
	return fmt.Sprintf("the media type says compression %s, the bytes are %s (C2)", said, l.Compression)
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// short returns the first 12 digits of a digest.
func short(d digest.Digest) string {
	if d.Validate() != nil {
		return string(d)
	}
	return d.Encoded()[:12]
}

// record makes what the store remembers of an image.
func record(c *image.Config, id, manifest digest.Digest, layers []layerstore.Layer) layerstore.Image {
	rec := layerstore.Image{
		ID: id, Manifest: manifest, Layers: slices.Clone(layers),
		Platform: image.FormatPlatform(c.Platform()), Labels: c.Config.Labels,
	}
	if c.Created != nil {
		rec.Created = *c.Created
	}
	history := c.LayerHistory()
	for i := range rec.Layers {
		if i < len(history) {
			rec.Layers[i].CreatedBy = history[i].CreatedBy
		}
		rec.Size += rec.Layers[i].TarSize
	}
	if chain := image.ChainIDs(diffIDs(layers)); len(chain) > 0 {
		rec.ChainID = chain[len(chain)-1]
	}
	return rec
}

func diffIDs(layers []layerstore.Layer) []digest.Digest {
	list := make([]digest.Digest, len(layers))
	for i := range layers {
		list[i] = layers[i].DiffID
	}
	return list
}

// layerTypes are the media types of layers by compression, docker's and
// OCI's. What neither has a type for (xz, bzip2) is told by its bytes.
var layerTypes = map[string][2]string{
	seek.None.String(): {image.MediaTypeDockerLayer, ocispec.MediaTypeImageLayer},
	seek.Gzip.String(): {image.MediaTypeDockerLayerGzip, ocispec.MediaTypeImageLayerGzip},
	seek.Zstd.String(): {image.MediaTypeDockerLayer + ".zstd", ocispec.MediaTypeImageLayerZstd},
}

// synthesize makes the manifest that a docker-archive does not have, one of
// OCI's kind: more tools read it than docker's.
func synthesize(m *archive.Image, layers []layerstore.Layer) ([]byte, error) {
	doc := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: image.MediaTypeDockerManifest,
		Config:    ocispec.Descriptor{MediaType: image.MediaTypeDockerConfig, Digest: m.Config.Desc.Digest, Size: int64(len(m.Config.Raw))},
		Layers:    []ocispec.Descriptor{},
	}
	for _, l := range layers {
		t := l.MediaType
		if t == "" {
			if t = layerTypes[l.Compression][0]; t == "" {
				t = image.MediaTypeDockerLayer
			}
		}
		doc.Layers = append(doc.Layers, ocispec.Descriptor{MediaType: t, Digest: l.Digest, Size: l.Size})
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return image.ManifestToOCI(raw, doc.MediaType)
}

// Import makes an image of one layer from a plain root filesystem tar, which
// may be compressed, and names it name if that is not empty.
func (s *Store) Import(ctx context.Context, path string, stdin io.Reader, name string, opt LoadOptions) (Loaded, error) {
	if name != "" {
		if _, err := image.ParseReference(name); err != nil {
			return Loaded{}, err
		}
	}
	if path == "-" {
		if stdin == nil {
			return Loaded{}, errors.New("no standard input")
		}
		return s.importStream(ctx, stdin, "stdin", 0, name, opt)
	}
	f, err := os.Open(path)
	if err != nil {
		return Loaded{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Loaded{}, err
	}
	if fi.IsDir() {
		return Loaded{}, fmt.Errorf("%s: a directory, want a tar", path)
	}
	loaded, err := s.importStream(ctx, f, path, fi.Size(), name, opt)
	for range maxAgain {
		if !errors.Is(err, layerstore.ErrVanished) || !fi.Mode().IsRegular() {
			break
		}
		if _, err = f.Seek(0, io.SeekStart); err == nil {
			loaded, err = s.importStream(ctx, f, path, fi.Size(), name, opt)
		}
	}
	return loaded, err
}

// importStream imports src once; size is for the bar.
func (s *Store) importStream(ctx context.Context, src io.Reader, from string, size int64, name string, opt LoadOptions) (Loaded, error) {
	stage, err := s.ls.NewStage()
	if err != nil {
		return Loaded{}, err
	}
	defer stage.Discard()
	bar := start(opt.Progress, "importing", size)
	defer bar.Close()
	in := &ctxReader{ctx: ctx, r: io.TeeReader(src, bar)}
	tar, err := importable(in)
	if err != nil {
		return Loaded{}, fmt.Errorf("%s: %w", from, err)
	}
	got, sidecar, err := stage.AddLayer(ctx, layerstore.Layer{}, tar, index.Limits{})
	if err != nil {
		return Loaded{}, fmt.Errorf("%s: %w", from, layerError(0, err))
	}
	if sidecar && opt.Warn != nil {
		opt.Warn(sidecarLine(0))
	}
	warnOdd(opt.Warn, 0, got)
	return s.importLayer(ctx, stage, got, from, name)
}

// importable returns what is kept of an imported tar: the bytes as they came
// if a layer may have such bytes, else (xz, bzip2) the tar itself.
func importable(r *ctxReader) (io.Reader, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(18)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch seek.Detect(head) {
	case seek.XZ, seek.Bzip2:
		d, _, err := seek.NewDecoder(in)
		if err != nil {
			return nil, r.blame(err)
		}
		return &blaming{d, r}, nil
	}
	return in, nil
}

// A blaming reader makes what a decoder finds wrong an image.ErrMalformed.
type blaming struct {
	dec io.Reader
	src *ctxReader
}

func (b *blaming) Read(p []byte) (int, error) {
	n, err := b.dec.Read(p)
	if err != nil && err != io.EOF {
		err = b.src.blame(err)
	}
	return n, err
}

// importLayer writes config and manifest of an imported layer and commits.
func (s *Store) importLayer(ctx context.Context, stage *layerstore.Stage, got layerstore.Layer, from, name string) (Loaded, error) {
	created := now()
	p := image.HostPlatform()
	config, err := json.Marshal(ocispec.Image{
		Created:  &created,
		Platform: ocispec.Platform{Architecture: p.Architecture, OS: p.OS, Variant: p.Variant},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{got.DiffID}},
		History:  []ocispec.History{{Created: &created, Comment: "Imported from " + from}},
	})
	if err != nil {
		return Loaded{}, err
	}
	got.MediaType = layerTypes[got.Compression][1]
	id := digest.FromBytes(config)
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: id, Size: int64(len(config))},
		Layers:    []ocispec.Descriptor{{MediaType: got.MediaType, Digest: got.Digest, Size: got.Size}},
	})
	if err != nil {
		return Loaded{}, err
	}
	parsed, err := image.ParseConfig(config)
	if err != nil {
		return Loaded{}, err
	}
	rec := record(parsed, id, digest.FromBytes(manifest), []layerstore.Layer{got})
	_, err = s.stageTree(ctx, stage, rec)
	if err := errors.Join(stage.Blob(id, config), stage.Blob(rec.Manifest, manifest), err); err != nil {
		return Loaded{}, err
	}
	ref := layerstore.Ref{Target: rec.Manifest, Images: []digest.Digest{rec.Manifest}, Since: time.Now().UTC()}
	out := Loaded{ID: id}
	ref.Name, out.Name = storedName(name)
	return out, stage.Publish([]layerstore.Ref{ref}, []layerstore.Image{rec})
}

// sourceDateEpoch is the variable of
// https://reproducible-builds.org/specs/source-date-epoch/.
const sourceDateEpoch = "SOURCE_DATE_EPOCH"

// now is the time for documents that imgfs makes: SOURCE_DATE_EPOCH if set,
// in seconds (reproducible-builds.org).
func now() time.Time {
	if n, err := strconv.ParseInt(os.Getenv(sourceDateEpoch), 10, 64); err == nil {
		return time.Unix(n, 0).UTC()
	}
	return time.Now().UTC()
}

// emptyChain names the tree of an image without layers.
const emptyChain = digest.Digest("sha256:0000000000000000000000000000000000000000000000000000000000000000")

func treeChain(rec *layerstore.Image) digest.Digest {
	if rec.ChainID == "" {
		return emptyChain
	}
	return rec.ChainID
}

// stageTree makes the tree of an image in the stage, unless it is there, and
// returns what the tree says of itself.
func (s *Store) stageTree(ctx context.Context, stage *layerstore.Stage, rec layerstore.Image) (*index.Meta, error) {
	path := s.ls.TreePath(treeChain(&rec))
	t, err := index.Open[index.NodeID](stage.Path(path))
	if err != nil {
		if err := s.mergeTree(ctx, stage, rec); err != nil {
			return nil, err
		}
		if t, err = index.Open[index.NodeID](stage.Path(path)); err != nil {
			return nil, err
		}
	}
	return t.Meta(), t.Close()
}

// mergeTree makes the tree of an image in the stage. If a table of the store
// is missing or damaged, the tables are made from their blobs first.
func (s *Store) mergeTree(ctx context.Context, stage *layerstore.Stage, rec layerstore.Image) error {
	err := s.tryMerge(ctx, stage, rec)
	if !layerstore.IsDerivedBad(err) {
		return err
	}
	for i, l := range rec.Layers {
		if path := s.ls.LayerPath(l.DiffID); stage.Path(path) != path {
			continue // just made
		}
		if err := s.ls.Rebuild(ctx, l); err != nil {
			return layerError(i, err)
		}
	}
	return layerstore.NoBlock(stage.Temp("tree"), s.tryMerge(ctx, stage, rec))
}

func (s *Store) tryMerge(ctx context.Context, stage *layerstore.Stage, rec layerstore.Image) error {
	tables := make([]*index.Layer, 0, len(rec.Layers))
	keys := make([]string, 0, len(rec.Layers))
	defer func() {
		for _, t := range tables {
			t.Close()
		}
	}()
	for i, l := range rec.Layers {
		t, err := index.Open[index.EntryID](stage.Path(s.ls.LayerPath(l.DiffID)))
		if err != nil {
			return layerError(i, err)
		}
		tables = append(tables, t)
		keys = append(keys, string(l.DiffID))
	}
	return writeTree(ctx, stage, s.ls.TreePath(treeChain(&rec)), tables, keys)
}

// writeTree merges tables to a new tree file in the stage, which will be path.
func writeTree(ctx context.Context, stage *layerstore.Stage, path string, tables []*index.Layer, keys []string) error {
	tmp := stage.Temp("tree")
	w, err := index.Create[index.NodeID](tmp)
	if err != nil {
		return err
	}
	if err := index.Guard(func() error { return unionfs.Merge(ctx, w, tables, keys) }); err != nil {
		w.Abort()
		return err
	}
	if err := layerstore.FillHoles(tmp); err != nil {
		return err
	}
	return os.Rename(tmp, stage.New(path))
}
