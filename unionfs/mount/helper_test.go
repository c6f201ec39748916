// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A helper is another process that uses a mount: one that maps a file of a
// mount it serves itself can hang for ever.
type helper struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Reader
}

const helperEnv = "IMGFS_MOUNT_TEST_HELPER"

// newHelper starts a helper, as the user uid.
func newHelper(t *testing.T, uid uint32) *helper {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHelper$")
	cmd.Env = append(os.Environ(), helperEnv+"=1")
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	cmd.Dir = "/"
	must(t, cmd.Start())
	h := &helper{t: t, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	return h
}

// ask has the helper do something and returns its answer: "ok", what was read
// in quotes, or an errno's name.
func (h *helper) ask(format string, args ...any) string {
	h.t.Helper()
	fmt.Fprintf(h.in, format+"\n", args...)
	line, err := h.out.ReadString('\n')
	if err != nil {
		h.t.Fatalf("%s: the helper is gone: %v", fmt.Sprintf(format, args...), err)
	}
	return strings.TrimSuffix(line, "\n")
}

// do is ask where all is to go well.
func (h *helper) do(format string, args ...any) {
	h.t.Helper()
	if got := h.ask(format, args...); got != "ok" {
		h.t.Fatalf("%s: %s", fmt.Sprintf(format, args...), got)
	}
}

// is asks and compares.
func (h *helper) is(want, format string, args ...any) {
	h.t.Helper()
	if got := h.ask(format, args...); got != want {
		h.t.Errorf("%s: %s, want %s", fmt.Sprintf(format, args...), got, want)
	}
}

// TestHelper is what a helper runs. A command is a verb, a number that names a
// file, and what the verb needs, by blanks.
func TestHelper(t *testing.T) {
	if os.Getenv(helperEnv) == "" {
		t.Skip("for a helper")
	}
	files, maps := map[string]int{}, map[string][]byte{}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		w := strings.Fields(in.Text())
		out, err := helperDo(w[0], w[1], w[2:], files, maps)
		switch e, ok := err.(syscall.Errno); {
		case ok:
			fmt.Println(unix.ErrnoName(e))
		case err != nil:
			fmt.Println(err)
		case out != "":
			fmt.Println(out)
		default:
			fmt.Println("ok")
		}
	}
	os.Exit(0)
}

var helperFlags = map[string]int{
	"r": unix.O_RDONLY, "w": unix.O_WRONLY, "rw": unix.O_RDWR, "a": unix.O_WRONLY | unix.O_APPEND,
	"trunc": unix.O_WRONLY | unix.O_TRUNC, "creat": unix.O_RDWR | unix.O_CREAT | unix.O_EXCL,
	"direct": unix.O_RDWR | unix.O_DIRECT,
}

func helperDo(verb, name string, arg []string, files map[string]int, maps map[string][]byte) (out string, err error) {
	num := func(i int) int {
		n, err := strconv.Atoi(arg[i])
		if err != nil {
			panic(err)
		}
		return n
	}
	fd := files[name]
	switch verb {
	case "open": // flags path
		fd, err := unix.Open(arg[1], helperFlags[arg[0]], 0o644)
		files[name] = fd
		return "", err
	case "close":
		return "", unix.Close(fd)
	case "read": // offset length
		b := make([]byte, num(1))
		n, err := unix.Pread(fd, b, int64(num(0)))
		return strconv.Quote(string(b[:max(n, 0)])), err
	case "write": // offset word
		_, err := unix.Pwrite(fd, []byte(arg[1]), int64(num(0)))
		return "", err
	case "fill": // offset length byte: aligned, for O_DIRECT
		b, err := unix.Mmap(-1, 0, num(1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return "", err
		}
		defer unix.Munmap(b)
		for i := range b {
			b[i] = arg[2][0]
		}
		_, err = unix.Pwrite(fd, b, int64(num(0)))
		return "", err
	case "truncate":
		return "", unix.Ftruncate(fd, int64(num(0)))
	case "punch":
		return "", unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(num(0)), int64(num(1)))
	case "fsync":
		return "", unix.Fsync(fd)
	case "map": // length
		m, err := unix.Mmap(fd, 0, num(0), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		maps[name] = m
		return "", err
	case "mapr": // length
		m, err := unix.Mmap(fd, 0, num(0), unix.PROT_READ, unix.MAP_SHARED)
		maps[name] = m
		return "", err
	case "store": // offset word
		copy(maps[name][num(0):], arg[1])
		return "", nil
	case "load": // offset length
		return strconv.Quote(string(maps[name][num(0) : num(0)+num(1)])), nil
	case "msync":
		return "", unix.Msync(maps[name], unix.MS_SYNC)
	case "unmap":
		return "", unix.Munmap(maps[name])
	case "times": // of a path: mtime in nanoseconds
		var st unix.Stat_t
		err := unix.Stat(arg[0], &st)
		return strconv.FormatInt(st.Mtim.Nano(), 10), err
	case "ioctl":
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(num(0)), uintptr(unsafe.Pointer(new([8]uint64))))
		if e != 0 {
			return "", e
		}
		return "", nil
	}
	return "", fmt.Errorf("no verb %s", verb)
}
