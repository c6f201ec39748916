// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

var dirCalls = []call{
	{"rm -rf while listing ends empty", true, testRemoveAll},
	{"a big directory lists each name once", true, testBigDir},
	{"a listing can be left and taken up again", true, testSeekDir},
	{"names that come and go while listing", true, testChangingDir},
	{"d_type and d_ino are those of stat", true, testDirents},
	{"rewinding sees what is new", true, testRewind},
	{"one of many creates a name", true, testRaceCreate},
	{"a name that is renamed over is always there", true, testRaceRename},
	{"many rename in circles", true, testRaceCircle},
	{"many link and unlink one inode", true, testRaceLink},
}

// A dirent is an entry of a listing.
type dirent struct {
	name string
	ino  uint64
	off  int64
	typ  byte
}

// getdents does one getdents64.
func (e *env) getdents(fd, size int) []dirent {
	e.Helper()
	buf := make([]byte, size)
	n, err := unix.Getdents(fd, buf)
	e.must(err)
	var out []dirent
	for b := buf[:n]; len(b) > 0; {
		ne := binary.NativeEndian // linux_dirent64
		size := ne.Uint16(b[16:])
		name := b[19:size]
		name = name[:slices.Index(name, 0)]
		out = append(out, dirent{string(name), ne.Uint64(b), int64(ne.Uint64(b[8:])), b[18]})
		b = b[size:]
	}
	return out
}

func (e *env) listFrom(fd int) []dirent {
	e.Helper()
	var all []dirent
	for {
		some := e.getdents(fd, 4096)
		if len(some) == 0 {
			return all
		}
		all = append(all, some...)
	}
}

// dirNames returns the names in a directory without the dots, sorted.
func dirNames(e *env, name string) []string {
	e.Helper()
	var out []string
	fd := e.open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	defer e.close(fd)
	for _, d := range e.listFrom(fd) {
		if d.name != "." && d.name != ".." {
			out = append(out, d.name)
		}
	}
	slices.Sort(out)
	return out
}

func (e *env) fillDir(name string, n int) {
	e.must(unix.Mkdir(name, 0o755))
	for i := range n {
		fd, err := unix.Open(fmt.Sprintf("%s/file-%05d", name, i), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
		e.must(err)
		unix.Close(fd)
	}
}

func testRemoveAll(e *env) {
	for size, n := range map[int]int{512: 2000, 32 << 10: 10_000} {
		e.fillDir("d", n)
		fd := e.open("d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		removed := 0
		for {
			some := e.getdents(fd, size)
			if len(some) == 0 {
				break
			}
			for _, d := range some {
				if d.name != "." && d.name != ".." {
					e.must(unix.Unlinkat(fd, d.name, 0))
					removed++
				}
			}
		}
		equal(e, "removed in one listing", removed, n)
		e.must(unix.Rmdir("d"))
		e.close(fd)
	}
}

func testBigDir(e *env) {
	const n = 5000
	e.fillDir("d", n)
	names := dirNames(e, "d")
	equal(e, "names", len(names), n)
	for i, name := range names {
		equal(e, "name", name, fmt.Sprintf("file-%05d", i))
	}
	equal(e, "nlink", e.stat("d").Nlink, 2)
	e.must(os.RemoveAll("d"))
}

func testSeekDir(e *env) {
	e.fillDir("d", 300)
	fd := e.open("d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	all := e.listFrom(fd)
	equal(e, "entries", len(all), 302)
	for i := 0; i < len(all); i += 7 {
		_, err := unix.Seek(fd, all[i].off, 0)
		e.must(err)
		rest := e.listFrom(fd)
		if len(rest) != len(all)-i-1 || len(rest) > 0 && rest[0].name != all[i+1].name {
			e.failf("behind entry %d: %d entries, want %d", i, len(rest), len(all)-i-1)
		}
	}
	// An entry that was removed takes nothing else along.
	for i := 1; i < len(all); i += 3 {
		if all[i].name != "." && all[i].name != ".." {
			e.must(unix.Unlinkat(fd, all[i].name, 0))
		}
	}
	_, err := unix.Seek(fd, all[100].off, 0)
	e.must(err)
	rest := e.listFrom(fd)
	for i := 101; i < len(all); i++ {
		// What was removed may still be listed, or not.
		if i%3 != 1 && !slices.ContainsFunc(rest, func(d dirent) bool { return d.name == all[i].name }) {
			e.failf("%s, entry %d, is not listed", all[i].name, i)
		}
	}
}

// testChangingDir: what stays while others come and go is listed once.
func testChangingDir(e *env) {
	e.fillDir("d", 1000)
	fd := e.open("d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	seen := map[string]int{}
	for i := 0; ; i++ {
		some := e.getdents(fd, 600)
		if len(some) == 0 {
			break
		}
		if i > 10_000 {
			e.failf("the listing does not end")
		}
		for _, d := range some {
			seen[d.name]++
		}
		e.must(unix.Mkdir(fmt.Sprintf("d/new-%d", i), 0o755))
		e.must(unix.Rename(fmt.Sprintf("d/new-%d", i), fmt.Sprintf("d/renamed-%d", i)))
		if i%2 == 0 {
			e.must(unix.Rmdir(fmt.Sprintf("d/renamed-%d", i)))
		}
	}
	for i := range 1000 {
		if name := fmt.Sprintf("file-%05d", i); seen[name] != 1 {
			e.failf("%s was listed %d times", name, seen[name])
		}
	}
	for name, n := range seen {
		if n > 1 {
			e.failf("%s was listed %d times", name, n)
		}
	}
}

func testDirents(e *env) {
	e.run("create file\nmkdir dir 755\nsymlink x symlink\nmkfifo fifo 644\nmake socket socket\nlink file link")
	if e.runner.root {
		e.run("make char char\nmake block block")
	}
	check := func() {
		fd := e.open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		defer e.close(fd)
		for _, d := range e.listFrom(fd) {
			st := e.stat(d.name)
			if d.name != ".." && (d.ino != st.Ino || uint32(d.typ)<<12 != st.Mode&unix.S_IFMT) {
				e.failf("%s: listed as inode %d of type %d, stat says %d of %#o", d.name, d.ino, d.typ, st.Ino, st.Mode)
			}
		}
	}
	check()
	e.run("rename file f2\nunlink symlink\ncreate symlink\nrename dir dir2")
	check()
}

func testRewind(e *env) {
	e.must(unix.Mkdir("d", 0o755))
	fd := e.open("d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	equal(e, "entries", len(e.listFrom(fd)), 2)
	e.put("d/f", "")
	_, err := unix.Seek(fd, 0, 0)
	e.must(err)
	equal(e, "entries after a creation", len(e.listFrom(fd)), 3)
	e.must(unix.Unlink("d/f"))
	_, err = unix.Seek(fd, 0, 0)
	e.must(err)
	equal(e, "entries after a removal", len(e.listFrom(fd)), 2)
}

// together runs f on n goroutines, with absolute paths below dir.
func (e *env) together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func testRaceCreate(e *env) {
	for round := range 50 {
		var made, dirs, linked atomic.Int32
		name := fmt.Sprintf("%s/f%d", e.dir, round)
		e.put(name+"-src", "")
		e.together(4, func(int) {
			if fd, err := unix.Open(name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644); err == nil {
				made.Add(1)
				unix.Close(fd)
			}
			if unix.Mkdir(name+"-dir", 0o755) == nil {
				dirs.Add(1)
			}
			if unix.Link(name+"-src", name+"-link") == nil {
				linked.Add(1)
			}
		})
		equal(e, "creators", made.Load(), 1)
		equal(e, "makers of a directory", dirs.Load(), 1)
		equal(e, "linkers", linked.Load(), 1)
		equal(e, "nlink", e.stat(name+"-src").Nlink, 2)
	}
}

func testRaceRename(e *env) {
	e.put("target", "0")
	var bad atomic.Int32
	stopped := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stopped:
					return
				default:
				}
				data, err := os.ReadFile(e.dir + "/target")
				if err != nil || len(data) != 1 {
					bad.Add(1)
				}
			}
		})
	}
	for i := range 300 {
		e.put("new", fmt.Sprint(i%10))
		e.must(unix.Rename("new", "target"))
	}
	close(stopped)
	wg.Wait()
	equal(e, "times that the name was missing or empty", bad.Load(), 0)
}

// testRaceCircle: renames between directories neither lose nor double a file.
func testRaceCircle(e *env) {
	e.run("mkdir a 755\nmkdir b 755\nmkdir c 755")
	for i := range 20 {
		e.put(fmt.Sprintf("a/%d", i), "")
	}
	dirs := []string{"a", "b", "c"}
	e.together(4, func(g int) {
		for i := range 400 {
			n := fmt.Sprint((i*7 + g) % 20)
			from, to := dirs[(i+g)%3], dirs[(i+g+1+g%2)%3]
			unix.Rename(e.dir+"/"+from+"/"+n, e.dir+"/"+to+"/"+n)
		}
	})
	total := 0
	for _, d := range dirs {
		total += len(dirNames(e, d))
	}
	equal(e, "files in all", total, 20)
}

func testRaceLink(e *env) {
	e.put("f", "")
	e.together(4, func(g int) {
		name := fmt.Sprintf("%s/l%d", e.dir, g)
		for range 200 {
			unix.Link(e.dir+"/f", name)
			unix.Unlink(name)
		}
		unix.Link(e.dir+"/f", name)
	})
	equal(e, "nlink", e.stat("f").Nlink, 5)
}
