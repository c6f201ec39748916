// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A FieldChange is a field that the documents of two images do not have in
// common.
type FieldChange struct {
	Document string `json:"document"` // config, history or manifest
	Field    string `json:"field"`    // a JSON pointer (RFC 6901) into it
	Change   string `json:"change"`   // added, changed or deleted
	Old      any    `json:"old,omitempty"`
	New      any    `json:"new,omitempty"`
}

// Documents are the parts of an image's documents that DiffDocuments compares.
var Documents = []string{"config", "history", "manifest"}

// DiffDocuments returns how the documents of two images differ, sorted by
// field. Times and digests, which differ wherever something else does, are left
// out if semantic is true, and the order of lists of environment variables does
// not count then.
func DiffDocuments(a, b *Stack, semantic bool) ([]FieldChange, error) {
	if a.Config == nil || b.Config == nil {
		return nil, nil // a directory has none
	}
	var list []FieldChange
	old, err := documents(a)
	if err != nil {
		return nil, err
	}
	now, err := documents(b)
	if err != nil {
		return nil, err
	}
	for _, name := range Documents {
		if name == "manifest" && (semantic || a.Manifest == nil || b.Manifest == nil) {
			continue // a docker-archive has none
		}
		x, listA := old[name].([]any)
		y, listB := now[name].([]any)
		if name == "history" && listA && listB {
			list = append(list, diffHistory(x, y, semantic)...)
			continue
		}
		list = append(list, diffFields(name, flatten(old[name], semantic), flatten(now[name], semantic))...)
	}
	return list, nil
}

// diffHistory compares two histories step by step: a step that was added or
// taken away does not change those behind it. A field's pointer has the step's
// place in the later history, of one that was taken away that in the earlier.
func diffHistory(a, b []any, semantic bool) (list []FieldChange) {
	step := func(steps []any, i int) map[string]any {
		if i < 0 {
			return nil
		}
		return flatten(steps[i], semantic)
	}
	for _, p := range alignSteps(a, b) {
		at := p.b
		if at < 0 {
			at = p.a
		}
		for _, c := range diffFields("history", step(a, p.a), step(b, p.b)) {
			c.Field = "/" + strconv.Itoa(at) + c.Field
			list = append(list, c)
		}
	}
	return list
}

// A stepPair are two steps that are one, by their places; -1 is none.
type stepPair struct{ a, b int }

// maxAligned bounds the work of aligning what two histories do not have in
// common at their ends: the product of their lengths.
const maxAligned = 4 << 20

// alignSteps pairs the steps of two histories: as many as can be of those that
// did the same, in their order, and between them one by one what is left.
func alignSteps(a, b []any) (pairs []stepPair) {
	keyOf := func(step any) string {
		if m, ok := step.(map[string]any); ok {
			return fmt.Sprintln(m["created_by"], m["comment"], m["empty_layer"])
		}
		return fmt.Sprint(step)
	}
	keys := func(steps []any) []string {
		list := make([]string, len(steps))
		for i, s := range steps {
			list[i] = keyOf(s)
		}
		return list
	}
	x, y := keys(a), keys(b)
	lo := 0
	for lo < len(x) && lo < len(y) && x[lo] == y[lo] {
		pairs = append(pairs, stepPair{lo, lo})
		lo++
	}
	same := 0
	for same < len(x)-lo && same < len(y)-lo && x[len(x)-1-same] == y[len(y)-1-same] {
		same++
	}
	pairs = append(pairs, alignMiddle(x[lo:len(x)-same], y[lo:len(y)-same], lo)...)
	for i := same; i > 0; i-- {
		pairs = append(pairs, stepPair{len(x) - i, len(y) - i})
	}
	return pairs
}

// alignMiddle pairs what begins at step lo of both histories and neither ends
// nor begins alike.
func alignMiddle(x, y []string, lo int) (pairs []stepPair) {
	i, j := 0, 0
	upTo := func(hiX, hiY int) { // what is between two that are the same
		for ; i < hiX || j < hiY; i, j = min(i+1, hiX), min(j+1, hiY) {
			p := stepPair{-1, -1}
			if i < hiX {
				p.a = lo + i
			}
			if j < hiY {
				p.b = lo + j
			}
			pairs = append(pairs, p)
		}
	}
	for _, p := range commonSteps(x, y) {
		upTo(p.a, p.b)
		pairs = append(pairs, stepPair{lo + p.a, lo + p.b})
		i, j = p.a+1, p.b+1
	}
	upTo(len(x), len(y))
	return pairs
}

// commonSteps returns the longest list of steps that both have in this order;
// none if finding it were too much work.
func commonSteps(x, y []string) (pairs []stepPair) {
	if len(x)*len(y) > maxAligned {
		return nil
	}
	longest := make([][]int32, len(x)+1) // of what begins at i and j
	for i := range longest {
		longest[i] = make([]int32, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if longest[i][j] = max(longest[i+1][j], longest[i][j+1]); x[i] == y[j] {
				longest[i][j] = longest[i+1][j+1] + 1
			}
		}
	}
	for i, j := 0, 0; i < len(x) && j < len(y); {
		switch {
		case x[i] == y[j]:
			pairs = append(pairs, stepPair{i, j})
			i, j = i+1, j+1
		case longest[i+1][j] >= longest[i][j+1]:
			i++
		default:
			j++
		}
	}
	return pairs
}

// documents returns the decoded documents of an image. The history, which is
// part of the config, stands by itself.
func documents(s *Stack) (map[string]any, error) {
	docs := make(map[string]any)
	config, err := decode(s.Config)
	if err != nil {
		return nil, fmt.Errorf("%s: config: %w", s.Name, err)
	}
	if m, ok := config.(map[string]any); ok {
		docs["history"] = m["history"]
		delete(m, "history")
	}
	docs["config"] = config
	if s.Manifest != nil {
		if docs["manifest"], err = decode(s.Manifest); err != nil {
			return nil, fmt.Errorf("%s: manifest: %w", s.Name, err)
		}
	}
	return docs, nil
}

func decode(raw []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

// flatten returns the values of a document by JSON pointer.
func flatten(v any, semantic bool) map[string]any {
	fields := make(map[string]any)
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case nil:
		case map[string]any:
			for k, w := range v {
				if semantic && (k == "created" || at == "/rootfs" && k == "diff_ids") {
					continue
				}
				walk(at+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(k), w)
			}
		case []any:
			if semantic && strings.HasSuffix(at, "/Env") {
				v = slices.Clone(v)
				slices.SortFunc(v, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			}
			for i, w := range v {
				walk(at+"/"+strconv.Itoa(i), w)
			}
		default:
			fields[at] = v
		}
	}
	walk("", v)
	return fields
}

// diffFields compares two sets of fields.
func diffFields(document string, a, b map[string]any) (list []FieldChange) {
	for at, old := range a {
		now, ok := b[at]
		switch {
		case !ok:
			list = append(list, FieldChange{document, at, Removed.String(), old, nil})
		case old != now:
			list = append(list, FieldChange{document, at, Changed.String(), old, now})
		}
	}
	for at, now := range b {
		if _, ok := a[at]; !ok {
			list = append(list, FieldChange{document, at, Added.String(), nil, now})
		}
	}
	slices.SortFunc(list, func(x, y FieldChange) int { return comparePointers(x.Field, y.Field) })
	return list
}

// comparePointers compares JSON pointers, numbers in them by value.
func comparePointers(a, b string) int {
	x, y := strings.Split(a, "/"), strings.Split(b, "/")
	return slices.CompareFunc(x, y, func(s, t string) int {
		i, err1 := strconv.Atoi(s)
		j, err2 := strconv.Atoi(t)
		if err1 == nil && err2 == nil {
			return i - j
		}
		return strings.Compare(s, t)
	})
}
