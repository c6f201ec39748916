// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// EvidenceChange is something that is not as a report says.
type EvidenceChange struct {
	Source string        `json:"source"`
	Change string        `json:"change"` // "changed", "missing" or "added"
	Kind   string        `json:"kind"`   // of the item; "source" of the whole
	Item   string        `json:"item"`   // for people: which
	What   string        `json:"what"`   // how it differs
	Parts  []ChangedPart `json:"parts"`  // where, as far as the report knows
	Old    *EvidenceItem `json:"old,omitempty"`
	New    *EvidenceItem `json:"new,omitempty"`
}

// A ChangedPart is a range of a file that differs.
type ChangedPart struct {
	Offset int64    `json:"offset"`
	Size   int64    `json:"size"`
	In     []string `json:"in"` // what lies there, of the items of the report
}

// Title names an item for people.
func (i *EvidenceItem) Title() string {
	var words []string
	if i.Image != "" {
		words = append(words, i.Image)
	}
	if i.Platform != "" {
		words = append(words, "("+i.Platform+")")
	}
	words = append(words, i.Kind)
	switch {
	case i.Layer != nil && i.Kind == "layer":
		words = append(words, fmt.Sprint(*i.Layer))
	case i.Name != "":
		words = append(words, i.Name)
	case i.Digest != "":
		words = append(words, i.Digest)
	}
	return strings.Join(words, " ")
}

// key names an item among those of its source.
func (i *EvidenceItem) key() string {
	layer := -1
	if i.Layer != nil {
		layer = *i.Layer
	}
	offset := int64(-1)
	if i.Offset != nil {
		offset = *i.Offset
	}
	digest := i.Digest
	if i.Layer != nil || i.Name != "" {
		digest = "" // known by where it is
	}
	return fmt.Sprintf("%s\x00%s\x00%s\x00%s\x00%d\x00%d\x00%s", i.Kind, cmp.Or(i.NameBase64, i.Name), i.Image, i.Platform, layer, offset, digest)
}

// CompareEvidence calls f for what a source was found to be now and a report
// says otherwise. What the store derived is not compared.
func CompareEvidence(old, now *EvidenceSource, f func(*EvidenceChange) error) error {
	here := make(map[string][]*EvidenceItem, len(now.Items))
	for i := range now.Items {
		is := &now.Items[i]
		here[is.key()] = append(here[is.key()], is)
	}
	tell := func(change string, was, is *EvidenceItem, what string) error {
		item := was
		if item == nil {
			item = is
		}
		c := &EvidenceChange{
			Source: old.Source, Change: change, Kind: item.Kind, Item: item.Title(), What: what,
			Parts: []ChangedPart{}, Old: was, New: is,
		}
		if was != nil && is != nil {
			c.Parts = old.changedParts(was, is)
		}
		return f(c)
	}
	for i := range old.Items {
		was := &old.Items[i]
		if was.Kind == "derived" {
			continue
		}
		var is *EvidenceItem
		if same := here[was.key()]; len(same) > 0 {
			is, here[was.key()] = same[0], same[1:]
		}
		var err error
		switch {
		case is == nil || is.absent() && !was.absent():
			err = tell("missing", was, is, "it is not there any more")
		default:
			if what := was.differs(is); what != "" {
				err = tell("changed", was, is, what)
			}
		}
		if err != nil {
			return err
		}
	}
	for i := range now.Items {
		if is := &now.Items[i]; slices.Contains(here[is.key()], is) && is.Kind != "derived" {
			if err := tell("added", nil, is, "it was not there"); err != nil {
				return err
			}
		}
	}
	if old.What == "" && now.What != "" {
		return f(&EvidenceChange{Source: old.Source, Change: "changed", Kind: "source", Item: now.Path, What: now.What, Parts: []ChangedPart{}})
	}
	return nil
}

func (i *EvidenceItem) absent() bool { return i.Result == Lost || i.Result == Absent }

// differs says how now is not what was; empty if it is.
func (was *EvidenceItem) differs(now *EvidenceItem) string {
	switch {
	case was.Size != now.Size:
		return fmt.Sprintf("it had %d bytes and has %d", was.Size, now.Size)
	case was.SHA256 != now.SHA256:
		return fmt.Sprintf("its sha256 was %s and is %s", was.SHA256, cmp.Or(now.SHA256, "not to be told"))
	case was.Digest != now.Digest:
		return fmt.Sprintf("it was said to be %s, and now %s", was.Digest, now.Digest)
	case was.DiffID != now.DiffID:
		return fmt.Sprintf("its diffID was said to be %s, and now %s", was.DiffID, now.DiffID)
	case was.Tar != now.Tar || was.TarSize != now.TarSize:
		return fmt.Sprintf("its tar was %s and is %s", cmp.Or(was.Tar, "none"), cmp.Or(now.Tar, "none"))
	case was.Result != now.Result:
		return strings.TrimSuffix(fmt.Sprintf("it was %s and is %s: %s", was.Result, now.Result, now.What), ": ")
	}
	return ""
}

// changedParts returns where two states of a file differ, and which items of
// the source lie there.
func (s *EvidenceSource) changedParts(was, now *EvidenceItem) []ChangedPart {
	parts := []ChangedPart{}
	offsets, ok := was.Pieces.Changed(now.Pieces)
	if !ok {
		return parts
	}
	for _, off := range offsets {
		p := ChangedPart{Offset: off, Size: was.Pieces.Size, In: []string{}}
		if n := len(parts); n > 0 && parts[n-1].Offset+parts[n-1].Size == off {
			parts[n-1].Size += p.Size
			continue
		}
		parts = append(parts, p)
	}
	for i := range parts {
		p := &parts[i]
		p.Size = min(p.Size, max(was.Size, now.Size)-p.Offset)
		for k := range s.Items {
			if item := &s.Items[k]; item != was && s.lies(item, was, p) {
				p.In = append(p.In, item.Title())
			}
		}
	}
	return parts
}

// lies reports whether an item lies in a part of a file: the one that has all
// of the source, or a blob of its own.
func (s *EvidenceSource) lies(item, file *EvidenceItem, p *ChangedPart) bool {
	switch {
	case item.Kind == "file" || item.Kind == "derived" || s.Compression != "":
		return false
	case s.Kind != "file":
		return file.Digest != "" && item.Digest == file.Digest
	}
	return item.Offset != nil && *item.Offset < p.Offset+p.Size && *item.Offset+item.Size > p.Offset
}
