// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func BenchmarkSmallFile(b *testing.B) {
	u := newContentUpper(b, lowFS(b, nil), filepath.Join(b.TempDir(), "u"))
	p := make([]byte, 4096)
	k := 0
	b.ReportAllocs()
	for b.Loop() {
		var a Attr
		f, err := u.CreateFile(Caller{}, RootNode, fmt.Sprint(k), Creation{Mode: 0o600}, &a)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.WriteAt(p, 0); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		k++
	}
}

// What tar and rm do with a small file.
func BenchmarkUntarRemove(b *testing.B) {
	u := newContentUpper(b, lowFS(b, nil), filepath.Join(b.TempDir(), "u"))
	p := make([]byte, 4096)
	k := 0
	b.ReportAllocs()
	for b.Loop() {
		var a Attr
		name := fmt.Sprint(k)
		f, err := u.CreateFile(Caller{}, RootNode, name, Creation{Mode: 0o600, Small: true}, &a)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.WriteAt(p, 0); err != nil {
			b.Fatal(err)
		}
		for _, s := range []SetAttr{{Valid: SetMtime, Mtime: Time{1e9, 0}}, {Valid: SetUID | SetGID}, {Valid: SetMode, Mode: 0o644}} {
			if err := u.SetAttr(Caller{}, a.Node, &s, &a); err != nil {
				b.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		k++
		if k >= 5000 {
			if err := u.Unlink(RootNode, fmt.Sprint(k-5000)); err != nil {
				b.Fatal(err)
			}
			u.Forget(FirstOwn + Node(k-5000))
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	const size = 64 << 20
	for _, bench := range []struct {
		name string
		n    int
		file lowFile
		step int64
	}{
		{"local/4K", 4 << 10, lowFile{}, 4 << 10},
		{"local/1M", 1 << 20, lowFile{}, 1 << 20},
		{"mixed/again/4K", 4 << 10, lowFile{size: size}, 0},
		{"mixed/again/100", 100, lowFile{size: size}, 0},
		{"mixed/new/4K", 4 << 10, lowFile{size: size}, 8 << 10},
		{"mixed/new/100", 100, lowFile{size: size}, 8 << 10},
	} {
		b.Run(bench.name, func(b *testing.B) {
			u := newContentUpper(b, lowFS(b, nil, bench.file), filepath.Join(b.TempDir(), "u"))
			f := openFile(b, u, 2)
			p := make([]byte, bench.n)
			off := int64(0)
			b.ReportAllocs()
			b.SetBytes(int64(bench.n))
			for b.Loop() {
				if _, err := f.WriteAt(p, off); err != nil {
					b.Fatal(err)
				}
				if off += bench.step; off >= size {
					off = 0
				}
			}
			f.Close()
		})
	}
}

func BenchmarkRead(b *testing.B) {
	const size = 64 << 20
	for _, bench := range []struct {
		name  string
		write []int64
	}{{"low", nil}, {"mixed", []int64{0, 1 << 20, 9 << 20}}} {
		b.Run(bench.name, func(b *testing.B) {
			u := newContentUpper(b, lowFS(b, nil, lowFile{size: size, runs: [][2]int64{{0, size}}}), filepath.Join(b.TempDir(), "u"))
			f := openFile(b, u, 2)
			p := make([]byte, 128<<10)
			for _, off := range bench.write {
				if _, err := f.WriteAt(p[:9000], off); err != nil {
					b.Fatal(err)
				}
			}
			off := int64(0)
			b.ReportAllocs()
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				if _, err := f.ReadAt(p, off); err != nil {
					b.Fatal(err)
				}
				if off += int64(len(p)); off >= size {
					off = 0
				}
			}
			f.Close()
		})
	}
}

func BenchmarkSync(b *testing.B) {
	p := make([]byte, 4096)
	b.Run("again/disk", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "f"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		for b.Loop() {
			f.WriteAt(p, 0)
			f.Sync()
		}
	})
	b.Run("again/upper", func(b *testing.B) {
		u := newContentUpper(b, lowFS(b, nil, lowFile{}), filepath.Join(b.TempDir(), "u"))
		f := openFile(b, u, 2)
		defer f.Close()
		for b.Loop() {
			f.WriteAt(p, 0)
			f.Sync(false)
		}
	})
	b.Run("new/disk", func(b *testing.B) {
		dir := b.TempDir()
		d, err := os.Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		defer d.Close()
		for k := 0; b.Loop(); k++ {
			f, err := os.Create(filepath.Join(dir, fmt.Sprint(k)))
			if err != nil {
				b.Fatal(err)
			}
			f.WriteAt(p, 0)
			f.Sync()
			d.Sync()
			f.Close()
		}
	})
	b.Run("new/upper", func(b *testing.B) {
		u := newContentUpper(b, lowFS(b, nil), filepath.Join(b.TempDir(), "u"))
		for k := 0; b.Loop(); k++ {
			var a Attr
			f, err := u.CreateFile(Caller{}, RootNode, fmt.Sprint(k), Creation{Mode: 0o600}, &a)
			if err != nil {
				b.Fatal(err)
			}
			f.WriteAt(p, 0)
			if err := f.Sync(false); err != nil {
				b.Fatal(err)
			}
			if err := u.SyncDir(RootNode); err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	})
	b.Run("mixed/upper", func(b *testing.B) {
		u := newContentUpper(b, lowFS(b, nil, lowFile{size: 64 << 20}), filepath.Join(b.TempDir(), "u"))
		f := openFile(b, u, 2)
		defer f.Close()
		for k := 0; b.Loop(); k++ {
			f.WriteAt(p, int64(k%8000)*8192)
			f.Sync(false)
		}
	})
}

// The first byte written to a file of a layer: up to copyWhole it is copied.
func BenchmarkFirstWrite(b *testing.B) {
	for _, size := range []int{4 << 10, 32 << 10, copyWhole, copyWhole + 1, 4 << 20} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			files := make([]lowFile, 200)
			for k := range files {
				files[k].size, files[k].runs = int64(size), [][2]int64{{0, min(int64(size), 64<<10)}}
			}
			fs := lowFS(b, nil, files...)
			k := len(files)
			var u *Upper
			for b.Loop() {
				if k == len(files) {
					b.StopTimer()
					u, k = newContentUpper(b, fs, filepath.Join(memoryDir(b), "u")), 0
					b.StartTimer()
				}
				f := openFile(b, u, Node(k+2))
				if _, err := f.WriteAt([]byte{1}, int64(size)/2); err != nil {
					b.Fatal(err)
				}
				f.Close()
				k++
			}
		})
	}
}
