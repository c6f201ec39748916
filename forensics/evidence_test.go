// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// aReport is a report with something of each kind in it.
func aReport(t testing.TB) *Evidence {
	t.Helper()
	layer, off := 1, int64(1536)
	e := &Evidence{
		Tool: EvidenceTool{Name: "imgfs", Version: "1"}, Command: []string{"imgfs", "a b\t\"\\<&>é\u2028\x01"},
		Started: "2024-01-02T03:04:05Z", Ended: "2024-01-02T03:04:06Z", Clock: "system",
		Sources: []EvidenceSource{{
			Source: "./x.tar", Kind: "file", Path: "/x.tar", Times: &EvidenceTimes{Touched: []string{}},
			Images: []EvidenceImage{{Names: []string{"x:1"}, Layers: []string{}}},
			Items: []EvidenceItem{
				{Kind: "file", Size: 3 << 20, SHA256: "aa", Result: Noted, Pieces: &Pieces{Size: 1 << 20, SHA256: []string{"1", "2", "3"}}},
				{Kind: "member", Name: "a", Offset: &off, Size: 1 << 20, SHA256: "bb", Result: Good},
				{Kind: "layer", Image: "x:1", Layer: &layer, Offset: &off, Size: 1 << 20, Digest: "sha256:bb", SHA256: "bb", Result: Good,
					Oddities: map[string]int{"W14": 2, "C2": 1}},
				{Kind: "derived", Name: "index/x", Result: Good},
			},
		}},
	}
	if err := e.Finish(); err != nil {
		t.Fatal(err)
	}
	return e
}

func written(t testing.TB, e *Evidence) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := e.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A report is read as it was written, and its seal does not hold any more when a
// bit of what it says is another.
func TestSeal(t *testing.T) {
	e := aReport(t)
	raw := written(t, e)
	back, err := ReadEvidence(raw)
	if err != nil || back.Seal != e.Seal || e.Result != Good {
		t.Fatalf("%v, seal %s, want %s", err, back.Seal, e.Seal)
	}
	// How it is laid out does not matter.
	var other bytes.Buffer
	if err := json.Compact(&other, raw); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadEvidence(other.Bytes()); err != nil {
		t.Error(err)
	}
	caught := 0
	for i := range raw {
		tampered := bytes.Clone(raw)
		tampered[i] ^= 1
		got, err := ReadEvidence(tampered)
		switch {
		case err == nil && !bytes.Contains(raw[max(0, i-1):i+2], []byte("\n")) && raw[i] != ' ' && !inEscape(raw, i):
			t.Errorf("byte %d, %q, is another, and the seal holds", i, raw[max(0, i-20):i+1])
		case errors.Is(err, ErrSeal) && got == nil:
			t.Errorf("byte %d: no report beside the error", i)
		case err != nil:
			caught++
		}
	}
	if caught < len(raw)*8/10 {
		t.Errorf("%d of %d bytes were missed", caught, len(raw))
	}
}

// inEscape reports whether byte i is of an escape in JSON that means the same
// in another case: of \u003c and \u003C.
func inEscape(raw []byte, i int) bool { return bytes.Contains(raw[max(0, i-5):i+1], []byte(`\u`)) }

func TestNoEvidence(t *testing.T) {
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	for _, raw := range []string{
		"", "{}", "[]", "null", "1", `{"format":"x"}`, `{"a":1,"a":2}`, `{"a":1.5}`, `{"a":1e3}`, `{"a":99999999999999999999}`, `{"a":` + deep + `}`,
		`{"a":1} {}`, `{"a":1`, `{"format":"` + EvidenceFormat + `","sources":1}`, "\xff\xfe",
	} {
		if e, err := ReadEvidence([]byte(raw)); !errors.Is(err, ErrNotEvidence) || e != nil {
			t.Errorf("%.40q: %v", raw, err)
		}
	}
}

// The seal is what jq and sha256sum make of a report.
func TestSealAgainstJq(t *testing.T) {
	if _, err := exec.LookPath("jq"); err != nil {
		if os.Getenv("IMGFS_TEST_NOSKIP") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	e := aReport(t)
	jq := exec.Command("jq", "-cSj", "del(.seal)")
	jq.Stdin = bytes.NewReader(written(t, e))
	out, err := jq.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("sha256:%x", sha256.Sum256(out)); got != e.Seal {
		t.Errorf("jq makes %s of it, the report says %s\n%s", got, e.Seal, out)
	}
}

// The form of reports is pinned: a seal is checked years later.
func TestSealGolden(t *testing.T) {
	raw := `{"z":[],"a":"é\u2028\"\\\n\u0001<","format":"` + EvidenceFormat + `","seal":"x","n":-12}`
	canonical := "{\"a\":\"é\u2028\\\"\\\\\\n\\u0001<\",\"format\":\"" + EvidenceFormat + "\",\"n\":-12,\"z\":[]}"
	got, err := SealOf([]byte(raw))
	if want := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(canonical))); err != nil || got != want {
		t.Errorf("got %s %v, want %s of %s", got, err, want, canonical)
	}
}

func TestCompareEvidence(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(s *EvidenceSource)
		want   []string
	}{
		{"nothing", func(s *EvidenceSource) {}, nil},
		{"what the store derived", func(s *EvidenceSource) { s.Items = s.Items[:3] }, nil},
		{"bytes", func(s *EvidenceSource) {
			s.Items[0].SHA256, s.Items[0].Pieces = "cc", &Pieces{Size: 1 << 20, SHA256: []string{"1", "x", "3"}}
		}, []string{"changed file [1048576+1048576 member a, x:1 layer 1]"}},
		{"two pieces, side by side", func(s *EvidenceSource) {
			s.Items[0].SHA256, s.Items[0].Pieces = "cc", &Pieces{Size: 1 << 20, SHA256: []string{"1", "x", "y"}}
		}, []string{"changed file [1048576+2097152 member a, x:1 layer 1]"}},
		{"a layer is bad now", func(s *EvidenceSource) { s.Items[2].Result, s.Items[2].Tar = Bad, "x" }, []string{"changed layer []"}},
		{"gone", func(s *EvidenceSource) { s.Items = slices.Delete(s.Items, 1, 2) }, []string{"missing member []"}},
		{"lost", func(s *EvidenceSource) { s.Items[2].Result = Lost }, []string{"missing layer []"}},
		{"another one", func(s *EvidenceSource) { s.Items = append(s.Items, EvidenceItem{Kind: "member", Name: "b"}) }, []string{"added member []"}},
		{"no image any more", func(s *EvidenceSource) { s.What = "not a tar" }, []string{"changed source []"}},
	} {
		old, now := aReport(t).Sources[0], aReport(t).Sources[0]
		tt.change(&now)
		var got []string
		err := CompareEvidence(&old, &now, func(c *EvidenceChange) error {
			var parts []string
			for _, p := range c.Parts {
				parts = append(parts, fmt.Sprintf("%d+%d %s", p.Offset, p.Size, strings.Join(p.In, ", ")))
			}
			got = append(got, fmt.Sprintf("%s %s [%s]", c.Change, c.Kind, strings.Join(parts, "; ")))
			return nil
		})
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v\n got %q\nwant %q", tt.name, err, got, tt.want)
		}
	}
}

func TestPieceSize(t *testing.T) {
	for _, size := range []int64{0, 1, 1 << 20, 1<<32 + 1, 1 << 50} {
		if n := size / PieceSize(size); n > mostPieces {
			t.Errorf("%d bytes make %d pieces", size, n)
		}
	}
}

// FuzzEvidence: a report is a stranger's text.
func FuzzEvidence(f *testing.F) {
	f.Add(written(f, aReport(f)))
	f.Add([]byte(`{"format":"imgfs-evidence-1","seal":"","sources":[{"items":[{"layer":-1,"pieces":{"size":0,"sha256":["a"]}}]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := ReadEvidence(raw)
		if e == nil {
			if err == nil {
				t.Error("neither a report nor an error")
			}
			return
		}
		for i := range e.Sources {
			for k := range e.Sources {
				if err := CompareEvidence(&e.Sources[i], &e.Sources[k], func(*EvidenceChange) error { return nil }); err != nil {
					t.Error(err)
				}
			}
		}
		e.Count()
		// What was read and is written says the same.
		if err := e.Finish(); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadEvidence(written(t, e)); err != nil {
			t.Errorf("written again: %v", err)
		}
	})
}
