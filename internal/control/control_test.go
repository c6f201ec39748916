// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

type fakeMount struct {
	info    Info
	err     error
	unmount atomic.Int32
	hang    chan struct{} // if not nil, Info waits for it
}

func (m *fakeMount) Info() Info {
	if m.hang != nil {
		<-m.hang
	}
	return m.info
}

func (m *fakeMount) Unmount(bool) error { m.unmount.Add(1); return m.err }

// Call writes its argument, a JSON string, as often as its name is long.
func (m *fakeMount) Call(ctx context.Context, c *Call, w io.Writer) error {
	if c.Name == "wait" {
		<-ctx.Done()
		return ctx.Err()
	}
	for range c.Name {
		if _, err := w.Write(c.Arg); err != nil {
			return err
		}
	}
	return m.err
}

// register returns a directory that is short enough for sockets.
func register(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "imgfs-run-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func publish(t *testing.T, dir string, m *fakeMount) *Server {
	t.Helper()
	if m.info.ID == "" {
		m.info.ID = NewID()
	}
	s, err := Listen(dir, m.info.ID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.Publish(m); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestListAsksEachServer(t *testing.T) {
	dir := register(t)
	a := &fakeMount{info: Info{Dir: "/a", PID: os.Getpid()}}
	publish(t, dir, a)
	s := publish(t, dir, &fakeMount{info: Info{Dir: "/b"}, err: &os.PathError{Op: "unmount", Path: "/b", Err: syscall.EBUSY}})
	found := List(t.Context(), []string{dir, dir, "/nonexistent"})
	if len(found) != 2 {
		t.Fatalf("found %d mounts", len(found))
	}
	for _, e := range found {
		if e.State != Answers || e.Server != os.Getpid() {
			t.Errorf("%s: state %v, pid %d", e.Dir, e.State, e.Server)
		}
		err := e.Unmount(t.Context(), false)
		if want := e.Dir == "/b"; errors.Is(err, syscall.EBUSY) != want || (err != nil) != want {
			t.Errorf("unmount %s: %v", e.Dir, err)
		}
	}
	if a.unmount.Load() != 1 {
		t.Error("the server did not unmount")
	}
	s.Close()
	if found := List(t.Context(), []string{dir}); len(found) != 1 || found[0].Dir != "/a" {
		t.Errorf("after one has closed: %d mounts", len(found))
	}
}

func TestDeadServerIsFoundOut(t *testing.T) {
	dir := register(t)
	m := &fakeMount{info: Info{Dir: "/a", Made: []string{"/a"}}}
	s := publish(t, dir, m)
	s.l.Close() // as a kill does: the files stay
	found := List(t.Context(), []string{dir})
	if len(found) != 1 || found[0].State != Dead || len(found[0].Made) != 1 {
		t.Fatalf("found %+v", found)
	}
	found[0].Forget()
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestSilentServerHoldsNobodyUp(t *testing.T) {
	dir := register(t)
	id := NewID()
	// Its socket takes connections and nobody answers.
	l, err := net.Listen("unix", socketPath(dir, id))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.WriteFile(infoPath(dir, id), []byte(`{"dir":"/a","pid":7}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	found := List(ctx, []string{dir})
	if len(found) != 1 || found[0].State != Silent || found[0].Dir != "/a" {
		t.Fatalf("found %+v", found)
	}
}

func TestWaitEndsWithTheServer(t *testing.T) {
	dir := register(t)
	s := publish(t, dir, &fakeMount{info: Info{Dir: "/a"}})
	e := List(t.Context(), []string{dir})[0]
	v, err := e.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := v.Wait(short); err == nil {
		t.Error("waited for nothing")
	}
	v2, err := e.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer v2.Close()
	s.Close()
	if err := v2.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestServerSurvivesWhatItIsSent(t *testing.T) {
	dir := register(t)
	m := &fakeMount{info: Info{Dir: "/a"}}
	publish(t, dir, m)
	for _, sent := range []string{
		"", "\n", "{}\n", "[", `{"verb":"format"}` + "\n", `{"verb":7}` + "\n",
		strings.Repeat("x", 2*maxRequest), `{"verb":"info","pad":"` + strings.Repeat("x", maxRequest) + `"}` + "\n",
	} {
		c, err := net.Dial("unix", socketPath(dir, m.info.ID))
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte(sent)) // it may hang up before it has read all
		c.Close()
	}
	if found := List(t.Context(), []string{dir}); len(found) != 1 || found[0].State != Answers {
		t.Errorf("found %+v", found)
	}
}

func TestStrangeFilesAreNoMounts(t *testing.T) {
	dir := register(t)
	id := NewID()
	for name, text := range map[string]string{
		"x.sock": "", ".json": "{}", "../.sock": "", "0123.json": "{}", id + ".json": "not JSON", NewID() + ".new": "",
		NewID() + ".sock": "a file", id + ".log": "old",
	} {
		os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)
	}
	syscall.Mkfifo(infoPath(dir, NewID()), 0o600)
	if found := List(t.Context(), []string{dir}); len(found) > 0 {
		t.Errorf("found %+v", found[0])
	}
}

func TestPrepareWantsADirectoryOfOurOwn(t *testing.T) {
	base := register(t)
	link := filepath.Join(base, "link")
	if err := os.Symlink(base, link); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(base, "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		dir string
		ok  bool
	}{
		{link, false}, {file, false}, {open, false}, {base + "/" + strings.Repeat("x", 100), false},
		{base + "/a/b", false}, {base + "/new", true},
	} {
		got, err := Prepare([]string{tt.dir})
		if (err == nil) != tt.ok || tt.ok && got != tt.dir {
			t.Errorf("Prepare(%s) = %q, %v", tt.dir, got, err)
		}
		if info, err := os.Stat(tt.dir); tt.ok && (err != nil || info.Mode().Perm() != 0o700) {
			t.Errorf("%s: %v, %v", tt.dir, info.Mode(), err)
		}
	}
	if os.Geteuid() == 0 {
		theirs := filepath.Join(base, "theirs")
		if err := errors.Join(os.Mkdir(theirs, 0o700), os.Chown(theirs, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
		if _, err := Prepare([]string{theirs}); err == nil {
			t.Error("took a directory of another user")
		}
	}
	if got, err := Prepare([]string{link, base + "/second"}); got != base+"/second" {
		t.Errorf("%q, %v", got, err)
	}
}
