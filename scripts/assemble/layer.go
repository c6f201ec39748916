// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"path"
	"strings"
	"time"
)

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	xattrKey = "SCHILY.xattr."
)

// A layer is a tar under construction. Its methods add one entry each and keep
// the first error, which close returns.
type layer struct {
	w   io.Writer
	tw  *tar.Writer
	err error
}

func newLayer(w io.Writer) *layer { return &layer{w: w, tw: tar.NewWriter(w)} }

func (l *layer) close() error {
	if l.err != nil {
		return l.err
	}
	return l.tw.Close()
}

// An option changes a header before it is written.
type option func(*tar.Header)

func mode(m int64) option         { return func(h *tar.Header) { h.Mode = m } }
func owner(uid, gid int) option   { return func(h *tar.Header) { h.Uid, h.Gid = uid, gid } }
func mtime(t time.Time) option    { return func(h *tar.Header) { h.ModTime, h.Format = t, tar.FormatPAX } }
func xattr(name, v string) option { return pax(xattrKey+name, v) }
func pax(key, value string) option {
	return func(h *tar.Header) {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[key] = value
	}
}

// header writes one header with the given content after it.
func (l *layer) header(h *tar.Header, content []byte, options ...option) {
	if l.err != nil {
		return
	}
	if h.ModTime.IsZero() {
		h.ModTime = epoch
	}
	for _, o := range options {
		o(h)
	}
	h.Size = int64(len(content))
	if l.err = l.tw.WriteHeader(h); l.err != nil {
		l.err = fmt.Errorf("%q: %w", h.Name, l.err)
		return
	}
	_, l.err = l.tw.Write(content)
}

func (l *layer) dir(name string, options ...option) {
	l.header(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimSuffix(name, "/") + "/", Mode: 0o755}, nil, options...)
}

func (l *layer) file(name string, content []byte, options ...option) {
	l.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content, options...)
}

func (l *layer) symlink(name, target string, options ...option) {
	l.header(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil, options...)
}

func (l *layer) link(name, target string) {
	l.header(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}, nil)
}

func (l *layer) device(name string, kind byte, major, minor int64, options ...option) {
	l.header(&tar.Header{Typeflag: kind, Name: name, Mode: 0o660, Devmajor: major, Devminor: minor}, nil, options...)
}

func (l *layer) remove(name string) {
	l.file(path.Join(path.Dir(name), whiteout+path.Base(name)), nil)
}

func (l *layer) hideBelow(dir string) { l.file(path.Join(dir, opaque), nil) }

// A span is a run of data in a sparse file.
type span struct {
	off  int64
	data []byte
}

// sparse writes a sparse file as GNU tar --sparse --format=pax does (version
// 1.0), which archive/tar reads but does not write.
func (l *layer) sparse(name string, size int64, spans ...span) {
	if l.err != nil {
		return
	}
	var body bytes.Buffer
	fmt.Fprintf(&body, "%d\n", len(spans))
	for _, s := range spans {
		fmt.Fprintf(&body, "%d\n%d\n", s.off, len(s.data))
	}
	body.Write(make([]byte, -body.Len()&511))
	for _, s := range spans {
		body.Write(s.data)
	}
	records := paxRecord("GNU.sparse.major", "1") + paxRecord("GNU.sparse.minor", "0") +
		paxRecord("GNU.sparse.name", name) + paxRecord("GNU.sparse.realsize", fmt.Sprint(size))

	if l.err = l.tw.Flush(); l.err != nil {
		return
	}
	raw := rawEntry(tar.TypeXHeader, "PaxHeaders/sparse", []byte(records))
	raw = append(raw, rawEntry(tar.TypeReg, "GNUSparseFile.0/sparse", body.Bytes())...)
	_, l.err = l.w.Write(raw)
}

// paxRecord returns one "length key=value\n" record; its length counts itself.
func paxRecord(key, value string) string {
	n := len(key) + len(value) + 3
	for len(fmt.Sprint(n))+len(key)+len(value)+3 != n {
		n = len(fmt.Sprint(n)) + len(key) + len(value) + 3
	}
	return fmt.Sprintf("%d %s=%s\n", n, key, value)
}

// rawEntry returns a ustar header and its content, padded to whole blocks.
func rawEntry(kind byte, name string, content []byte) []byte {
	h := make([]byte, 512)
	copy(h[0:100], name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00%011o\x00        ", len(content), epoch.Unix()))
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(append(h, content...), make([]byte, -len(content)&511)...)
}

// words make text that compresses about as well as programs and documents do.
var words = strings.Fields(`the of layer and a to index in offset is file for that with return as mount by on if
	err nil func int string byte size not from name directory this be at or an table read are it entry node was
	write inode which chunk tree digest block path error struct type range package import const var len append
	0x00 0x1f 42 4096 1024 /usr/lib /usr/share/doc (( )) { } == != := <- // /* */ ... ;`)

// content returns size bytes that depend on seed alone: text, or for every
// fourth seed bytes that do not compress.
func content(seed string, size int) []byte {
	h := fnv.New64a()
	io.WriteString(h, seed)
	sum := h.Sum64()
	r := rand.New(rand.NewPCG(sum, uint64(size)))
	out := make([]byte, 0, size+32)
	if sum%4 == 0 {
		for len(out) < size {
			out = binary.LittleEndian.AppendUint64(out, r.Uint64())
		}
		return out[:size]
	}
	for len(out) < size {
		out = append(out, words[min(r.IntN(len(words)), r.IntN(len(words)))]...)
		if r.IntN(9) == 0 {
			out = append(out, '\n')
		} else {
			out = append(out, ' ')
		}
	}
	return out[:size]
}
