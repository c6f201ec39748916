// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imgfs/imgfs/internal/tartest"
)

// forensicVerbs are all verbs that examine images, IMAGE being one.
var forensicVerbs = []string{
	"layers IMAGE", "waste IMAGE", "lint IMAGE", "deleted --all IMAGE", "deleted --format json IMAGE", "deleted -q --extract OUT IMAGE",
	"blame -r IMAGE /", "versions IMAGE /a/b", "cat --layer 0 IMAGE:/a/b",
	"find IMAGE", "find --deleted --content x IMAGE", "find --deleted --sha256 00000000 --format json IMAGE", "find --user root IMAGE",
	"timeline IMAGE", "timeline --format json --hash IMAGE", "timeline --format bodyfile IMAGE", "timeline --format mtree IMAGE",
	"timeline --format sha256sum IMAGE", "timeline --format csv IMAGE",
	"diff IMAGE IMAGE", "diff -u IMAGE@upto=0 IMAGE", "diff --semantic --format json IMAGE#0 IMAGE", "diff --packages IMAGE IMAGE", "diff --stat IMAGE IMAGE#0",
	"verify --evidence IMAGE",
}

// builtProgram builds imgfs once.
func builtProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "imgfs")
	if out, err := exec.Command("go", "build", "-o", path, "./cmd/imgfs").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// A hostileImage is one that every verb is to survive.
type hostileImage struct {
	name, file string
	broken     bool // its bytes are not what its digests say, or are not there
}

// hostileImages are the attacks on the façade, of bits and cuts some, and
// layers that engines quarrel about.
func hostileImages(t *testing.T) (list []hostileImage) {
	for i, a := range attacks(t) {
		bits := strings.HasPrefix(a.name, "C8 ")
		if bits && i%7 != 0 || strings.HasPrefix(a.name, "over ") {
			continue
		}
		b := newOCI(t)
		broken := bits || strings.HasPrefix(a.name, "C5 a layer's size is wrong") || strings.HasPrefix(a.name, "C1 a diffID lies") || strings.Contains(a.name, "missing")
		list = append(list, hostileImage{a.name, b.write(a.write(b)...), broken})
	}
	for _, text := range []string{
		"", "a=1 a=2 a/b || a/.wh.b", "d/x=1 d/y=2 || .wh.d d/z=3 || d/.wh..wh..opq d/z=4", "l->d d/x=1 || l/x=2 .wh.none none/.wh.x",
		"a=1 b=>a || .wh.a c=>b || .wh.b || .wh.c", "x/.wh..wh..opq .wh..wh.aufs .wh.x/y=1 || x| || x/ x/y%1,3 x/z:6755@1:2=s",
		"%1b[31m=x a%0ab/%09=y %ff%fe=z || .wh.%1b[31m a%0ab/.wh.%09", "loop->loop etc->/etc || loop/x=1 || etc/y=2",
		"etc/ etc/passwd->../../../../etc/shadow etc/group=x || root->/ a/b=x", "a/b=1 || a/b/c=2 || a=>nothing",
		"n%0a%1b[2Jx=1 || .wh.n%0a%1b[2Jx", "var/ var/lib/ var/lib/dpkg/ var/lib/dpkg/status=Package:%20%1b[31m%0a lib/apk/db/installed->/proc/self/mem",
	} {
		b := newOCI(t)
		var layers []packedLayer
		for part := range strings.SplitSeq(text, " || ") {
			layers = append(layers, packed(t, tartest.Tar(t, part), ""))
		}
		list = append(list, hostileImage{text, b.write(named(b.image("linux/amd64", layers, nil), "docker.io/library/odd:latest")), false})
	}
	return list
}

// Every verb looks at every hostile image, in place, and ends as it should: no
// panic, no hang, an exit code that the manual has for it, and no escape
// sequence in an error.
func TestVerbsOnHostileImages(t *testing.T) {
	unraced(t)
	bin := builtProgram(t)
	for _, img := range hostileImages(t) {
		t.Run(img.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for _, verb := range forensicVerbs {
				args := strings.Fields(strings.ReplaceAll(verb, "OUT", filepath.Join(root, "out")))
				for k := range args {
					args[k] = strings.ReplaceAll(args[k], "IMAGE", img.file)
				}
				code, stdout, stderr := runVerb(t, bin, filepath.Join(root, "store"), args)
				ok := slices.Contains([]int{0, 1, 3, 4}, code)
				if img.broken && verb == "verify --evidence IMAGE" {
					ok = code == 1 && strings.Contains(stdout, `"result": "bad"`)
				}
				if !ok || strings.Contains(stderr, "panic") || strings.Contains(stderr, "goroutine") || code == 4 && stderr == "" {
					t.Errorf("%s: exit %d\n%.2000s", verb, code, stderr)
				}
				if strings.Contains(stderr, "\x1b") {
					t.Errorf("%s: an escape sequence on stderr: %q", verb, stderr)
				}
			}
		})
	}
}

// runVerb runs the program, for a minute at most.
func runVerb(t *testing.T, bin, root string, args []string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, bin, args...)
	c.Env = append(os.Environ(), "IMGFS_ROOT="+root, "IMGFS_PULL=never")
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%q: %v %v", args, err, ctx.Err())
	}
	return c.ProcessState.ExitCode(), out.String(), errs.String()
}
