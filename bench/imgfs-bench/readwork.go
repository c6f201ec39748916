// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The names of the steps that read, as the table has them.
const (
	firstWalk   = "first walk"
	secondWalk  = "second walk"
	readCold    = "read all, cold"
	readWarm    = "read all, warm"
	grepCold    = "grep -r, cold"
	readersCold = "8 readers, cold"
	hitWarm     = "lstat hit, warm"
	missWarm    = "lstat miss, warm"
	hitDropped  = "lstat hit, dropped"
	missDropped = "lstat miss, dropped"
	randomCold  = "random 4 KiB, cold"
	randomWarm  = "random 4 KiB, warm"
	seqCold     = "sequential, cold"
	seqWarm     = "sequential, warm"
)

// shell returns a run of a shell's line, where $0 is the directory.
func shell(line string) func(dir string, _ func(string)) error {
	return func(dir string, _ func(string)) error {
		_, err := output(exec.Command("sh", "-c", line, dir))
		return err
	}
}

// walks asks for all names and attributes, as a user would.
func walks() []step {
	find := shell(`exec find "$0" -printf '%s %m %T@\n' >/dev/null`)
	return []step{
		{name: firstWalk, cold: cold, run: find, anon: true},
		{name: secondWalk, run: find},
	}
}

// readAll reads all files, as a user would. tar warns of what it cannot keep.
func readAll() []step {
	read := shell(`tar -C "$0" -cf - . 2>/dev/null | cat >/dev/null`)
	return []step{
		{name: readCold, cold: cold, run: read, anon: true},
		{name: readWarm, run: read},
	}
}

func grepAndReaders() []step {
	files := new([]string)
	return []step{
		{name: grepCold, cold: cold, run: shell(`grep -rF 'no file says this' "$0" >/dev/null; [ $? = 1 ]`)},
		{name: readersCold, cold: cold, before: func(dir string) (err error) {
			if *files, err = filesBelow(dir, unix.S_IFREG); err != nil {
				return err
			}
			return dropCaches(cold)
		}, run: func(string, func(string)) error { return readBy(8, *files) }},
	}
}

// filesBelow returns the paths of files below dir of a type, sorted.
func filesBelow(dir string, kind uint32) (files []string, err error) {
	var below func(dir string) error
	below = func(dir string) error {
		var dirs []string
		err := inDir(dir, func(fd int) error {
			list, err := readDir(fd)
			for _, e := range list {
				if e.kind == kind {
					files = append(files, dir+"/"+e.name)
				}
				if e.kind == unix.S_IFDIR {
					dirs = append(dirs, dir+"/"+e.name)
				}
			}
			return err
		})
		for _, d := range dirs {
			err = errors.Join(err, below(d))
		}
		return err
	}
	err = below(dir)
	slices.Sort(files)
	return files, err
}

// readBy reads files with so many readers, each a piece of the list.
func readBy(readers int, files []string) error {
	errs := make([]error, readers)
	var all sync.WaitGroup
	for i := range readers {
		all.Go(func() {
			buf := make([]byte, 128<<10)
			for _, name := range files[len(files)*i/readers : len(files)*(i+1)/readers] {
				if _, err := readFile(unix.AT_FDCWD, name, buf); err != nil {
					errs[i] = fmt.Errorf("%s: %w", name, err)
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// lstats asks for files of a shuffled list, one after another, and for names
// beside them that are not there. Every system has the same list.
func lstats() workload {
	const most = 20_000
	var hits, misses []string
	look := func(names *[]string, want error) func(string, func(string)) error {
		return func(string, func(string)) error {
			var st unix.Stat_t
			for _, name := range *names {
				if err := unix.Lstat(name, &st); err != want {
					return fmt.Errorf("lstat %s: %v, want %v", name, err, want)
				}
			}
			return nil
		}
	}
	each := func(elapsed float64) float64 { return elapsed / float64(len(hits)) }
	steps := []step{
		{name: hitWarm, run: look(&hits, nil)},
		{name: missWarm, run: look(&misses, unix.ENOENT)},
		{name: hitDropped, cold: noDentries, run: look(&hits, nil)},
		{name: missDropped, cold: noDentries, run: look(&misses, unix.ENOENT)},
	}
	for i := range steps {
		steps[i].figure = each
		if run := steps[i].run; steps[i].cold == warm {
			steps[i].before = func(dir string) error { return run(dir, nil) }
		}
	}
	return workload{steps: steps, prepare: func(dir string) (err error) {
		if hits, err = filesBelow(dir, unix.S_IFREG); err != nil {
			return err
		}
		rnd := rand.New(rand.NewPCG(1, 2))
		rnd.Shuffle(len(hits), func(i, j int) { hits[i], hits[j] = hits[j], hits[i] })
		hits = hits[:min(len(hits), most)]
		for _, name := range hits {
			misses = append(misses, name+".none")
		}
		if len(hits) == 0 {
			return errors.New("no files")
		}
		return nil
	}}
}

// big reads the long file of the image rw, of so many bytes.
func big(size int64) workload {
	const block = 4096
	var took []float64
	random := func(reads int) func(string, func(string)) error {
		return func(dir string, _ func(string)) error {
			took = took[:0]
			fd, err := unix.Open(filepath.Join(dir, bigFile), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			rnd := rand.New(rand.NewPCG(1, 2))
			buf := make([]byte, block)
			for range reads {
				start := time.Now()
				if n, err := unix.Pread(fd, buf, rnd.Int64N(size/block)*block); n != block {
					return errors.Join(io.ErrUnexpectedEOF, err)
				}
				took = append(took, time.Since(start).Seconds())
			}
			return nil
		}
	}
	whole := func(dir string, _ func(string)) error {
		n, err := readFile(unix.AT_FDCWD, filepath.Join(dir, bigFile), make([]byte, seqBuffer))
		if err == nil && n != size {
			err = fmt.Errorf("read %d bytes, want %d", n, size)
		}
		return err
	}
	typical := func(float64) float64 { return median(took) }
	const colds, warms = 200, 300_000
	return workload{steps: []step{
		{name: randomCold, cold: cold, run: random(colds), figure: typical},
		{name: seqCold, cold: cold, run: whole, room: int(2 * size)},
		{name: seqWarm, run: whole},
		{name: randomWarm, run: random(warms), figure: func(elapsed float64) float64 { return elapsed / warms }},
	}}
}

// execPython starts a program of the image with many libraries.
func execPython(dir string) error {
	cmd := exec.Command("chroot", dir, "/usr/bin/python3", "-B", "-c", "import asyncio, json, sqlite3")
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	out, err := output(cmd)
	if out = strings.TrimSpace(out); err == nil && out != "" {
		err = fmt.Errorf("python says %q", out)
	}
	return err
}

// firstByte reads a byte of a file that every image has.
func firstByte(dir string) error {
	f, err := os.Open(filepath.Join(dir, "etc/debian_version"))
	if err != nil {
		return err
	}
	_, err = f.Read(make([]byte, 1))
	return errors.Join(err, f.Close())
}
