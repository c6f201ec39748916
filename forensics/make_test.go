// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"archive/tar"
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
)

// tarsOf makes the tars of layers in the words of tartest, base first and with
// bars between.
func tarsOf(t testing.TB, layers string) (tars [][]byte) {
	t.Helper()
	for text := range strings.SplitSeq(layers, " | ") {
		tars = append(tars, tartest.Tar(t, text))
	}
	return tars
}

// scanTable writes the table of a tar to path.
func scanTable(t testing.TB, b []byte, path string) {
	t.Helper()
	if _, err := index.Scan(bytes.NewReader(b), path, index.Limits{}); err != nil {
		t.Fatal(err)
	}
}

// paxTar makes a tar of names with an xattr each: name, xattr, value, …
func paxTar(t testing.TB, words ...string) []byte {
	t.Helper()
	return writeTar(t, func(w *tar.Writer) error {
		for i := 0; i < len(words); i += 3 {
			h, _ := tartest.Header(t, words[i])
			h.PAXRecords = map[string]string{"SCHILY.xattr." + words[i+1]: words[i+2]}
			if err := w.WriteHeader(h); err != nil {
				return err
			}
		}
		return nil
	})
}

// timesTar makes a tar of empty files with their times in seconds.
func timesTar(t testing.TB, files map[string]int64) []byte {
	t.Helper()
	return writeTar(t, func(w *tar.Writer) error {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			h, _ := tartest.Header(t, name)
			h.ModTime = time.Unix(files[name], 0)
			if err := w.WriteHeader(h); err != nil {
				return err
			}
		}
		return nil
	})
}

func writeTar(t testing.TB, f func(*tar.Writer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := f(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
