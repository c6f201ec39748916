// SPDX-License-Identifier: Apache-2.0

// Command assemble writes the test images of imgfs as OCI archives. It is
// called by scripts/mkimage, which fetches what comes from Debian and keeps the
// results. The same arguments always give the same layers.
//
// It does not know imgfs: its images are made by archive/tar and compress/gzip
// alone, so that no mistake of ours is on both sides of a test.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	var (
		out      = flag.String("o", "", "the OCI archive to write")
		shape    = flag.String("shape", "tiny", "tiny, deep, many, rw, base or app")
		root     = flag.String("root", "", "base and app: tar of a Debian root filesystem")
		packages = flag.String("packages", "", "app: directory with a directory of .deb files for each layer, in order")
	)
	flag.Parse()
	if *out == "" || flag.NArg() != 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*out, *shape, *root, *packages); err != nil {
		fmt.Fprintln(os.Stderr, "assemble:", err)
		os.Exit(1)
	}
}

// run makes the image of one shape and writes it to out, whole or not at all.
func run(out, shape, root, packages string) error {
	var steps []step
	var err error
	switch shape {
	case "tiny":
		steps = tiny()
	case "deep":
		steps = deep()
	case "many":
		steps = many()
	case "rw":
		steps = writable()
	case "base":
		steps, err = base(root)
	case "app":
		steps, err = app(root, packages)
	default:
		err = fmt.Errorf("no such shape: %s", shape)
	}
	if err != nil {
		return err
	}
	tmp := out + ".tmp"
	if err := writeImage(tmp, "imgfs.test/"+shape+":latest", steps); err != nil {
		os.RemoveAll(tmp)
		return err
	}
	return os.Rename(tmp, out)
}
