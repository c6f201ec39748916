// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/engine"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/control/mtab"
	"github.com/imgfs/imgfs/internal/twosum"
	"github.com/imgfs/imgfs/layerstore"
)

// EvidenceOptions say what stands in a report beside what was found. The zero
// value works.
type EvidenceOptions struct {
	Tool     forensics.EvidenceTool
	Command  []string
	Progress Progress
}

// Evidence reads every byte of what args name, an image of the store, a file or
// an OCI layout each, and returns a sealed report of what it is. What is
// damaged stands in the report; the error is about other things, and
// image.ErrNotFound or fs.ErrNotExist if there is nothing to read. Nothing is
// written but to files of the store that go again.
func (s *Store) Evidence(ctx context.Context, args []string, opt EvidenceOptions) (*forensics.Evidence, error) {
	e := &forensics.Evidence{Tool: opt.Tool, Command: append([]string{}, opt.Command...), Host: thisHost(), Clock: "system", Started: nowText()}
	if _, err := strconv.ParseInt(os.Getenv(sourceDateEpoch), 10, 64); err == nil { // as now reads it
		e.Clock = sourceDateEpoch
	}
	for _, arg := range args {
		src, err := s.evidenceOf(ctx, arg, opt)
		if err != nil {
			return nil, about(arg, err)
		}
		e.Sources = append(e.Sources, *src)
	}
	e.Ended = nowText()
	return e, e.Finish()
}

func nowText() string { return now().Format(time.RFC3339) }

// thisHost says where and as whom the program runs.
func thisHost() forensics.EvidenceHost {
	h := forensics.EvidenceHost{UID: os.Getuid()}
	h.Name, _ = os.Hostname() // what cannot be told is left out
	h.Directory, _ = os.Getwd()
	if u, err := user.Current(); err == nil {
		h.User = u.Username
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		text := func(b []byte) string { return string(b[:max(0, bytes.IndexByte(b, 0))]) }
		h.System = strings.Join([]string{text(name.Sysname[:]), text(name.Release[:]), text(name.Version[:]), text(name.Machine[:])}, " ")
	}
	return h
}

// evidenceOf reads one argument.
func (s *Store) evidenceOf(ctx context.Context, arg string, opt EvidenceOptions) (*forensics.EvidenceSource, error) {
	if err := wholeImage(arg); err != nil {
		return nil, err
	}
	if l, ok := s.inEngine(arg); ok {
		x := s.newExaminer(arg, opt)
		return x.end(x.inEngine(ctx, l))
	}
	if !isPath(arg) {
		x := s.newExaminer(arg, opt)
		err := x.stored(ctx, arg)
		if !errors.Is(err, image.ErrNotFound) || !onDisk(arg) {
			return x.end(err)
		}
	}
	x := s.newExaminer(arg, opt)
	return x.end(x.onDisk(ctx, arg))
}

// wholeImage refuses what is less than an image, or shows one in another way.
func wholeImage(arg string) error {
	src, path := SplitArg(arg)
	whole, which := cutSelector(src)
	place, err := mtab.Locate(src)
	switch {
	case strings.HasPrefix(arg, "upper:"), strings.HasPrefix(arg, "dir:"):
		return optionError{errors.New("images and files are verified, not changes and directories")}
	case path != "" || which != "":
		return optionError{fmt.Errorf("a part of an image cannot be verified: say %s", whole)}
	case onDisk(src) && err == nil && place.IsOurs():
		return optionError{errors.New("it is a mount: its image is verified by its name or file (imgfs mounts)")}
	}
	return nil
}

// An examiner reads one source.
type examiner struct {
	s    *Store
	opt  EvidenceOptions
	src  *forensics.EvidenceSource
	seen map[string]bool // what is read once though several images have it

	group *errgroup.Group
	tasks []*task
}

// A task fills items of the report, beside others.
type task struct{ items []forensics.EvidenceItem }

func (s *Store) newExaminer(arg string, opt EvidenceOptions) *examiner {
	x := &examiner{s: s, opt: opt, seen: make(map[string]bool), group: new(errgroup.Group)}
	x.group.SetLimit(max(2, runtime.NumCPU()))
	x.src = &forensics.EvidenceSource{Source: arg, Images: []forensics.EvidenceImage{}, Items: []forensics.EvidenceItem{}}
	return x
}

// add puts an item where it belongs in the report, and has fill find out the
// rest of it.
func (x *examiner) add(item forensics.EvidenceItem, fill func(t *task) error) {
	t := &task{items: []forensics.EvidenceItem{item}}
	x.tasks = append(x.tasks, t)
	if fill != nil {
		x.group.Go(func() error { return fill(t) })
	}
}

// wait waits for all tasks. It returns err, or if that is nil their first error.
func (x *examiner) wait(err error) error {
	if first := x.group.Wait(); err == nil {
		err = first
	}
	return err
}

// end returns the source with all items.
func (x *examiner) end(err error) (*forensics.EvidenceSource, error) {
	err = x.wait(err)
	for _, t := range x.tasks {
		x.src.Items = append(x.src.Items, t.items...)
	}
	return x.src, err
}

// once reports whether it is called for the first time with these words.
func (x *examiner) once(words ...any) bool {
	key := fmt.Sprintln(words...)
	was := x.seen[key]
	x.seen[key] = true
	return !was
}

// stored reads an image of the store.
func (x *examiner) stored(ctx context.Context, arg string) error {
	if err := x.s.ls.Check(); err != nil {
		return err
	}
	c, err := x.s.ls.Catalog()
	if err != nil {
		return err
	}
	v := &verifier{s: x.s, c: c, needs: make(map[digest.Digest]*need)}
	defer v.release()
	if err := v.choose([]string{arg}); err != nil {
		return err
	}
	x.src.Kind, x.src.Path = "store", x.s.Root()
	for i := range v.images {
		rec := &v.images[i]
		img := forensics.EvidenceImage{Names: []string{}, Platform: rec.Platform, ID: string(rec.ID), Manifest: string(rec.Manifest), Layers: []string{}}
		for _, key := range c.Names(rec) {
			if _, name := storedName(c.Refs[key].Name); name != "" {
				img.Names = append(img.Names, name)
			}
		}
		for _, l := range rec.Layers {
			img.Layers = append(img.Layers, string(l.DiffID))
		}
		x.src.Images = append(x.src.Images, img)
	}
	for _, d := range sortedNeeds(v.needs) {
		x.storedBlob(ctx, d, v.needs[d])
	}
	if err := x.wait(nil); err != nil { // trees are made of tables
		return err
	}
	for i := range v.images {
		x.storedTree(ctx, &v.images[i], v.needs[v.images[i].Manifest].images)
	}
	return x.wait(nil) // before the leases end
}

// sortedNeeds returns documents, then layers from the base up.
func sortedNeeds(needs map[digest.Digest]*need) (list []digest.Digest) {
	for d := range needs {
		list = append(list, d)
	}
	order := []string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig}
	rank := func(n *need) int {
		if n.rec != nil {
			return len(order)
		}
		return slices.Index(order, n.desc.MediaType)
	}
	slices.SortFunc(list, func(a, b digest.Digest) int {
		x, y := needs[a], needs[b]
		return cmp.Or(cmp.Compare(rank(x), rank(y)), slices.Compare(x.images, y.images), cmp.Compare(x.layer, y.layer), cmp.Compare(a, b))
	})
	return list
}

// storedBlob reads a blob of the store and, of a layer, what is derived of it.
func (x *examiner) storedBlob(ctx context.Context, d digest.Digest, n *need) {
	item := forensics.EvidenceItem{
		Name: "blobs/" + d.Algorithm().String() + "/" + d.Encoded(), Image: first(n.images), Digest: string(d),
		Kind: map[string]string{
			ocispec.MediaTypeImageIndex: "index", ocispec.MediaTypeImageManifest: "manifest", ocispec.MediaTypeImageConfig: "config",
		}[n.desc.MediaType],
	}
	if n.rec != nil {
		layer := n.layer - 1
		item.Kind, item.Layer, item.DiffID = "layer", &layer, string(n.rec.DiffID)
	}
	x.add(item, func(t *task) error {
		item := &t.items[0]
		f, size, err := x.s.ls.OpenBlob(d)
		if errors.Is(err, layerstore.ErrNoBlob) {
			item.Result, item.What = forensics.Lost, "it is lost"
			return nil
		}
		if err != nil {
			item.Result, item.What = forensics.Bad, err.Error()
			return nil
		}
		defer f.Close() // it was only read
		blob := io.NewSectionReader(f, 0, size)
		if err := x.sum(ctx, item, blob, true); err != nil || n.rec == nil {
			return err
		}
		return x.layer(ctx, t, *n.rec, blob, x.s.ls.KeptOf(*n.rec))
	})
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// storedTree compares the tree of an image with the one that its tables make.
func (x *examiner) storedTree(ctx context.Context, rec *layerstore.Image, names []string) {
	path := x.s.ls.TreePath(treeChain(rec))
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) || !x.once("tree", path) {
		return // it is made at the next need
	}
	x.add(forensics.EvidenceItem{Kind: "derived", Image: first(names)}, func(t *task) error {
		stage, err := x.s.ls.NewStage()
		if err != nil {
			return err
		}
		defer stage.Discard()
		err = x.s.tryMerge(ctx, stage, *rec)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		list := x.s.ls.CompareTree(path, stage.Path(path))
		if err != nil {
			list = []layerstore.Derived{{Path: path, Err: fmt.Errorf("it cannot be made anew: %w", err)}}
		}
		t.items = derivedItems(&t.items[0], list)
		return nil
	})
}

// derivedItems returns items for files of the store that belong to what of is
// about.
func derivedItems(of *forensics.EvidenceItem, list []layerstore.Derived) (items []forensics.EvidenceItem) {
	for _, d := range list {
		item := forensics.EvidenceItem{Kind: "derived", Name: d.Path, Image: of.Image, Platform: of.Platform, Layer: of.Layer, Size: d.Size, Result: forensics.Good}
		if d.Err != nil {
			item.Result, item.What = forensics.Bad, d.Err.Error()
		}
		items = append(items, item)
	}
	return items
}

// sum reads r whole, and says in item how large it is, what its sha256 is, and
// whether that is what its digest says. With pieces it keeps the hashes of its
// parts. What cannot be read is bad; the error is that of the context.
func (x *examiner) sum(ctx context.Context, item *forensics.EvidenceItem, r *io.SectionReader, pieces bool) error {
	item.Size = r.Size()
	bar := x.start("reading ", item, r.Size())
	defer bar.Close()
	whole, parts, err := sumPieces(&ctxReader{ctx: ctx, r: io.TeeReader(io.NewSectionReader(r, 0, r.Size()), bar)}, r.Size())
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		item.Result, item.What = forensics.Bad, "it cannot be read: "+err.Error()
		return nil
	}
	item.SHA256 = whole
	if pieces && len(parts.SHA256) > 1 {
		item.Pieces = parts
	}
	want := digest.Digest(item.Digest)
	switch got, err := digestOf(ctx, want, whole, r); {
	case ctx.Err() != nil:
		return ctx.Err()
	case want == "":
		item.Result = forensics.Noted
	case err != nil:
		item.Result, item.What = forensics.Bad, err.Error()
	case got != want:
		item.Result, item.What = forensics.Bad, "its bytes are "+string(got)
	default:
		item.Result = forensics.Good
	}
	return nil
}

// start begins a bar for what takes long.
func (x *examiner) start(what string, item *forensics.EvidenceItem, size int64) io.WriteCloser {
	const long = 16 << 20
	if size < long {
		return silent{}
	}
	return start(x.opt.Progress, what+item.Title(), size)
}

// digestOf returns the digest of r, by the algorithm of want; its sha256 is
// known.
func digestOf(ctx context.Context, want digest.Digest, sum string, r *io.SectionReader) (digest.Digest, error) {
	if want == "" {
		return "", nil
	}
	if err := want.Validate(); err != nil {
		return "", err
	}
	if want.Algorithm() == digest.SHA256 {
		return digest.NewDigestFromEncoded(digest.SHA256, sum), nil
	}
	h := want.Algorithm().Hash()
	_, err := io.Copy(h, &ctxReader{ctx: ctx, r: io.NewSectionReader(r, 0, r.Size())})
	return digest.NewDigest(want.Algorithm(), h), err
}

// sumPieces returns the sha256 of size bytes of r, in hex, and those of their
// pieces.
func sumPieces(r io.Reader, size int64) (string, *forensics.Pieces, error) {
	p := &forensics.Pieces{Size: forensics.PieceSize(size), SHA256: []string{}}
	var whole, piece twosum.Digest
	whole.Reset()
	buf := make([]byte, 256<<10)
	for done := int64(0); done < size; {
		piece.Reset()
		for end := min(done+p.Size, size); done < end; {
			n, err := io.ReadFull(r, buf[:min(int64(len(buf)), end-done)])
			if err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return "", nil, fmt.Errorf("at %d: %w", done+int64(n), err)
			}
			twosum.Both(&whole, buf[:n], &piece, buf[:n])
			done += int64(n)
		}
		sum := piece.Sum()
		p.SHA256 = append(p.SHA256, hex.EncodeToString(sum[:]))
	}
	sum := whole.Sum()
	return hex.EncodeToString(sum[:]), p, nil
}

// layer decodes the layer want, whose blob was read before, and says in the
// item of t what its tar is; items for what is derived of it follow.
func (x *examiner) layer(ctx context.Context, t *task, want layerstore.Layer, blob *io.SectionReader, kept *layerstore.Kept) error {
	item := &t.items[0]
	r, err := x.s.ls.Reread(ctx, want, blob, kept)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case x.isOurs(err):
		return err
	case err != nil:
		what := err.Error()
		if item.What != "" {
			what = item.What + "; " + what
		}
		item.Result, item.What = forensics.Bad, what
	case item.Digest == "": // its diffID is all that is known of it
		item.Result = forensics.Good
	}
	if r != nil {
		item.Tar, item.TarSize = string(r.Layer.DiffID), r.Layer.TarSize
		item.Oddities = countOddities(r)
		t.items = append(t.items, derivedItems(item, r.Derived)...)
		item = &t.items[0]
	}
	if item.Result == forensics.Bad && kept != nil {
		item.Damage = damagedParts(ctx, kept)
	}
	return ctx.Err()
}

// isOurs reports whether err is about the store, but for its blobs: about what
// was to be written, not about what is examined.
func (x *examiner) isOurs(err error) bool {
	var p *fs.PathError
	root := x.s.Root()
	return errors.As(err, &p) && (p.Path == root || strings.HasPrefix(p.Path, root+"/")) && !strings.HasPrefix(p.Path, filepath.Join(root, "blobs")+"/")
}

// countOddities counts what a layer holds by rule.
func countOddities(r *layerstore.Reread) map[string]int {
	count := make(map[string]int)
	for _, o := range blobOddities(r.Layer) {
		count[o.Rule]++
	}
	for _, o := range r.Meta.Oddities {
		count[o.Rule]++
	}
	if more := r.Meta.Odd - len(r.Meta.Oddities); more > 0 {
		count["D1"] += more
	}
	return count
}

// mostDamaged bounds how many files are named of a damaged part.
const mostDamaged = 20

// damagedParts returns where a layer is damaged, and the files there.
func damagedParts(ctx context.Context, kept *layerstore.Kept) (parts []forensics.DamagedPart) {
	for _, s := range kept.Damage(ctx) {
		parts = append(parts, forensics.DamagedPart{Offset: s.Lo, Size: s.Hi - s.Lo, Paths: []string{}})
	}
	t, err := kept.OpenTable()
	if len(parts) == 0 || err != nil {
		return parts
	}
	defer t.Close() // it was only read
	// An error of a damaged table leaves names out.
	_ = index.Guard(func() error {
		return forensics.TreeOfLayer(t, nil, 0).Walk(ctx, func(e *forensics.Entry) error {
			for i := range parts {
				p := &parts[i]
				lies := e.Header >= 0 && e.Header < p.Offset+p.Size && e.Header+512+e.Size > p.Offset
				if lies && len(p.Paths) < mostDamaged {
					p.Paths = append(p.Paths, "/"+e.Path)
				}
			}
			return nil
		})
	})
	return parts
}

// CheckEvidence reads again what a report is about and calls f for what is not
// as it says. args, if there are any, are looked at in place of the report's
// sources, one for each. The error is not about that.
func (s *Store) CheckEvidence(ctx context.Context, old *forensics.Evidence, args []string, opt EvidenceOptions, f func(*forensics.EvidenceChange) error) error {
	if len(args) > 0 && len(args) != len(old.Sources) {
		return optionError{fmt.Errorf("the report is about %d, and %d are named", len(old.Sources), len(args))}
	}
	for i := range old.Sources {
		was := &old.Sources[i]
		arg := was.Path
		if was.Kind == "store" {
			arg = was.Source
		}
		if len(args) > 0 {
			arg = args[i]
		}
		var now *forensics.EvidenceSource
		var err error
		switch {
		case was.Kind == "store" || len(args) > 0:
			now, err = s.evidenceOf(ctx, arg, opt)
		case was.Kind == "file" || was.Kind == "directory":
			if !filepath.IsAbs(arg) {
				return fmt.Errorf("%w: %q is not absolute", forensics.ErrNotEvidence, arg)
			}
			x := s.newExaminer(arg, opt)
			now, err = x.end(x.onDisk(ctx, arg))
		case was.Kind == "engine":
			l, ok := engine.Parse(arg, isDir)
			if !ok || !filepath.IsAbs(l.Root) {
				return fmt.Errorf("%w: %q is no store of an engine", forensics.ErrNotEvidence, arg)
			}
			x := s.newExaminer(arg, opt)
			now, err = x.end(x.inEngine(ctx, l))
		default:
			return fmt.Errorf("%w: a source of kind %.40q", forensics.ErrNotEvidence, was.Kind)
		}
		switch {
		case errors.Is(err, image.ErrNotFound), errors.Is(err, fs.ErrNotExist):
			err = f(&forensics.EvidenceChange{
				Source: was.Source, Change: "missing", Kind: "source", Item: arg, What: "it is not there any more",
				Parts: []forensics.ChangedPart{},
			})
		case err == nil:
			err = forensics.CompareEvidence(was, now, f)
		}
		if err != nil {
			return about(arg, err)
		}
	}
	return nil
}
