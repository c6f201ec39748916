// SPDX-License-Identifier: Apache-2.0

package inflate

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkLayers decodes the gzip files (each of one member without a name)
// that IMGFS_GZIP names, a pattern. Each is measured alone, from memory.
func BenchmarkLayers(b *testing.B) {
	pattern := os.Getenv("IMGFS_GZIP")
	if pattern == "" {
		b.Skip("IMGFS_GZIP names no files")
	}
	names, err := filepath.Glob(pattern)
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range names {
		b.Run(strings.TrimSuffix(filepath.Base(name), ".gz"), func(b *testing.B) {
			stream, err := os.ReadFile(name)
			if err != nil {
				b.Fatal(err)
			}
			src := bytes.NewReader(stream)
			if _, err := gzip.NewReader(src); err != nil { // reads the header alone
				b.Fatal(err)
			}
			src.Seek(10, io.SeekStart)
			var d Decoder
			buf := make([]byte, Window+256<<10+Slack)
			total, blocks := 0, 0
			for b.Loop() {
				d.Reset(bytes.NewReader(stream[10:]), 10)
				total, blocks = decodeThrough(b, &d, buf)
			}
			b.SetBytes(int64(total))
			b.ReportMetric(float64(total)/float64(blocks), "B/block")
		})
	}
}

// decodeThrough decodes a stream into buf as a streaming caller does, and
// counts bytes and blocks.
func decodeThrough(b *testing.B, d *Decoder, buf []byte) (total, blocks int) {
	hist, op := Window, Window
	for {
		was := op
		var ev Event
		var err error
		op, ev, err = d.Decode(buf, hist, op, len(buf)-Slack)
		if err != nil {
			b.Fatal(err)
		}
		total += op - was
		switch ev {
		case Full:
			copy(buf, buf[op-Window:op])
			hist, op = 0, Window
		case BlockEnd:
			blocks++
		case StreamEnd:
			return total, blocks + 1
		}
	}
}
