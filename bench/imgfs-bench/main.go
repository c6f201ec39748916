// SPDX-License-Identifier: Apache-2.0

// Command imgfs-bench measures the whole filesystem, not its functions: it
// loads real images with the imgfs binary, mounts them, walks and reads them,
// and does the same with kernel overlayfs over the unpacked layers in the same
// run, turn by turn. It prints a table and writes the figures as JSON.
//
//	imgfs-bench [FLAG]...        read-only mounts
//	imgfs-bench write [FLAG]...  writable mounts, with more peers
//
// It knows imgfs by its command line alone. It needs root: for overlayfs, for
// unpacking owners and devices, and to drop the kernel's caches.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 3 && args[0] == "work":
		err = child(args[1], args[2])
	case len(args) > 0 && args[0] == "write":
		err = writeMain(args[1:])
	default:
		err = readMain()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "imgfs-bench:", err)
		os.Exit(1)
	}
}

// readMain measures read-only mounts.
func readMain() error {
	var c config
	shapes := flag.String("shapes", "base,app,deep,many", "which images of scripts/mkimage")
	reads := flag.String("reads", "base,app", "of these shapes all files are read, too")
	flag.StringVar(&c.imgfs, "imgfs", "./imgfs", "the binary to measure")
	flag.StringVar(&c.mkimage, "mkimage", "scripts/mkimage", "the script that makes the images")
	flag.StringVar(&c.dir, "dir", "", "where to work: on a disk, not a tmpfs (default: beside the cached images)")
	flag.IntVar(&c.runs, "runs", 5, "how often each figure is measured")
	flag.StringVar(&c.json, "json", "", "write the figures to this file")
	flag.Parse()
	c.shapes = strings.Split(*shapes, ",")
	c.reads = map[string]bool{}
	for s := range strings.SplitSeq(*reads, ",") {
		c.reads[s] = true
	}
	return run(c)
}

// A config is what to measure and how.
type config struct {
	imgfs, mkimage, dir, json string
	shapes                    []string
	reads                     map[string]bool
	runs                      int
}

func run(c config) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("only root can mount overlayfs and drop the caches: run it by sudo")
	}
	if c.runs < 1 {
		return errors.New("at least one run")
	}
	if c.imgfs, err = filepath.Abs(c.imgfs); err != nil {
		return err
	}
	images, err := makeImages(c)
	if err != nil {
		return err
	}
	if c.dir == "" {
		c.dir = filepath.Dir(images[0].archive)
	}
	work, err := os.MkdirTemp(c.dir, "bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()

	b := &bench{config: c, work: work, store: filepath.Join(work, "store"), report: newReport(c.runs)}
	defer b.unmountAll()
	for i := range images {
		if err := b.prepare(&images[i]); err != nil {
			return fmt.Errorf("%s: %w", images[i].shape, err)
		}
	}
	if err := b.mountTimes(images); err != nil {
		return err
	}
	for _, im := range images {
		if err := b.compare(im); err != nil {
			return fmt.Errorf("%s: %w", im.shape, err)
		}
	}
	b.report.print(os.Stdout)
	if c.json == "" {
		return nil
	}
	return b.report.write(c.json)
}
