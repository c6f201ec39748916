// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	r := newReport(3)
	for _, v := range []float64{0.9, 0.5, 0.7} {
		r.add("first walk", "base", "s", imgfsIs, v)
	}
	for _, v := range []float64{0.35, 0.35, 0.35} {
		r.add("first walk", "base", "s", overlayIs, v)
	}
	r.add("mount", "base", "ms", imgfsIs, 10)
	r.add("mount", "deep", "ms", imgfsIs, 12)
	var out strings.Builder
	r.print(&out)
	for _, want := range []string{"0.7 (0.5 to 0.9)", "2.00", "≤ 1 MISSED", "≤ 30 ok", "over the shapes: 1.20"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

func TestPidOf(t *testing.T) {
	for name, out := range map[string]string{
		"an array":         `[{"dir":"/a","pid":1},{"dir":"/b","pid":2}]`,
		"an object a line": "{\"dir\":\"/a\",\"pid\":1}\n{\"dir\":\"/b\",\"pid\":2}\n",
	} {
		if pid, err := pidOf(out, "/b"); pid != 2 || err != nil {
			t.Errorf("%s: pid %d, %v, want 2", name, pid, err)
		}
	}
	if _, err := pidOf("[]", "/b"); err == nil {
		t.Error("a mount that is not there has a pid")
	}
}
