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
		x, y := flatten(name, old[name], semantic), flatten(name, now[name], semantic)
		list = append(list, diffFields(name, x, y)...)
	}
	return list, nil
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
func flatten(name string, v any, semantic bool) map[string]any {
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
