// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
)

// TestManyCommands: processes that load, tag, read, remove and prune the same
// few images at random, some of which are killed, disturb each other in nothing
// but what they remove, and leave every image whole.
func TestManyCommands(t *testing.T) {
	if root := os.Getenv("IMGFS_TEST_CHAOS"); root != "" {
		manyCommands(t, root)
		return
	}
	s := openStore(t)
	var files []string
	for i, text := range []string{"a=1 || b=2", "a=1 || c=3", "a=1 || b=2 || d=4", "e=5"} {
		files = append(files, textImage(t, fmt.Sprintf("example.com/i:%d", i), []string{"gzip", "none"}[i%2], text))
	}
	until := time.Now().Add(4 * time.Second)
	worker := func(seed int, lives time.Duration) error {
		c := exec.Command(os.Args[0], "-test.run=^TestManyCommands$")
		c.Env = append(os.Environ(), "IMGFS_TEST_CHAOS="+s.Root(), "IMGFS_TEST_FILES="+strings.Join(files, " "),
			"IMGFS_TEST_SEED="+strconv.Itoa(seed), "IMGFS_TEST_UNTIL="+strconv.FormatInt(until.UnixNano(), 10))
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		if err := c.Start(); err != nil {
			return err
		}
		if lives > 0 {
			time.AfterFunc(lives, func() { c.Process.Kill() })
		}
		if err := c.Wait(); err != nil && c.ProcessState.ExitCode() >= 0 {
			return fmt.Errorf("%w\n%s", err, out.Bytes())
		}
		return nil
	}
	errs := make(chan error)
	const workers = 4
	for k := range workers {
		go func() {
			if k < 3 {
				errs <- worker(k, 0)
				return
			}
			var err error
			for seed := k; err == nil && time.Now().Before(until); seed += workers {
				err = worker(seed, time.Duration(100+rand.IntN(400))*time.Millisecond)
			}
			errs <- err
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for _, when := range []string{"after", "after a prune"} {
		v, err := s.Verify(context.Background(), nil, imgfs.VerifyOptions{})
		if err != nil || len(v.Problems) > 0 {
			t.Errorf("%s: %+v, %v", when, v, err)
		}
		t.Logf("%s: %d images, %d blobs, %d indexes", when, v.Images, v.Blobs, v.Indexes)
		prune(t, s, imgfs.PruneOptions{})
	}
	prune(t, s, imgfs.PruneOptions{All: true})
	if left := leftIn(t, s); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

// manyCommands is one of the processes.
func manyCommands(t *testing.T, root string) {
	s, err := imgfs.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	files := strings.Fields(os.Getenv("IMGFS_TEST_FILES"))
	seed, _ := strconv.ParseUint(os.Getenv("IMGFS_TEST_SEED"), 10, 64)
	until, _ := strconv.ParseInt(os.Getenv("IMGFS_TEST_UNTIL"), 10, 64)
	rng := rand.New(rand.NewPCG(seed, 9))
	// What somebody removes meanwhile is not found, and what is open is in use.
	check := func(what string, err error) {
		var used *imgfs.InUseError
		if err != nil && !errors.Is(err, image.ErrNotFound) && !errors.As(err, &used) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for time.Now().UnixNano() < until {
		name := fmt.Sprintf("example.com/i:%d", rng.IntN(len(files)+2))
		switch rng.IntN(8) {
		case 0, 1:
			_, err := s.Load(ctx, files[rng.IntN(len(files))], nil, imgfs.LoadOptions{})
			check("load", err)
		case 2:
			check("tag", s.Tag(ctx, name, fmt.Sprintf("example.com/i:%d", rng.IntN(len(files)+2))))
		case 3, 4:
			img, err := s.OpenImage(ctx, name, nil, imgfs.OpenOptions{Pull: imgfs.PullNever})
			check("open", err)
			if err == nil {
				for path, f := range readTree(t, img.FS) {
					if strings.HasPrefix(f.Content, "error") {
						t.Fatalf("%s: %s: %s", name, path, f.Content)
					}
				}
				check("close", img.Close())
			}
		case 5, 6:
			_, err := s.Remove(ctx, []string{name}, imgfs.RemoveOptions{Force: rng.IntN(2) == 0})
			check("remove", err)
		case 7:
			_, err := s.Prune(ctx, imgfs.PruneOptions{All: rng.IntN(3) == 0})
			check("prune", err)
		}
	}
}
