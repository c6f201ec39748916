// SPDX-License-Identifier: Apache-2.0

package kill_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/crashfs/kill"
	"github.com/imgfs/imgfs/internal/fusetest"
	"github.com/imgfs/imgfs/unionfs"
	"github.com/imgfs/imgfs/unionfs/mount"
)

const (
	serverEnv = "IMGFS_KILL_SERVER"
	chainID   = "sha256:kill"
)

// orders are what a server is told.
type orders struct {
	Upper, Layer, Tmp, Point string
	NoPassthrough            bool
	Loopback                 bool // over the directory Upper: for the harness itself
}

func TestMain(m *testing.M) {
	if text := os.Getenv(serverEnv); text != "" {
		if err := serve(text); err != nil {
			fmt.Fprintln(os.Stderr, "server:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serve mounts an upper until it is unmounted or killed.
func serve(text string) error {
	var o orders
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	if o.Loopback {
		return serveLoopback(o)
	}
	below, err := openLayer(o.Tmp, o.Layer)
	if err != nil {
		return err
	}
	logf := func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }
	u, err := cow.Open(o.Upper, below, chainID, cow.Options{Log: logf, Passthrough: !o.NoPassthrough})
	if err != nil {
		return err
	}
	s, err := mount.MountUpper(o.Point, u, mount.Options{Log: logf, NoPassthrough: o.NoPassthrough})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	s.Wait()
	return u.Close()
}

// serveLoopback mounts what shows another directory.
func serveLoopback(o orders) error {
	root, err := fs.NewLoopbackRoot(o.Upper)
	if err != nil {
		return err
	}
	s, err := fs.Mount(o.Point, root, &fs.Options{MountOptions: fuse.MountOptions{DirectMount: true}})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	s.Wait()
	return nil
}

// openLayer makes the tree of a layer in tmp.
func openLayer(tmp, layer string) (*unionfs.FS, error) {
	b, err := os.ReadFile(layer)
	if err != nil {
		return nil, err
	}
	table := filepath.Join(tmp, "layer")
	if _, err := index.Scan(bytes.NewReader(b), table, index.Limits{}); err != nil {
		return nil, err
	}
	l, err := index.Open[index.EntryID](table)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(tmp, "tree")
	w, err := index.Create[index.NodeID](path)
	if err != nil {
		return nil, err
	}
	if err := index.Guard(func() error { return unionfs.Merge(context.Background(), w, []*index.Layer{l}, nil) }); err != nil {
		return nil, err
	}
	tree, err := index.Open[index.NodeID](path)
	if err != nil {
		return nil, err
	}
	return unionfs.NewFS(tree, make([]unionfs.Source, 1), func(int) (io.ReaderAt, error) { return bytes.NewReader(b), nil }), nil
}

// populate makes the content of the workers' directories, as a layer and below
// a directory.
func populate(oracle, layer string, workers []string) error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for k, dir := range workers {
		if err := os.MkdirAll(filepath.Join(oracle, dir, "c"), 0o755); err != nil {
			return err
		}
		for _, d := range []string{dir + "/", dir + "/c/"} {
			if err := w.WriteHeader(&tar.Header{Name: d, Mode: 0o755, Typeflag: tar.TypeDir}); err != nil {
				return err
			}
		}
		for i, name := range []string{"a", "b", "c/a", "c/b"} {
			data := bytes.Repeat([]byte{byte(1 + 7*i + k)}, 1+i*90_000)
			h := &tar.Header{Name: dir + "/" + name, Mode: 0o644, Size: int64(len(data)), Uid: os.Geteuid(), Gid: os.Getegid()}
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			if _, err := w.Write(data); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(oracle, dir, name), data, 0o644); err != nil {
				return err
			}
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(layer, b.Bytes(), 0o600)
}

// A process is a server that was started.
type process struct{ cmd *exec.Cmd }

func (p process) Pid() int    { return p.cmd.Process.Pid }
func (p process) Wait() error { return p.cmd.Wait() }

// TestHarness kills a server that loses nothing, since it has nothing of its
// own, and one that forgets a name at each start.
func TestHarness(t *testing.T) {
	fusetest.Need(t)
	if os.Geteuid() != 0 {
		t.Skip("mounts by mount(2)")
	}
	for _, forgets := range []bool{false, true} {
		tmp := memoryDir(t)
		at := func(name string) string { return filepath.Join(tmp, name) }
		for _, dir := range []string{"disk", "oracle"} {
			if err := populate(at(dir), at("layer.tar"), []string{"w0", "w1"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(at("mnt"), 0o755); err != nil {
			t.Fatal(err)
		}
		lives := 0
		kills, calls, err := kill.Run(kill.Config{
			Dir: at("mnt"), Oracle: at("oracle"), Workers: []string{"w0", "w1"}, Seed: 1, Life: 30 * time.Millisecond,
			Until: time.Now().Add(1500 * time.Millisecond),
			Start: func() (kill.Server, error) {
				if lives++; forgets && lives == 3 {
					os.RemoveAll(at("disk/w1/c"))
					os.Remove(at("disk/w1/c"))
					if err := os.WriteFile(at("disk/w1/forgotten"), nil, 0o644); err != nil {
						return nil, err
					}
				}
				return startServer(orders{Upper: at("disk"), Point: at("mnt"), Loopback: true})
			},
		})
		t.Logf("forgets %v: %d kills, %d calls: %v", forgets, kills, calls, err)
		if (err != nil) != forgets {
			t.Errorf("a server that forgets %v: %v", forgets, err)
		}
	}
}

// memoryDir is a directory where a sync costs nothing, if there is one.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "imgfs-kill")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestKillServer kills the server of a writable mount again and again. Longer
// with IMGFS_CRASH_TIME.
func TestKillServer(t *testing.T) {
	fusetest.Need(t)
	if os.Geteuid() != 0 {
		t.Skip("the files of the image are root's, those they are compared with would not be")
	}
	for _, noPassthrough := range []bool{false, true} {
		t.Run(fmt.Sprintf("passthrough=%v", !noPassthrough), func(t *testing.T) { killServer(t, noPassthrough) })
	}
}

func killServer(t *testing.T, noPassthrough bool) {
	life := 4 * time.Second
	if s := os.Getenv("IMGFS_CRASH_TIME"); s != "" {
		var err error
		if life, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(1)
	if s := os.Getenv("IMGFS_CRASH_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	tmp := memoryDir(t)
	at := func(name string) string { return filepath.Join(tmp, name) }
	workers := []string{"w0", "w1", "w2"}
	if err := populate(at("oracle"), at("layer.tar"), workers); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at("mnt"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := cow.Create(at("upper"), cow.Base{Image: "kill", ChainID: chainID}); err != nil {
		t.Fatal(err)
	}
	lives := 0
	start := func() (kill.Server, error) {
		lives++
		o := orders{Upper: at("upper"), Layer: at("layer.tar"), Tmp: at(fmt.Sprint("t", lives)), Point: at("mnt"), NoPassthrough: noPassthrough}
		if err := os.Mkdir(o.Tmp, 0o700); err != nil {
			return nil, err
		}
		os.RemoveAll(at(fmt.Sprint("t", lives-1)))
		return startServer(o)
	}
	kills, calls, err := kill.Run(kill.Config{
		Dir: at("mnt"), Oracle: at("oracle"), Start: start, Workers: workers,
		Seed: seed, Life: 100 * time.Millisecond, Until: time.Now().Add(life),
	})
	t.Logf("%d kills, %d calls answered", kills, calls)
	if err != nil {
		t.Error(err)
	}
}

// startServer returns once it says that it is ready.
func startServer(o orders) (kill.Server, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serverEnv+"="+string(text))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("the server does not answer: %q, %w, %w: %s", line, err, cmd.Wait(), &errs)
	}
	return process{cmd}, nil
}
