// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// An op is one operation with all its arguments. What it does is said where
// its kind is executed; a field that a kind does not use is zero.
type op struct {
	Kind  string
	As    int    // index into users
	At    int    // slot+1 of the directory that paths start from; 0 is the root
	P, Q  string // paths
	S     string // link target, xattr name
	V     string // xattr value
	FD    int    // slot
	FE    int    // second slot
	Off   int64  // bytes
	Off2  int64  // bytes
	Len   int64  // bytes
	Flags int
	Mode  uint32
	Dev   uint64
	UID   int
	GID   int
	ASec  int64 // atime
	ANsec int64
	MSec  int64 // mtime
	MNsec int64
	Seed  uint64 // what bytes are written, or what is chosen
}

// String prints o as one line: its kind, then the fields that are not zero.
func (o op) String() string {
	var b strings.Builder
	b.WriteString(o.Kind)
	v := reflect.ValueOf(o)
	for i := 1; i < v.NumField(); i++ {
		f := v.Field(i)
		if f.IsZero() {
			continue
		}
		name := strings.ToLower(v.Type().Field(i).Name)
		switch {
		case f.Kind() == reflect.String:
			fmt.Fprintf(&b, " %s=%q", name, f.String())
		case name == "mode":
			fmt.Fprintf(&b, " %s=%#o", name, f.Uint())
		case name == "flags":
			fmt.Fprintf(&b, " %s=%#x", name, f.Int())
		case f.CanInt():
			fmt.Fprintf(&b, " %s=%d", name, f.Int())
		default:
			fmt.Fprintf(&b, " %s=%d", name, f.Uint())
		}
	}
	return b.String()
}

// parseOp reads a line that String printed.
func parseOp(line string) (op, error) {
	var o op
	kind, rest, _ := strings.Cut(line, " ")
	o.Kind = kind
	if _, ok := execs[kind]; !ok {
		return o, fmt.Errorf("no operation %q", kind)
	}
	v := reflect.ValueOf(&o).Elem()
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
		name, after, ok := strings.Cut(rest, "=")
		if !ok {
			return o, fmt.Errorf("%q: no value", rest)
		}
		f := v.FieldByNameFunc(func(s string) bool { return s != "Kind" && strings.EqualFold(s, name) })
		if !f.IsValid() {
			return o, fmt.Errorf("no field %q", name)
		}
		if f.Kind() == reflect.String {
			quoted, err := strconv.QuotedPrefix(after)
			if err != nil {
				return o, fmt.Errorf("%s: %w", name, err)
			}
			s, _ := strconv.Unquote(quoted)
			f.SetString(s)
			rest = after[len(quoted):]
			continue
		}
		var word string
		word, rest, _ = strings.Cut(after, " ")
		if f.CanInt() {
			n, err := strconv.ParseInt(word, 0, 64)
			if err != nil {
				return o, err
			}
			f.SetInt(n)
			continue
		}
		n, err := strconv.ParseUint(word, 0, 64)
		if err != nil {
			return o, err
		}
		f.SetUint(n)
	}
	return o, nil
}
