// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/posix/model"
	"github.com/imgfs/imgfs/internal/posix/suite"
	"github.com/imgfs/imgfs/unionfs"
)

var (
	modelSeed = flag.Uint64("model.seed", 1, "first seed of TestUpperModel")
	modelRuns = flag.Int("model.seeds", 1, "seeds of TestUpperModel, each in every way of mounting")
	modelOps  = flag.Int("model.ops", 1000, "operations for each seed")
	modelText = flag.String("model.replay", "", "a file with a sequence to run instead")
)

// A served is an upper that another process has mounted. Tests that map files,
// run programs or become other users need that: a process that waits for a
// page of a mount it serves itself can wait for ever.
type servedUpper struct {
	tb                testing.TB
	dir, upper, image string // image: the layer's tar; beside it its tables
	noPassthrough     bool

	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// serveUpper mounts a fresh upper over the layer that write writes.
func serveUpper(tb testing.TB, write func(io.Writer) error, opt Options) *servedUpper {
	tb.Helper()
	needFUSE(tb)
	base := tb.TempDir()
	if err := os.Chmod(base, 0o755); err != nil {
		tb.Fatal(err)
	}
	s := &servedUpper{tb: tb, dir: base + "/mnt", upper: base + "/upper", image: base + "/layer", noPassthrough: opt.NoPassthrough}
	err := errors.Join(os.Mkdir(s.dir, 0o755), makeImage(s.image, write))
	if err == nil {
		err = s.fresh()
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.stop(); err != nil {
			tb.Errorf("unmount: %v", err)
		}
	})
	return s
}

// makeImage writes a layer to path and the tables that a mount needs beside it.
func makeImage(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := index.Scan(f, path+".layer", index.Limits{}); err != nil {
		return err
	}
	layer, err := index.Open[index.EntryID](path + ".layer")
	if err != nil {
		return err
	}
	defer layer.Close()
	w, err := index.Create[index.NodeID](path + ".tree")
	if err != nil {
		return err
	}
	return unionfs.Merge(context.Background(), w, []*index.Layer{layer}, []string{"one"})
}

const serveEnv = "IMGFS_MOUNT_TEST_SERVE"

// start mounts.
func (s *servedUpper) start() error {
	s.cmd = exec.Command("/proc/self/exe", "-test.run=^TestServe$")
	s.cmd.Env = append(os.Environ(), serveEnv+"="+strings.Join([]string{s.dir, s.upper, s.image, fmt.Sprint(s.noPassthrough)}, "|"))
	s.cmd.Stderr = os.Stderr
	in, err := s.cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	s.in, s.out = in, bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		return err
	}
	return s.answer("ready")
}

// answer reads a line of the server.
func (s *servedUpper) answer(want string) error {
	line, err := s.out.ReadString('\n')
	if strings.TrimSpace(line) != want {
		return fmt.Errorf("the server says %q, %v", line, err)
	}
	return nil
}

// stop unmounts and waits until the server has closed the upper.
func (s *servedUpper) stop() error {
	if s.cmd == nil {
		return nil
	}
	s.in.Close()
	err := s.answer("done")
	if err != nil {
		dropMount(s.dir)
		s.cmd.Process.Kill()
	}
	err = errors.Join(err, s.cmd.Wait())
	s.cmd = nil
	return err
}

// kill ends the server as kill -9 does.
func (s *servedUpper) kill() error {
	if err := s.cmd.Process.Kill(); err != nil {
		return err
	}
	s.cmd.Wait()
	s.cmd = nil
	return dropMount(s.dir)
}

// dropMount takes away a mount whose server is gone.
func dropMount(dir string) error {
	if isRoot() {
		return unix.Unmount(dir, unix.MNT_DETACH)
	}
	return exec.Command("fusermount3", "-u", "-z", dir).Run()
}

// fresh mounts with an upper that has no changes.
func (s *servedUpper) fresh() error {
	if err := errors.Join(s.stop(), os.RemoveAll(s.upper)); err != nil {
		return err
	}
	if err := cow.Create(s.upper, cow.Base{Image: "test", ChainID: testChain}); err != nil {
		return err
	}
	return s.start()
}

// again unmounts and mounts.
func (s *servedUpper) again() error {
	if err := s.stop(); err != nil {
		return err
	}
	return s.start()
}

// revived kills the server and mounts.
func (s *servedUpper) revived() error {
	if err := s.kill(); err != nil {
		return err
	}
	return s.start()
}

// TestServe is the server's process.
func TestServe(t *testing.T) {
	arg := strings.Split(os.Getenv(serveEnv), "|")
	if len(arg) != 4 {
		t.Skip("for the server of a test")
	}
	log.SetPrefix("server: ")
	serve := func() error {
		tree, err := index.Open[index.NodeID](arg[2] + ".tree")
		if err != nil {
			return err
		}
		layer, err := os.Open(arg[2])
		if err != nil {
			return err
		}
		fs := unionfs.NewFS(tree, make([]unionfs.Source, 1), func(int) (io.ReaderAt, error) { return layer, nil })
		u, err := cow.Open(arg[1], fs, testChain, cow.Options{Log: log.Printf})
		if err != nil {
			return err
		}
		s, err := MountUpper(arg[0], u, Options{NoPassthrough: arg[3] == "true", Log: log.Printf})
		if err != nil {
			return err
		}
		fmt.Println("ready")
		io.Copy(io.Discard, os.Stdin)
		err = s.Unmount()
		for until := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(until); {
			time.Sleep(10 * time.Millisecond) // a program that was killed is still going
			err = s.Unmount()
		}
		if err != nil {
			return err
		}
		s.Wait()
		return errors.Join(u.Close(), tree.Close())
	}
	if err := serve(); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("done")
	os.Exit(0)
}

// empty is a layer with a root that everybody may search.
func emptyLayer(w io.Writer) error {
	_, err := w.Write(make([]byte, 1024))
	return err
}

// TestUpperSuite: the rules of POSIX, as ext4 keeps them.
func TestUpperSuite(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		s := serveUpper(t, emptyLayer, opt)
		suiteOptions := suite.Options{Records: true}
		if isRoot() {
			suite.Run(t, s.dir, suiteOptions)
		} else {
			suite.RunUser(t, s.dir, suiteOptions)
		}
	})
}

// TestUpperModel: random operations on the mount of an image and on a directory
// of this machine's disk, with the same content, do the same; unmounted and
// mounted in between, and with the server killed.
func TestUpperModel(t *testing.T) {
	if *modelText != "" {
		*modelRuns = 1
	}
	ways(t, func(t *testing.T, opt Options) {
		for end, remount := range map[string]func(*servedUpper) error{"unmounted": (*servedUpper).again, "killed": (*servedUpper).revived} {
			t.Run(end, func(t *testing.T) {
				for i := range *modelRuns {
					seed := *modelSeed + uint64(i)
					t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { runModel(t, seed, opt, remount) })
				}
			})
		}
	})
}

func runModel(t *testing.T, seed uint64, opt Options, remount func(*servedUpper) error) {
	s := serveUpper(t, func(w io.Writer) error { return model.WriteTar(w, seed) }, opt)
	dir := filepath.Join(t.TempDir(), "a")
	populate := func() error {
		return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755), model.Populate(dir, seed))
	}
	must(t, populate())
	a := model.Tree{Dir: dir, Reset: populate}
	b := model.Tree{Dir: s.dir, Reset: s.fresh, Remount: func() error { return remount(s) }}
	if *modelText != "" {
		text, err := os.ReadFile(*modelText)
		must(t, err)
		model.Replay(t, string(text), a, b)
		return
	}
	model.Run(t, seed, *modelOps, a, b)
}
