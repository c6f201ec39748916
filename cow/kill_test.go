// SPDX-License-Identifier: Apache-2.0

package cow_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/cow"
)

// victimEnv has a victim's orders, as JSON.
const victimEnv = "IMGFS_COW_VICTIM"

type victimOrders struct {
	Dir, Layer, Tmp string
	Seed            uint64
	Passthrough     bool
}

// A report is what a victim says behind each step that was answered.
type report struct {
	What    string
	Lines   string
	Written map[cow.Node][]byte // files whose content is new
}

// dying is a testing.TB of a victim: it says why, and ends.
type dying struct{}

func (dying) Helper() {}
func (dying) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "victim: "+format+"\n", args...)
	os.Exit(3)
}

// victim works on an upper until it is killed, and reports on descriptor 3.
func victim() int {
	var o victimOrders
	die := dying{}
	if err := json.Unmarshal([]byte(os.Getenv(victimEnv)), &o); err != nil {
		die.Fatalf("%v", err)
	}
	layer, err := os.ReadFile(o.Layer)
	if err != nil {
		die.Fatalf("%v", err)
	}
	fs, _, err := openLayer(o.Tmp, layer)
	if err != nil {
		die.Fatalf("%v", err)
	}
	u, err := cow.Open(o.Dir, fs, crashChain, cow.Options{Passthrough: o.Passthrough, Log: func(f string, a ...any) {
		fmt.Fprintf(os.Stderr, "victim: "+f+"\n", a...)
	}})
	if err != nil {
		die.Fatalf("open: %v", err)
	}
	out := gob.NewEncoder(os.NewFile(3, "reports"))
	w := newWorkload(die, u, o.Seed, func() int64 { return 0 })
	for seen := map[cow.Node]int{}; ; {
		last := &w.steps[len(w.steps)-1]
		r := report{What: last.what, Lines: last.lines, Written: map[cow.Node][]byte{}}
		for n, vs := range w.versions {
			if seen[n] != len(vs) {
				seen[n], r.Written[n] = len(vs), vs[len(vs)-1].data
				w.versions[n] = vs[len(vs)-1:]
				seen[n] = 1
			}
		}
		if err := out.Encode(&r); err != nil {
			die.Fatalf("%v", err)
		}
		last.lines = "" // nobody asks for it
		w.step()
	}
}

// TestKill kills the process that has an upper open, by SIGKILL at random
// moments under load, again and again, and checks each time that all it had
// answered is there.
func TestKill(t *testing.T) {
	until, seed := effort(t, 5*time.Second)
	layer := crashTar(t)
	fs := crashFS(t, layer)
	tmp := memDir(t)
	name := filepath.Join(tmp, "layer.tar")
	if err := os.WriteFile(name, layer, 0o600); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(seed, 9))
	kills, steps := 0, 0
	for time.Now().Before(until) && !t.Failed() {
		dir := filepath.Join(tmp, fmt.Sprint("u", kills))
		if err := cow.Create(dir, cow.Base{Image: "kill", ChainID: crashChain}); err != nil {
			t.Fatal(err)
		}
		known := map[cow.Node][]byte{} // of one upper, over many lives
		for life := 0; life < 12 && time.Now().Before(until); life++ {
			o := victimOrders{Dir: dir, Layer: name, Seed: rng.Uint64(), Passthrough: kills%2 == 0}
			o.Tmp = filepath.Join(tmp, fmt.Sprint("t", kills))
			n, err := liveAndDie(o, time.Duration(rng.Int64N(int64(120*time.Millisecond))), known, func(last *report) error {
				return checkLife(dir, t, last, known, func() (*cow.Upper, error) {
					return cow.Open(dir, fs, crashChain, cow.Options{Log: t.Logf})
				})
			})
			kills++
			steps += n
			if err != nil {
				t.Errorf("kill %d, life %d of its upper, seed %d: %v", kills, life, seed, err)
				break
			}
		}
		os.RemoveAll(dir)
	}
	t.Logf("%d kills, %d operations", kills, steps)
}

// liveAndDie runs a victim until a while after it began to work, and gives its
// last report to check. It returns how many steps it did.
func liveAndDie(o victimOrders, while time.Duration, known map[cow.Node][]byte, check func(*report) error) (int, error) {
	if err := os.Mkdir(o.Tmp, 0o700); err != nil {
		return 0, err
	}
	defer os.RemoveAll(o.Tmp)
	orders, err := json.Marshal(o)
	if err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	from, to, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer from.Close()
	var errs bytes.Buffer
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), victimEnv+"="+string(orders))
	cmd.ExtraFiles, cmd.Stderr = []*os.File{to}, &errs
	err = cmd.Start()
	to.Close()
	if err != nil {
		return 0, err
	}
	in := gob.NewDecoder(from)
	var last report
	steps := 0
	for ; ; steps++ {
		var r report
		if err := in.Decode(&r); err != nil {
			break
		}
		if steps == 0 {
			time.AfterFunc(while, func() { cmd.Process.Signal(unix.SIGKILL) })
		}
		last = r
		for n, b := range r.Written {
			known[n] = b
		}
	}
	cmd.Process.Kill()
	werr := cmd.Wait()
	if steps == 0 || !strings.Contains(fmt.Sprint(werr), "killed") {
		return steps, fmt.Errorf("the victim died by itself: %v: %s", werr, &errs)
	}
	if errs.Len() > 0 {
		return steps, errors.New(errs.String())
	}
	return steps, check(&last)
}

// checkLife opens what a victim left and holds it against what it reported:
// all of that, and at most one step more.
func checkLife(dir string, t *testing.T, last *report, known map[cow.Node][]byte, open func() (*cow.Upper, error)) error {
	u, err := open()
	if err != nil {
		return fmt.Errorf("after %s: open: %w", last.What, err)
	}
	defer u.Close()
	all, err := places(u)
	if err != nil {
		return fmt.Errorf("after %s: walk: %w", last.What, err)
	}
	if got := lines(all); got != last.Lines {
		const oneStep = 16 // lines
		if diff := firstDifference(got, last.Lines); strings.Count(diff, "\n") > oneStep {
			return fmt.Errorf("after %s: %s", last.What, diff)
		}
	}
	other := 0
	for _, p := range all {
		want, ok := known[p.attr.Node]
		if !ok || !p.isRegular() {
			continue
		}
		got, _, err := wholeContent(u, p.attr.Node)
		if err != nil {
			return fmt.Errorf("after %s: %s: %w", last.What, p.path, err)
		}
		if bytes.Equal(got, want) {
			continue
		}
		if other++; other > 1 {
			return fmt.Errorf("after %s: %s #%d is not as answered, nor is another file", last.What, p.path, p.attr.Node)
		}
		known[p.attr.Node] = got // of the step that was not answered
	}
	return nil
}
