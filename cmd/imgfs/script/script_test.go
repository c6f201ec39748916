// SPDX-License-Identifier: Apache-2.0

package script

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/enginetest"
	"github.com/imgfs/imgfs/internal/fusetest"
	"github.com/imgfs/imgfs/internal/regtest"
	"github.com/imgfs/imgfs/internal/tartest"
)

// TestScripts runs the scripts of testdata against the program, each with a
// store of its own. Besides testscript's commands they have
//
//	image FILE NAME[,NAME] LAYER…   a docker-archive of layers, written as in
//	                                package tartest; "-" is no name
//	rootfs FILE LAYER               a plain tar
//	docker ROOT IMAGE [NAME CHANGES]  docker's store with the image of that file
//	                                and a container, which has the layer CHANGES
//	rc CODE PROGRAM ARGS…           runs it, and checks its exit code
//	registry VAR [passwords]        a docker-registry; its host goes to $VAR
//
// and the conditions [root] and [fuse]. With IMGFS_UPDATE_SCRIPTS=1 the outputs in them
// are written anew.
func TestScripts(t *testing.T) {
	bin := program(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "../testdata",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("IMGFS_UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", filepath.Dir(bin)+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("IMGFS_ROOT", filepath.Join(env.WorkDir, ".store"))
			env.Setenv("IMGFS_RUNTIME_DIR", filepath.Join(env.WorkDir, ".run"))
			env.Setenv("IMGFS_PULL", "never") // no script asks a registry that is not its own
			env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, ".docker"))
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, ".config"))
			env.Defer(func() { // what a script that failed left
				c := exec.Command(bin, "umount", "--all", "--force")
				c.Env = append(os.Environ(), env.Vars...)
				if out, err := c.CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
			})
			env.Setenv("TZ", "UTC")
			env.Setenv("LC_ALL", "C.UTF-8")
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Geteuid() == 0, nil
			case "fuse":
				fusetest.Need(t)
				return true, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"image": func(ts *testscript.TestScript, _ bool, args []string) {
				if len(args) < 3 {
					ts.Fatalf("usage: image FILE NAME LAYER…")
				}
				var layers [][]byte
				for _, file := range args[2:] {
					layers = append(layers, tartest.Tar(scriptTB{t, ts}, ts.ReadFile(file)))
				}
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), dockerArchive(t, args[1], layers), 0o644))
			},
			"rootfs": func(ts *testscript.TestScript, _ bool, args []string) {
				if len(args) != 2 {
					ts.Fatalf("usage: rootfs FILE LAYER")
				}
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), tartest.Tar(scriptTB{t, ts}, ts.ReadFile(args[1])), 0o644))
			},
			"registry": func(ts *testscript.TestScript, _ bool, args []string) {
				if len(args) < 1 || len(args) > 2 || len(args) == 2 && args[1] != "passwords" {
					ts.Fatalf("usage: registry VAR [passwords]")
				}
				ts.Setenv(args[0], regtest.Start(scriptTB{t, ts}, regtest.Options{Htpasswd: len(args) == 2}).Host)
			},
			"docker": func(ts *testscript.TestScript, _ bool, args []string) {
				if len(args) != 2 && len(args) != 4 {
					ts.Fatalf("usage: docker ROOT IMAGE [NAME CHANGES]")
				}
				tb, marks := scriptTB{t, ts}, enginetest.Marks{Whiteout: index.WhiteoutPrefix, Opaque: index.OpaqueMarker}
				img := enginetest.FromArchive(tb, ts.ReadFile(args[1]))
				var containers []enginetest.Container
				if len(args) == 4 {
					changes := tartest.Tar(tb, ts.ReadFile(args[3]))
					containers = []enginetest.Container{{
						ID: strings.Repeat("ab", 32), Name: args[2], Image: img.Names[0],
						Change: func(dir string) { enginetest.Unpack(tb, dir, changes, marks) },
					}}
				}
				enginetest.Docker(tb, ts.MkAbs(args[0]), marks, []enginetest.Image{img}, containers)
			},
			"rc": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				err = ts.Exec(args[1], args[2:]...)
				got := 0
				var exit *exec.ExitError
				if errors.As(err, &exit) {
					got = exit.ExitCode()
				} else {
					ts.Check(err)
				}
				if got != want {
					ts.Fatalf("exit code %d, want %d", got, want)
				}
			},
		},
	})
}

// scriptTB fails the script that runs, not the test around it.
type scriptTB struct {
	testing.TB
	ts *testscript.TestScript
}

func (s scriptTB) Fatalf(format string, args ...any) { s.ts.Fatalf(format, args...) }
func (s scriptTB) Fatal(args ...any)                 { s.ts.Fatalf("%s", fmt.Sprint(args...)) }

// program builds imgfs once.
func program(t *testing.T) string {
	t.Helper()
	touchSources(t)
	built.Do(func() {
		built.dir, built.err = os.MkdirTemp("", "imgfs-test-")
		if built.err != nil {
			return
		}
		out, err := exec.Command("go", "build", "-o", built.dir, "github.com/imgfs/imgfs/cmd/imgfs").CombinedOutput()
		if err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	t.Cleanup(func() { os.RemoveAll(built.dir) })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "imgfs")
}

// touchSources looks at every source file, so that the test cache, which sees
// what a test opens, knows when the program has changed.
func touchSources(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("../../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".git"):
			return fs.SkipDir
		case filepath.Ext(path) == ".go" || filepath.Base(path) == "go.mod":
			_, err = os.Stat(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // an editor's
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

var built struct {
	sync.Once
	dir string
	err error
}

// dockerArchive makes what docker save writes of an image with these layers:
// a step for each, "step 1" first, and one without a layer at the end.
func dockerArchive(t *testing.T, names string, layers [][]byte) []byte {
	t.Helper()
	type history struct {
		Created    string `json:"created"`
		CreatedBy  string `json:"created_by"`
		Comment    string `json:"comment,omitempty"`
		EmptyLayer bool   `json:"empty_layer,omitempty"`
	}
	var (
		b       bytes.Buffer
		w       = tar.NewWriter(&b)
		files   []string
		diffIDs = []string{}
		steps   []history
	)
	put := func(name string, body []byte) {
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	for i, l := range layers {
		sum := fmt.Sprintf("%x", sha256.Sum256(l))
		name := fmt.Sprintf("%d-%s/layer.tar", i, sum)
		put(name, l)
		files = append(files, name)
		diffIDs = append(diffIDs, "sha256:"+sum)
		steps = append(steps, history{Created: "2020-02-03T04:05:06Z", CreatedBy: fmt.Sprintf("step %d", i+1)})
	}
	steps = append(steps, history{
		Created: "2020-02-03T04:05:07.5Z", EmptyLayer: true, Comment: "the end",
		CreatedBy: "CMD [\"/bin/sh\" \"-c\" \"echo a long command line that is cut\x1b[31m\"]",
	})
	config, err := json.Marshal(map[string]any{
		"created": "2020-02-03T04:05:07.5Z", "author": "A. Tester", "architecture": "amd64", "os": "linux",
		"config": map[string]any{
			"Env": []string{"PATH=/bin"}, "Cmd": []string{"/bin/sh", "-c", "true"},
			"Labels": map[string]string{"role": "test"},
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": diffIDs},
		"history": steps,
	})
	if err != nil {
		t.Fatal(err)
	}
	configName := fmt.Sprintf("%x.json", sha256.Sum256(config))
	put(configName, config)
	tags := []string{}
	if names != "-" {
		tags = strings.Split(names, ",")
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": tags, "Layers": files}})
	if err != nil {
		t.Fatal(err)
	}
	put("manifest.json", manifest)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
