// SPDX-License-Identifier: Apache-2.0

// Command memfs is the peer that a writable mount is measured against: a FUSE
// server on go-fuse's raw API that does nothing but what the protocol asks. It
// keeps names and attributes in memory, throws written bytes away and reads
// zeros. What it takes, any server of this kind takes.
//
// It asks the kernel for what imgfs asks for, and answers as sparingly:
// everything is cached for ever, no FLUSH. It says that no file has extended
// attributes, not that there are none here: a filesystem that has some is asked
// for security.capability before the first write of each file and each chown,
// and has to answer. With -noxattr it is not asked.
//
//	memfs [-from DIR:DIR...] [-writeback] [-noxattr] MOUNTPOINT
//
// It serves until it is unmounted. It is no filesystem to keep anything in.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
)

func main() {
	var (
		from      = flag.String("from", "", "begin with the names and attributes below these directories, one over the other; a colon between them")
		noxattr   = flag.Bool("noxattr", false, "know no extended attributes")
		writeback = flag.Bool("writeback", false, "let the kernel gather writes")
	)
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := serve(flag.Arg(0), *from, *writeback, *noxattr); err != nil {
		fmt.Fprintln(os.Stderr, "memfs:", err)
		os.Exit(1)
	}
}

func serve(dir, from string, writeback, noxattr bool) error {
	m := newMemfs()
	m.noxattr = noxattr
	for dir := range strings.SplitSeq(from, ":") {
		if dir == "" {
			continue
		}
		if err := m.fill(root, dir); err != nil {
			return err
		}
	}
	server, err := fuse.NewServer(m, dir, options(writeback))
	if err != nil {
		return err
	}
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		return errors.Join(err, server.Unmount())
	}
	server.Wait()
	return nil
}

// maxRequest is the most bytes of a READ or WRITE.
const maxRequest = 1 << 20

func options(writeback bool) *fuse.MountOptions {
	o := &fuse.MountOptions{
		FsName: "memfs", Name: "memfs",
		DirectMount:              os.Geteuid() == 0,
		AllowOther:               os.Geteuid() == 0,
		MaxWrite:                 maxRequest,
		MaxBackground:            16,
		EnableSymlinkCaching:     true,
		EnableAcl:                true,
		ExplicitDataCacheControl: true,
		DisableSplice:            true,
		ExtraCapabilities:        fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_DONT_MASK,
		DisabledCapabilities:     fuse.CAP_PASSTHROUGH | fuse.CAP_READDIRPLUS_AUTO,
	}
	if o.AllowOther {
		o.Options = []string{"default_permissions"}
	}
	if writeback {
		o.ExtraCapabilities |= fuse.CAP_WRITEBACK_CACHE
	}
	return o
}
