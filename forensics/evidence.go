// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/imgfs/imgfs/internal/term"
)

// EvidenceFormat is the form of reports that this package writes and reads.
const EvidenceFormat = "imgfs-evidence-1"

// Evidence is a report of what images were found to be: every byte of them was
// read for it. Lists are never null.
type Evidence struct {
	Format  string           `json:"format"` // EvidenceFormat
	Tool    EvidenceTool     `json:"tool"`
	Command []string         `json:"command"` // as it was called
	Host    EvidenceHost     `json:"host"`
	Clock   string           `json:"clock"`   // "system"; "SOURCE_DATE_EPOCH": the times are what that says
	Started string           `json:"started"` // RFC 3339, UTC
	Ended   string           `json:"ended"`
	Sources []EvidenceSource `json:"sources"`
	Result  string           `json:"result"` // Good or Bad: whether one of the sources is
	Seal    string           `json:"seal"`   // sha256:… of all else, see SealOf
}

// EvidenceTool says what wrote a report.
type EvidenceTool struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// EvidenceHost says where and as whom it ran.
type EvidenceHost struct {
	Name      string `json:"name"`
	System    string `json:"system"` // kernel, its release and machine, as uname says
	User      string `json:"user"`
	UID       int    `json:"uid"`
	Directory string `json:"directory"`
}

// EvidenceSource is one thing that was examined: a file, a directory, or an
// image of the store.
type EvidenceSource struct {
	Source      string          `json:"source"` // as it was asked for
	Kind        string          `json:"kind"`   // "file", "directory", "store" or "engine"
	Path        string          `json:"path"`   // absolute; of "store" the store's root
	Format      string          `json:"format,omitempty"`
	Compression string          `json:"compression,omitempty"` // of a file as a whole: offsets are then in what it holds
	Times       *EvidenceTimes  `json:"times,omitempty"`       // of a file or directory
	Images      []EvidenceImage `json:"images"`
	Items       []EvidenceItem  `json:"items"`
	Result      string          `json:"result"`
	What        string          `json:"what,omitempty"` // why it could not be read as images
}

// EvidenceTimes are the times of a file, before it was read.
type EvidenceTimes struct {
	Modified string   `json:"modified"` // RFC 3339, UTC
	Changed  string   `json:"changed"`
	Accessed string   `json:"accessed"`
	Touched  []string `json:"touched"` // of "modified", "changed", "accessed", "size": what is another since
}

// EvidenceImage is an image of a source.
type EvidenceImage struct {
	Names    []string `json:"names"`
	Platform string   `json:"platform,omitempty"`
	ID       string   `json:"id,omitempty"`       // digest of the config
	Manifest string   `json:"manifest,omitempty"` // digest; a docker-archive has none
	Layers   []string `json:"layers"`             // diffIDs, base first
	What     string   `json:"what,omitempty"`     // why it cannot be used
}

// The results of items, sources and reports.
const (
	Good   = "good"   // it is what its digests say
	Bad    = "bad"    // it is not, or cannot be read
	Lost   = "lost"   // it must be there and is not; the source is bad then
	Absent = "absent" // it is not there and need not be: an image for another platform, a foreign layer
	Noted  = "noted"  // nothing says what it must be
)

// EvidenceItem is one thing that was read.
type EvidenceItem struct {
	// Kind is "file": of the host; "member": of a tar; "index", "manifest",
	// "config", "layer": of an image; "derived": that the store made of them.
	Kind       string `json:"kind"`
	Name       string `json:"name,omitempty"` // of a file below the source's path, of a member
	NameBase64 string `json:"name_base64,omitempty"`
	Image      string `json:"image,omitempty"` // name, or short id
	Platform   string `json:"platform,omitempty"`
	Layer      *int   `json:"layer,omitempty"`  // 0 is the base
	Offset     *int64 `json:"offset,omitempty"` // in the file
	Size       int64  `json:"size"`             // bytes
	Digest     string `json:"digest,omitempty"` // that it must have
	SHA256     string `json:"sha256,omitempty"` // that it has, in hex

	DiffID  string `json:"diffid,omitempty"`   // of a layer: that its tar must have
	TarSize int64  `json:"tar_size,omitempty"` // bytes, uncompressed
	Tar     string `json:"tar,omitempty"`      // digest that its tar has

	Result   string         `json:"result"`
	What     string         `json:"what,omitempty"`     // what is wrong
	Damage   []DamagedPart  `json:"damage,omitempty"`   // where, as far as the store knows
	Oddities map[string]int `json:"oddities,omitempty"` // by the rows of docs/semantics.md; lint tells more
	Pieces   *Pieces        `json:"pieces,omitempty"`   // of a file of more than one piece
}

// A DamagedPart is a range of a layer's uncompressed tar that is not what it
// was when the layer was verified.
type DamagedPart struct {
	Offset int64    `json:"offset"`
	Size   int64    `json:"size"`
	Paths  []string `json:"paths"` // of the files in it, the first of them
}

// Pieces are the hashes of a file's parts, all of one size but the last, by
// which damage is found later.
type Pieces struct {
	Size   int64    `json:"size"`   // bytes
	SHA256 []string `json:"sha256"` // in hex
}

const (
	leastPiece = 1 << 20
	mostPieces = 4096
)

// PieceSize returns how large the pieces are of a file of size bytes.
func PieceSize(size int64) int64 {
	piece := int64(leastPiece)
	for size/piece > mostPieces {
		piece *= 2
	}
	return piece
}

// Changed returns the ranges in which a file does not have the pieces any more
// that it had; ok is false if that cannot be told.
func (p *Pieces) Changed(now *Pieces) (offsets []int64, ok bool) {
	if p == nil || now == nil || p.Size != now.Size {
		return nil, false
	}
	for i := range max(len(p.SHA256), len(now.SHA256)) {
		if i >= len(p.SHA256) || i >= len(now.SHA256) || p.SHA256[i] != now.SHA256[i] {
			offsets = append(offsets, int64(i)*p.Size)
		}
	}
	return offsets, true
}

// Count returns how many items are good, and how many bad or lost.
func (e *Evidence) Count() (good, bad int) {
	for i := range e.Sources {
		for k := range e.Sources[i].Items {
			switch e.Sources[i].Items[k].Result {
			case Good:
				good++
			case Bad, Lost:
				bad++
			}
		}
	}
	return good, bad
}

// Finish sets the results and the seal, which makes e a report.
func (e *Evidence) Finish() (err error) {
	e.Format, e.Seal, e.Result = EvidenceFormat, "", Good
	for i := range e.Sources {
		s := &e.Sources[i]
		s.Result = Good
		isBad := func(i EvidenceItem) bool { return i.Result == Bad || i.Result == Lost }
		if s.What != "" || slices.ContainsFunc(s.Items, isBad) {
			s.Result, e.Result = Bad, Bad
		}
	}
	raw, err := json.Marshal(e)
	if err == nil {
		e.Seal, err = SealOf(raw)
	}
	return err
}

// Write writes the report as JSON.
func (e *Evidence) Write(w io.Writer) error { return term.JSON(w, e, " ") }

var (
	// ErrNotEvidence marks what is no report.
	ErrNotEvidence = errors.New("not a report of verify --evidence")
	// ErrSeal marks a report that is not what was sealed.
	ErrSeal = errors.New("the seal does not hold")
)

// MaxEvidence bounds a report, in bytes.
const MaxEvidence = 256 << 20

// ReadEvidence reads a report. The error is ErrNotEvidence, or ErrSeal with a
// report that says what it says.
func ReadEvidence(raw []byte) (*Evidence, error) {
	seal, err := SealOf(raw)
	if err != nil {
		return nil, err
	}
	e := new(Evidence)
	if err := json.Unmarshal(raw, e); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotEvidence, err)
	}
	if e.Format != EvidenceFormat {
		return nil, fmt.Errorf("%w: its format is %.40q, want %q", ErrNotEvidence, e.Format, EvidenceFormat)
	}
	if e.Seal != seal {
		return e, fmt.Errorf("%w: it says %.80q, the bytes have %s", ErrSeal, e.Seal, seal)
	}
	return e, nil
}

// SealOf returns the seal of a report: sha256: and, in hex, the sha256 of the
// JSON without its field "seal" in the canonical form of RFC 8785, of which
// "jq -cSj 'del(.seal)'" writes what a report needs. The error is
// ErrNotEvidence: it is no JSON object, says a thing twice, or has a number
// with a fraction.
func SealOf(raw []byte) (string, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := decodeStrictly(d, 0)
	if err == nil {
		if _, end := d.Token(); end != io.EOF {
			err = errors.New("more than one value")
		}
	}
	fields, ok := v.(map[string]any)
	if err == nil && !ok {
		err = errors.New("no object")
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotEvidence, err)
	}
	delete(fields, "seal")
	sum := sha256.Sum256(appendCanonical(nil, fields))
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// maxDepth bounds how deep a report nests.
const maxDepth = 16

// decodeStrictly reads a value in which no object has a field twice: programs
// differ in which they take.
func decodeStrictly(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("deeper than %d", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '[' {
			return decodeList(d, depth)
		}
		return decodeObject(d, depth)
	case json.Number:
		if _, err := strconv.ParseInt(t.String(), 10, 64); err != nil {
			return nil, fmt.Errorf("number %.40q", t)
		}
	}
	return t, nil
}

func decodeList(d *json.Decoder, depth int) (any, error) {
	list := []any{}
	for d.More() {
		v, err := decodeStrictly(d, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.Token()
	return list, err
}

func decodeObject(d *json.Decoder, depth int) (any, error) {
	fields := make(map[string]any)
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string) // the decoder lets nothing else pass
		if _, twice := fields[name]; twice {
			return nil, fmt.Errorf("field %.40q is there twice", name)
		}
		if fields[name], err = decodeStrictly(d, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return fields, err
}

// appendCanonical appends v as RFC 8785 writes it: fields in the order of their
// names, no white space, and of characters only those escaped that must be.
func appendCanonical(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case json.Number:
		return append(b, v...)
	case string:
		return appendString(b, v)
	case []any:
		b = append(b, '[')
		for i, w := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendCanonical(b, w)
		}
		return append(b, ']')
	}
	b = append(b, '{')
	fields := v.(map[string]any)
	for i, name := range slices.Sorted(maps.Keys(fields)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, name), ':')
		b = appendCanonical(b, fields[name])
	}
	return append(b, '}')
}

func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, `\b`...)
		case '\t':
			b = append(b, `\t`...)
		case '\n':
			b = append(b, `\n`...)
		case '\f':
			b = append(b, `\f`...)
		case '\r':
			b = append(b, `\r`...)
		default:
			if c < ' ' {
				b = fmt.Appendf(b, `\u%04x`, c)
			} else {
				b = append(b, c)
			}
		}
	}
	return append(b, '"')
}
