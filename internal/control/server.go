// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Handler is the mount that a server serves.
type Handler interface {
	Info() Info
	Unmount(lazy bool) error
	// Call writes what is called for to w. ctx ends with the client.
	Call(ctx context.Context, c *Call, w io.Writer) error
}

// A Server answers for one mount.
type Server struct {
	dir, id string
	l       *net.UnixListener
	h       Handler // set before the first connection is taken
	slots   chan struct{}
	done    chan struct{} // closed when nothing is accepted any more

	// mu is never held while a client is waited for.
	mu      sync.Mutex
	waiting map[net.Conn]bool // guarded by mu; nil once closed
}

// Listen makes the socket of the mount id in dir, which Prepare returned.
// Nobody finds it before Publish.
func Listen(dir, id string) (*Server, error) {
	hidden := socketPath(dir, id) + ".new"
	// bind(2) makes the socket with the umask's rights; what keeps others out
	// is the directory, 0700 since before the socket was there.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(hidden, 0o600); err != nil {
		l.Close()
		os.Remove(hidden)
		return nil, err
	}
	return &Server{
		dir: dir, id: id, l: l,
		slots: make(chan struct{}, maxClients), done: make(chan struct{}),
		waiting: map[net.Conn]bool{},
	}, nil
}

// Publish lets the mount be found, and answers for it until Close.
func (s *Server) Publish(h Handler) error {
	s.h = h
	go s.accept()
	// First the socket: a description without one is taken for a dead server's.
	if err := os.Rename(socketPath(s.dir, s.id)+".new", socketPath(s.dir, s.id)); err != nil {
		return err
	}
	b, err := json.Marshal(h.Info())
	if err != nil {
		return err
	}
	hidden := infoPath(s.dir, s.id) + ".new"
	if err := os.WriteFile(hidden, b, 0o600); err != nil {
		return err
	}
	return os.Rename(hidden, infoPath(s.dir, s.id))
}

// Withdraw removes the mount from the register. Who waits for the server goes
// on waiting.
func (s *Server) Withdraw() {
	// What is missing already is as good; what cannot be removed will be
	// found dead.
	os.Remove(infoPath(s.dir, s.id))
	os.Remove(infoPath(s.dir, s.id) + ".new")
	os.Remove(socketPath(s.dir, s.id))
	os.Remove(socketPath(s.dir, s.id) + ".new")
	s.l.Close()
}

// Close withdraws the mount and lets go who waits for the server.
func (s *Server) Close() {
	s.Withdraw()
	s.mu.Lock()
	waiting := s.waiting
	s.waiting = nil
	s.mu.Unlock()
	for c := range waiting {
		c.Close()
	}
}

func (s *Server) accept() {
	defer close(s.done)
	for {
		c, err := s.l.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors, for now
			continue
		}
		select {
		case s.slots <- struct{}{}:
			go func() {
				defer func() { <-s.slots }()
				s.serve(c)
			}()
		default:
			c.Close() // as many as there are slots are being answered
		}
	}
}

// serve answers one request.
func (s *Server) serve(c *net.UnixConn) {
	defer c.Close()
	peer, err := peerOf(c)
	if err != nil || int(peer.Uid) != os.Geteuid() && peer.Uid != 0 {
		return
	}
	c.SetDeadline(time.Now().Add(answerTime)) // a socket always can
	var req request
	if err := readLine(c, maxRequest, &req); err != nil {
		writeLine(c, answer{Error: err.Error()}) // the client may be gone
		return
	}
	switch req.Verb {
	case verbInfo:
		info := s.h.Info()
		writeLine(c, answer{Info: &info})
	case verbUnmount:
		// The kernel answers this one, not a client: it takes what it takes.
		err := s.h.Unmount(req.Lazy)
		c.SetDeadline(time.Now().Add(answerTime))
		writeLine(c, answerOf(err))
	case verbWait:
		s.hold(c)
	case verbCall:
		s.call(c, req.Call)
	default:
		writeLine(c, answer{Error: fmt.Sprintf("unknown verb %.40q", req.Verb)})
	}
}

// hold keeps c open until the server or the client is gone.
func (s *Server) hold(c net.Conn) {
	s.mu.Lock()
	if s.waiting == nil {
		s.mu.Unlock()
		return
	}
	s.waiting[c] = true
	s.mu.Unlock()
	info := s.h.Info()
	writeLine(c, answer{Info: &info})
	c.SetDeadline(time.Time{})
	var b [1]byte
	c.Read(b[:]) // returns when either side has closed
	s.mu.Lock()
	delete(s.waiting, c)
	s.mu.Unlock()
}

func answerOf(err error) answer {
	if err == nil {
		return answer{}
	}
	a := answer{Error: err.Error()}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		a.Errno = int(errno)
	}
	return a
}

// peerOf returns who is at the other end of c, as the kernel says.
func peerOf(c *net.UnixConn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil {
		return nil, err
	}
	return cred, credErr
}

// readLine reads a line of JSON of at most limit bytes into v.
func readLine(r io.Reader, limit int64, v any) error {
	b, err := bufio.NewReader(io.LimitReader(r, limit)).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("no whole line in %d bytes: %w", len(b), err)
	}
	return json.Unmarshal(bytes.TrimSuffix(b, []byte("\n")), v)
}

func writeLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
