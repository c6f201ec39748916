// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// State is what can be said of a server.
type State int

// States of a server.
const (
	Answers State = iota
	Silent        // it is there, and did not answer in time
	Dead          // it has ended without a word
)

// An Entry is a mount of the register.
type Entry struct {
	Info         // of a silent or dead server: as it was at the beginning, if that was left
	State  State //
	Owner  int   // uid of the register's directory
	Server int   // pid that listens, as seen from here; 0 if not known

	dir string
}

// lookTime is how long List waits for the slowest of the servers.
const lookTime = time.Second

// List returns the mounts registered in dirs, in no order. It waits for a
// silent server at most a second, for all of them at the same time.
func List(ctx context.Context, dirs []string) []*Entry {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		entries []*Entry
	)
	for _, dir := range unique(dirs) {
		owner, err := ownerOf(dir)
		if err != nil || owner != os.Geteuid() && os.Geteuid() != 0 {
			continue
		}
		for id, seen := range idsIn(dir) {
			wg.Go(func() {
				e := look(ctx, dir, id, owner, seen)
				if e == nil {
					return
				}
				mu.Lock()
				entries = append(entries, e)
				mu.Unlock()
			})
		}
	}
	wg.Wait()
	return entries
}

// files says which files of a mount a directory holds.
type files struct{ sock, info bool }

// maxEntries bounds how many mounts of a directory are looked at: one of
// another user may hold anything.
const maxEntries = 4096

func idsIn(dir string) map[string]files {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(4 * maxEntries) // what could be read is still told
	ids := map[string]files{}
	for _, name := range names {
		id, kind, _ := strings.Cut(name, ".")
		if !isID(id) {
			continue
		}
		f := ids[id]
		switch kind {
		case "sock":
			f.sock = true
		case "json":
			f.info = true
		case "log":
			dropOldLog(filepath.Join(dir, name), ids[id])
			continue
		default:
			continue
		}
		if len(ids) < maxEntries {
			ids[id] = f
		}
	}
	return ids
}

// dropOldLog removes the log of a server that ended badly, after some days in
// which somebody could have read it.
func dropOldLog(path string, f files) {
	info, err := os.Lstat(path)
	if err != nil || f != (files{}) || time.Since(info.ModTime()) < keepLogs {
		return
	}
	sock := strings.TrimSuffix(path, ".log") + ".sock"
	if _, err := os.Lstat(sock); errors.Is(err, fs.ErrNotExist) {
		os.Remove(path) // else the next listing does
	}
}

// look asks the server of the mount id. It returns nil if there is none and
// nothing is left of it.
func look(ctx context.Context, dir, id string, owner int, f files) *Entry {
	e := &Entry{Owner: owner, dir: dir}
	e.ID = id
	if !f.sock {
		if e.readInfo() != nil {
			return nil
		}
		if _, err := os.Lstat(socketPath(dir, id)); err == nil {
			return look(ctx, dir, id, owner, files{sock: true, info: true}) // just published
		}
		if _, err := os.Lstat(infoPath(dir, id)); err != nil {
			return nil // just withdrawn
		}
		e.State = Dead
		return e
	}
	c, err := e.ask(ctx, request{Verb: verbInfo}, &e.Info)
	for hungUp(err) && ctx.Err() == nil {
		// It ended as we came. In order, then its socket is gone; or it was
		// killed, and the last of its threads is about to close the socket.
		time.Sleep(time.Millisecond)
		c, err = e.ask(ctx, request{Verb: verbInfo}, &e.Info)
	}
	if c != nil {
		c.Close()
	}
	switch {
	case err == nil:
		return e
	case errors.Is(err, fs.ErrNotExist):
		return nil // it ended in order
	case errors.Is(err, syscall.ECONNREFUSED):
		os.Remove(socketPath(dir, id)) // else the next listing does
		e.State = Dead
		if e.readInfo() != nil {
			return nil
		}
		return e
	}
	e.State = Silent
	e.readInfo() // without it there is a process and no more to say
	return e
}

// hungUp reports whether err says that the server closed the connection
// without an answer.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// readInfo fills e.Info from the file that the server left.
func (e *Entry) readInfo() error {
	f, err := os.OpenFile(infoPath(e.dir, e.ID), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAnswer))
	if err != nil {
		return err
	}
	info := Info{}
	if err := json.Unmarshal(b, &info); err != nil {
		return err
	}
	info.ID = e.ID
	e.Info = info
	return nil
}

// dial connects to the server of e and checks whose it is.
func (e *Entry) dial(ctx context.Context) (*net.UnixConn, error) {
	path := socketPath(e.dir, e.ID)
	if len(path) > maxSockPath {
		return nil, &fs.PathError{Op: "connect", Path: path, Err: syscall.ENAMETOOLONG}
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	c := conn.(*net.UnixConn)
	peer, err := peerOf(c)
	if err == nil && int(peer.Uid) != e.Owner {
		err = fmt.Errorf("%s: served by user %d", path, peer.Uid)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	e.Server = int(peer.Pid)
	return c, nil
}

// ask sends req and reads the answer; info, if not nil, takes what it tells.
// The connection is returned open also with an error that the server sent.
func (e *Entry) ask(ctx context.Context, req request, info *Info) (*net.UnixConn, error) {
	c, err := e.dial(ctx)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*net.UnixConn, error) {
		c.Close()
		return nil, err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(answerTime)
	}
	c.SetDeadline(deadline) // a socket always can
	if err := writeLine(c, req); err != nil {
		return fail(err)
	}
	var a answer
	if err := readLine(c, maxAnswer, &a); err != nil {
		return fail(err)
	}
	if info != nil && a.Info != nil {
		a.Info.ID = e.ID
		*info = *a.Info
	}
	if a.Error != "" {
		err := errors.New(a.Error)
		if a.Errno > 0 {
			err = fmt.Errorf("%s: %w", e.Dir, syscall.Errno(a.Errno))
		}
		return c, err
	}
	return c, nil
}

// Unmount has the server unmount.
func (e *Entry) Unmount(ctx context.Context, lazy bool) error {
	c, err := e.ask(ctx, request{Verb: verbUnmount, Lazy: lazy}, nil)
	if c != nil {
		c.Close()
	}
	return err
}

// Forget removes what a dead server left in the register.
func (e *Entry) Forget() {
	if e.State == Dead {
		os.Remove(infoPath(e.dir, e.ID)) // else the next command does
		os.Remove(socketPath(e.dir, e.ID))
		log := LogPath(e.dir, e.ID)
		if info, err := os.Lstat(log); err == nil && info.Size() == 0 {
			os.Remove(log)
		}
	}
}

// A Vigil is held by who wants to know when a server has ended.
type Vigil struct {
	c     *net.UnixConn
	pidfd int // -1 if the process does not end with the mount, or is not seen from here
}

// Watch begins to wait for the end of e's server. It works on a silent server
// too.
func (e *Entry) Watch(ctx context.Context) (*Vigil, error) {
	v := &Vigil{pidfd: -1}
	if e.State == Answers {
		c, err := e.ask(ctx, request{Verb: verbWait}, nil)
		if err != nil {
			return nil, err
		}
		c.SetDeadline(time.Time{})
		v.c = c
	}
	if !e.Exits || e.Server <= 0 || e.Server == os.Getpid() {
		return v, nil
	}
	fd, err := unix.PidfdOpen(e.Server, 0)
	if err != nil {
		return v, nil // an old kernel, or gone: the connection tells
	}
	// Is that pid still the one that listens? It is if the socket answers.
	again, err := new(net.Dialer).DialContext(ctx, "unix", socketPath(e.dir, e.ID))
	if err != nil {
		unix.Close(fd)
		return v, nil
	}
	again.Close()
	v.pidfd = fd
	return v, nil
}

// Kill ends the process that serves, if it is one that ends with its mount.
func (v *Vigil) Kill() error {
	if v.pidfd < 0 {
		return errors.New("its process is not seen from here")
	}
	return unix.PidfdSendSignal(v.pidfd, unix.SIGKILL, nil, 0)
}

// Wait returns when the server has ended, or with the error of ctx.
func (v *Vigil) Wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		if v.c != nil {
			v.c.SetDeadline(time.Unix(1, 0))
		}
	})
	defer stop()
	if v.c != nil {
		var b [1]byte
		for {
			if _, err := v.c.Read(b[:]); err != nil {
				break // closed, or ctx is over
			}
		}
	}
	for v.pidfd >= 0 && ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(v.pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 20)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return ctx.Err()
}

// Close ends the waiting.
func (v *Vigil) Close() {
	if v.c != nil {
		v.c.Close()
	}
	if v.pidfd >= 0 {
		unix.Close(v.pidfd)
	}
}
