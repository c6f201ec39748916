// SPDX-License-Identifier: Apache-2.0

package index

import (
	"archive/tar"
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

var update = flag.Bool("update", false, "rewrite testdata/format.hex")

// The bytes of a tiny table are those of testdata/format.hex, value by value,
// then the footer. A change here is a new version of the format.
func TestFormat(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 1, Gid: 2},
		{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{xattrPrefix + "user.a": "b"}},
		{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "d/f"},
		{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Name: WhiteoutPrefix + "gone", Typeflag: tar.TypeReg},
	} {
		h.ModTime, h.Format = time.Unix(1, 2), tar.FormatPAX
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "t")
	if _, err := Scan(&b, path, Limits{}); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	dumpFile(t, &out, path)
	hashes := filepath.Join(t.TempDir(), "h")
	if err := WriteHashes(hashes, []FileHash{{[32]byte{0: 2, 31: 3}, 1536}, {[32]byte{0: 1}, 4096}}); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&out, "content hashes")
	dumpFile(t, &out, hashes)
	golden := filepath.Join("testdata", "format.hex")
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("the format changed:\n%s\nwant\n%s", out.String(), want)
	}
}

// dumpFile writes the values of a database and its footer.
func dumpFile(t *testing.T, out *strings.Builder, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("t")).ForEach(func(k, v []byte) error {
			if k[0] == 'm' {
				fmt.Fprintf(out, "%q\n%s\n", k, bytes.TrimRight(v, " "))
				return nil
			}
			fmt.Fprintf(out, "%q\n%s", k, hex.Dump(v))
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	foot := file[len(file)-footerSize:]
	fmt.Fprintf(out, "footer without its checksum\n%s", hex.Dump(foot[:footerSize-4]))
}

// docs/format.md holds the drawing of format.go word for word.
func TestFormatIsDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "docs", "format.md"))
	if err != nil {
		t.Fatal(err)
	}
	for file, begin := range map[string]string{"format.go": "\n// A table file is", "hashes.go": "\n// A file of content hashes is"} {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, text, ok := strings.Cut(string(src), begin)
		text, _, ok2 := strings.Cut(text, "\nconst (")
		if !ok || !ok2 {
			t.Fatal(file, "has no drawing")
		}
		for line := range strings.SplitSeq(strings.TrimPrefix(begin, "\n")+text, "\n") {
			line = strings.TrimPrefix(strings.TrimPrefix(line, "//"), " ")
			line = strings.TrimPrefix(line, "\t")
			if !strings.Contains(string(doc), line) {
				t.Errorf("docs/format.md lacks %q", line)
			}
		}
	}
}
