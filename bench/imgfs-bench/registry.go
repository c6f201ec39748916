// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Ways from a registry to a directory, and the least that they cost.
const (
	skopeoIs = "skopeo copy" // to containers-storage
	fetchIs  = "fetch"       // of all blobs to disk
	decodeIs = "gzip -dc"    // of all layers, as many at once as there are processors
)

// registryName is what the image is called in the registry of the benchmark.
const registryName = "bench/image:1"

// serveImage starts docker-registry on loopback with the image, and returns its
// host and what stops it.
func (b *bench) serveImage(im *image) (host string, stop func(), err error) {
	root := filepath.Join(im.dir, "registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	host = l.Addr().String()
	l.Close()
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n", root, host)
	file := filepath.Join(b.turn, "registry.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return "", nil, err
	}
	server := exec.CommandContext(b.ctx, "docker-registry", "serve", file)
	if err := server.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		server.Process.Kill()
		server.Wait()
	}
	err = wait(func() (bool, error) {
		r, err := http.Get("http://" + host + "/v2/")
		if err == nil {
			r.Body.Close()
		}
		return err == nil, b.ctx.Err()
	})
	if err == nil {
		_, err = output(exec.CommandContext(b.ctx, "skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests",
			"--dest-tls-verify=false", "oci-archive:"+im.archive, "docker://"+host+"/"+registryName))
	}
	if err == nil { // its files are in memory then, for all who fetch
		err = b.fetch(im, host, "")
	}
	if err != nil {
		stop()
		return "", nil, err
	}
	return host, stop, nil
}

// fetch gets all blobs of an image, four at a time, into files below dir; ""
// is nowhere.
func (b *bench) fetch(im *image, host, dir string) error {
	f, err := os.Open(im.archive)
	if err != nil {
		return err
	}
	defer f.Close()
	digests, err := blobsOf(f)
	if err != nil {
		return err
	}
	repository, _, _ := strings.Cut(registryName, ":")
	var group errgroup.Group
	group.SetLimit(4)
	for _, d := range digests {
		group.Go(func() error {
			r, err := http.Get("http://" + host + "/v2/" + repository + "/blobs/sha256:" + d)
			if err != nil {
				return err
			}
			defer r.Body.Close()
			if r.StatusCode != http.StatusOK {
				return nil // a manifest
			}
			if dir == "" {
				_, err = io.Copy(io.Discard, r.Body)
				return err
			}
			out, err := os.Create(filepath.Join(dir, d))
			if err != nil {
				return err
			}
			_, err = io.Copy(out, r.Body)
			return errors.Join(err, out.Close())
		})
	}
	return group.Wait()
}

// pullTurn makes a directory of an image in a registry in the way of one
// system.
func pullTurn(b *bench, r row, system string, im *image) error {
	if err := b.sizeOf(im); err != nil {
		return err
	}
	host, stop, err := b.serveImage(im)
	if err != nil {
		return err
	}
	defer stop()
	name := host + "/" + registryName
	root, layout := filepath.Join(b.turn, "root"), filepath.Join(b.turn, "layout")
	copyTo := func(dst string) *exec.Cmd {
		return exec.CommandContext(b.ctx, "skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "docker://"+name, dst)
	}
	switch system {
	case imgfsIs:
		return b.pullImgfs(r, name)
	case skopeoIs:
		return b.timeCommands(r, system, copyTo("containers-storage:[overlay@"+root+"+"+podmanRun+"]x:1"))
	case umociIs:
		unpack := exec.CommandContext(b.ctx, "umoci", "unpack", "--image", layout+":x", filepath.Join(b.turn, "bundle"))
		return b.timeCommands(r, system, copyTo("oci:"+layout+":x"), unpack)
	case fetchIs:
		start := time.Now()
		if err := b.fetch(im, host, b.turn); err != nil {
			return err
		}
		b.report.add(r, untilMounted, system, seconds, time.Since(start).Seconds())
		return nil
	case decodeIs:
		return b.decodeLayers(r, im)
	}
	return fmt.Errorf("no such way to pull: %s", system)
}

// timeCommands records how long commands take, one after the other.
func (b *bench) timeCommands(r row, system string, cmds ...*exec.Cmd) error {
	start, spent := time.Now(), 0.0
	var err error
	for _, cmd := range cmds {
		if err == nil {
			_, err = output(cmd)
			spent += cpuOf(cmd)
		}
	}
	took := time.Since(start).Seconds()
	if system == skopeoIs {
		err = errors.Join(err, b.endPodman())
	}
	if err != nil {
		return err
	}
	disk, err := diskUsage(b.turn)
	b.came(r, system, took, spent, disk)
	return err
}

func (b *bench) pullImgfs(r row, name string) error {
	m, err := b.begun()
	if err != nil {
		return err
	}
	b.mounted = append(b.mounted, m.dir)
	store := filepath.Join(b.turn, "store")
	mount := inStore(exec.CommandContext(b.ctx, b.imgfs, "mount", name, m.dir), store)
	start := time.Now()
	if _, err := output(mount); err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	disk, err := diskUsage(store)
	b.came(r, imgfsIs, took, cpuOf(mount), disk)
	return errors.Join(err, b.unmount(m))
}

// decodeLayers decompresses the layers by gzip.
func (b *bench) decodeLayers(r row, im *image) error {
	image, f, err := openOCI(im.archive)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, l := range image.layers { // into memory
		if _, err := io.Copy(io.Discard, io.NewSectionReader(f, l.off, l.size)); err != nil {
			return err
		}
	}
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	start := time.Now()
	for _, l := range image.layers {
		group.Go(func() error {
			cmd := exec.CommandContext(b.ctx, "gzip", "-dc")
			cmd.Stdin, cmd.Stdout = io.NewSectionReader(f, l.off, l.size), nil
			return cmd.Run()
		})
	}
	err = group.Wait()
	b.report.add(r, untilMounted, decodeIs, seconds, time.Since(start).Seconds())
	return err
}

// blobsOf returns the digests of all blobs in an OCI archive.
func blobsOf(f io.ReadSeeker) (digests []string, err error) {
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return digests, nil
		}
		if err != nil {
			return nil, err
		}
		if hex, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok && h.Typeflag == tar.TypeReg {
			digests = append(digests, hex)
		}
	}
}
