// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/index"
)

// The bytes of a file by dd(1), from memory behind the server: what FUSE
// itself costs.
func BenchmarkRead(b *testing.B) {
	needFUSE(b)
	const size = 256 << 20
	f := newFS(b, []item{
		{path: "", mode: index.ModeDir | 0o755},
		{path: "f", mode: index.ModeRegular | 0o644, data: strings.Repeat("0123456789abcdef", size/16)},
	})
	dir := b.TempDir()
	b.SetBytes(size)
	for b.Loop() {
		b.StopTimer()
		s, err := Mount(dir, f, Options{Log: b.Logf})
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := exec.Command("sh", "-c", `dd if="$0" of=/dev/null bs=1M status=none`, dir+"/f").Run(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Unmount(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// A walk with stat of 50 000 files by find(1): first after the mount, and
// again from the kernel's caches.
func BenchmarkWalk(b *testing.B) {
	needFUSE(b)
	f := newFS(b, wide(500, 100))
	dir := b.TempDir()
	find := func(b *testing.B) {
		if err := exec.Command("find", dir, "-printf", "%s %m %T@\n").Run(); err != nil {
			b.Fatal(err)
		}
	}
	mount := func(b *testing.B) *Server {
		s, err := Mount(dir, f, Options{Log: b.Logf})
		if err != nil {
			b.Fatal(err)
		}
		return s
	}
	unmount := func(b *testing.B, s *Server) {
		if err := s.Unmount(); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			s := mount(b)
			b.StartTimer()
			find(b)
			b.StopTimer()
			unmount(b, s)
			b.StartTimer()
		}
	})
	b.Run("again", func(b *testing.B) {
		s := mount(b)
		find(b)
		for b.Loop() {
			find(b)
		}
		unmount(b, s)
	})
	b.Run("mount", func(b *testing.B) {
		for b.Loop() {
			unmount(b, mount(b))
		}
	})
}
