// SPDX-License-Identifier: Apache-2.0

package model

import (
	"strings"

	"golang.org/x/sys/unix"
)

// weights say how often a kind of operation comes and make it.
var weights = []struct {
	weight int
	make   func(g *generator) op
}{
	// names
	{26, func(g *generator) op { return op{Kind: "mkdir", P: g.fresh(), Mode: g.mode()} }},
	{12, func(g *generator) op { return op{Kind: "rmdir", P: g.dir()} }},
	{24, func(g *generator) op { return op{Kind: "unlink", P: g.existing()} }},
	{16, func(g *generator) op { return op{Kind: "symlink", P: g.fresh(), S: g.linkTarget()} }},
	{24, func(g *generator) op {
		return op{Kind: "link", P: g.existing(), Q: g.fresh(), Flags: pick(g, 0, 0, unix.AT_SYMLINK_FOLLOW)}
	}},
	{30, func(g *generator) op {
		return op{Kind: "rename", P: g.existing(), Q: g.fresh(), Flags: pick(g, 0, 0, 0, unix.RENAME_NOREPLACE)}
	}},
	{26, func(g *generator) op {
		return op{Kind: "rename", P: g.existing(), Q: g.existing(), Flags: pick(g, 0, 0, 0, 0, unix.RENAME_EXCHANGE, unix.RENAME_EXCHANGE, unix.RENAME_NOREPLACE, 7)}
	}},
	{4, func(g *generator) op {
		o := op{Kind: "rename", P: g.file(), Q: g.anyPath()}
		if g.root {
			o.Flags = unix.RENAME_WHITEOUT
		}
		return o
	}},
	{12, func(g *generator) op {
		o := op{Kind: "mknod", P: g.fresh(), Mode: g.mode() | uint32(pick(g, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFREG, 0))}
		if g.root && g.chance(40) {
			o.Mode = g.mode() | uint32(pick(g, unix.S_IFCHR, unix.S_IFBLK))
			o.Dev = unix.Mkdev(uint32(g.rnd.IntN(300)), uint32(g.rnd.IntN(70_000)))
		}
		return o
	}},
	{2, func(g *generator) op { return op{Kind: "rmtree", P: g.dir()} }},
	{2, func(g *generator) op { return op{Kind: "removesome", P: g.dir(), Seed: g.rnd.Uint64()} }},
	{2, func(g *generator) op { return op{Kind: "umask", Mode: uint32(pick(g, 0, 0o22, 0o02, 0o27))} }},

	// attributes
	{22, func(g *generator) op { return op{Kind: "chmod", P: g.anyPath(), Mode: g.mode()} }},
	{22, func(g *generator) op {
		if !g.root {
			return op{Kind: "stat", P: g.anyPath()}
		}
		return op{Kind: "chown", P: g.anyPath(), UID: g.id(), GID: g.id(), Flags: pick(g, 0, unix.AT_SYMLINK_NOFOLLOW)}
	}},
	{22, func(g *generator) op {
		o := op{Kind: "utimens", P: g.anyPath(), Flags: pick(g, 0, unix.AT_SYMLINK_NOFOLLOW)}
		o.ASec, o.ANsec = g.time()
		o.MSec, o.MNsec = g.time()
		return o
	}},
	{16, func(g *generator) op { return op{Kind: "truncate", P: g.file(), Len: g.size()} }},
	{10, func(g *generator) op {
		return op{Kind: "stat", P: g.anyPath(), Flags: pick(g, 0, unix.AT_SYMLINK_NOFOLLOW)}
	}},
	{8, func(g *generator) op { return op{Kind: "access", P: g.anyPath(), Mode: uint32(g.rnd.IntN(8))} }},
	{6, func(g *generator) op {
		return op{Kind: "readlink", P: g.existing(unix.DT_LNK), Len: pick[int64](g, 4096, 4096, 1, 10)}
	}},
	{24, func(g *generator) op {
		o := op{Kind: "setxattr", P: g.anyPath(), Flags: pick(g, 0, 0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE)}
		o.S, o.V = g.xattr()
		return o
	}},
	{10, func(g *generator) op {
		o := op{Kind: "removexattr", P: g.anyPath()}
		o.S, _ = g.xattr()
		return o
	}},
	{10, func(g *generator) op {
		o := op{Kind: "getxattr", P: g.anyPath(), Len: pick[int64](g, 0, 1000, 1000, 3)}
		o.S, _ = g.xattr()
		return o
	}},
	{6, func(g *generator) op { return op{Kind: "listxattr", P: g.anyPath()} }},

	// content
	{20, func(g *generator) op {
		o := op{Kind: "writefile", P: g.fresh(), Mode: g.mode(), Off: g.off(), Len: g.length(), Seed: g.rnd.Uint64()}
		o.Flags = unix.O_RDWR | unix.O_CREAT | pick(g, 0, unix.O_EXCL, unix.O_TRUNC, unix.O_NOFOLLOW)
		return o
	}},
	{34, func(g *generator) op {
		o := op{Kind: "writefile", P: g.file(), Off: g.off(), Len: g.length(), Seed: g.rnd.Uint64()}
		o.Flags = unix.O_WRONLY | pick(g, 0, 0, 0, unix.O_TRUNC, unix.O_APPEND, unix.O_APPEND, unix.O_SYNC)
		return o
	}},
	{4, func(g *generator) op {
		return op{Kind: "writefile", P: g.file(), Off: g.off() &^ 4095, Len: g.length() &^ 4095, Seed: g.rnd.Uint64(), Flags: unix.O_WRONLY | unix.O_DIRECT}
	}},
	{16, func(g *generator) op { return op{Kind: "readfile", P: g.file(), Off: g.off(), Len: g.length()} }},
	{4, func(g *generator) op {
		return op{Kind: "readfile", P: g.file(), Off: g.off() &^ 4095, Len: g.length() &^ 4095, Flags: unix.O_DIRECT}
	}},
	{8, func(g *generator) op {
		return op{Kind: "readdir", P: g.dir(), Len: pick[int64](g, 0, 1000, 32768), Seed: g.rnd.Uint64()}
	}},

	// descriptors
	{40, func(g *generator) op {
		o := op{Kind: "open", FD: g.rnd.IntN(slots), P: g.existing(), Mode: g.mode()}
		o.Flags = pick(g, unix.O_RDONLY, unix.O_RDWR, unix.O_RDWR, unix.O_WRONLY, unix.O_PATH, unix.O_RDWR|unix.O_APPEND,
			unix.O_RDWR|unix.O_TRUNC, unix.O_RDWR|unix.O_CREAT, unix.O_PATH|unix.O_NOFOLLOW, unix.O_RDONLY|unix.O_DIRECTORY,
			unix.O_RDONLY|unix.O_DIRECTORY, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
		return o
	}},
	{16, func(g *generator) op {
		return op{Kind: "open", FD: g.rnd.IntN(slots), P: g.fresh(), Mode: g.mode(), Flags: unix.O_RDWR | unix.O_CREAT | pick(g, 0, unix.O_EXCL, unix.O_APPEND)}
	}},
	{8, func(g *generator) op {
		return op{Kind: "tmpfile", FD: g.rnd.IntN(slots), P: g.dir(), Mode: g.mode(), Flags: unix.O_TMPFILE | pick(g, unix.O_RDWR, unix.O_WRONLY, unix.O_RDWR|unix.O_EXCL)}
	}},
	{10, func(g *generator) op {
		return op{Kind: "linkfd", FD: g.slot(), Q: g.fresh(), Flags: pick(g, unix.AT_EMPTY_PATH, 0)}
	}},
	{8, func(g *generator) op { return op{Kind: "close", FD: g.slot()} }},
	{14, func(g *generator) op { return op{Kind: "pread", FD: g.slot(), Off: g.off(), Len: g.length()} }},
	{30, func(g *generator) op {
		return op{Kind: "pwrite", FD: g.slot(), Off: g.off(), Len: g.length(), Seed: g.rnd.Uint64()}
	}},
	{8, func(g *generator) op { return op{Kind: "read", FD: g.slot(), Len: g.length()} }},
	{14, func(g *generator) op { return op{Kind: "write", FD: g.slot(), Len: g.length(), Seed: g.rnd.Uint64()} }},
	{8, func(g *generator) op {
		return op{Kind: "lseek", FD: g.slot(), Off: g.off() - 1, Flags: pick(g, unix.SEEK_SET, unix.SEEK_CUR, unix.SEEK_END)}
	}},
	{8, func(g *generator) op { return op{Kind: "seekdata", FD: g.slot(), Off: g.off()} }},
	{16, func(g *generator) op { return op{Kind: "ftruncate", FD: g.slot(), Len: g.size()} }},
	{20, func(g *generator) op {
		return op{Kind: "fallocate", FD: g.slot(), Off: g.off(), Len: g.length(), Mode: uint32(pick(g,
			0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE))}
	}},
	{4, func(g *generator) op { return op{Kind: "fsync", FD: g.slot()} }},
	{3, func(g *generator) op { return op{Kind: "fdatasync", FD: g.slot()} }},
	{8, func(g *generator) op { return op{Kind: "fchmod", FD: g.slot(), Mode: g.mode()} }},
	{8, func(g *generator) op {
		if !g.root {
			return op{Kind: "fstat", FD: g.slot()}
		}
		return op{Kind: "fchown", FD: g.slot(), UID: g.id(), GID: g.id()}
	}},
	{8, func(g *generator) op {
		o := op{Kind: "futimens", FD: g.slot()}
		o.ASec, o.ANsec = g.time()
		o.MSec, o.MNsec = g.time()
		return o
	}},
	{6, func(g *generator) op { return op{Kind: "fstat", FD: g.slot()} }},
	{6, func(g *generator) op {
		o := op{Kind: "fsetxattr", FD: g.slot()}
		o.S, o.V = g.xattr()
		return o
	}},
	{6, func(g *generator) op { return op{Kind: "fgetdents", FD: g.slot(), Seed: g.rnd.Uint64()} }},
	{14, func(g *generator) op {
		return op{Kind: "mmapwrite", FD: g.slot(), Off: g.off(), Len: g.length(), Seed: g.rnd.Uint64()}
	}},
	{4, func(g *generator) op {
		return op{Kind: "mmapshadow", FD: g.slot(), Off: g.off(), Len: g.length(), Seed: g.rnd.Uint64()}
	}},
	{6, func(g *generator) op { return op{Kind: "mmapread", FD: g.slot(), Off: g.off(), Len: g.length()} }},
	{10, func(g *generator) op {
		return op{Kind: "copyrange", FD: g.slot(), FE: g.slot(), Off: g.off(), Off2: g.off(), Len: g.length()}
	}},

	// everything
	{4, func(*generator) op { return op{Kind: "check"} }},
	{3, func(g *generator) op {
		if g.remounts {
			return op{Kind: "remount"}
		}
		return op{Kind: "check"}
	}},
}

var totalWeight = func() int {
	n := 0
	for _, w := range weights {
		n += w.weight
	}
	return n
}()

func (g *generator) linkTarget() string {
	switch g.rnd.IntN(8) {
	case 0:
		return strings.Repeat("t", pick(g, 1, 59, 60, 61, 255, 1000, 4000, 4095, 4096))
	case 1:
		return pick(g, "", ".", "..", "nowhere", "../../../../tmp")
	}
	return strings.Repeat("../", g.rnd.IntN(4)) + g.existing()
}
