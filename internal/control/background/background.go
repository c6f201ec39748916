// SPDX-License-Identifier: Apache-2.0

// Package background runs a part of the program as a process of its own that
// outlives its parent: in a session of its own, with umask 0, and with no
// descriptor of its parent but a socket. Over that socket the parent says what
// to do, the child says when it is ready or what went wrong, and each notices
// the other's death. Once the child is ready the socket is closed and the
// child moves to the directory /: nothing of the parent is kept.
//
// The package does not know what the child does.
package background

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxLine bounds a message in bytes.
const maxLine = 1 << 20

// socketFD is where the child finds its socket.
const socketFD = 3

// An Error is what went wrong in the child.
type Error struct {
	Code int    // exit code that the parent ends with
	Text string // as the parent prints it
	Hint string // the cure, or empty
}

func (e *Error) Error() string { return e.Text }

// message is what a child tells: one of the fields.
type message struct {
	Ready bool   `json:"ready,omitempty"`
	Warn  string `json:"warn,omitempty"`
	Error *Error `json:"error,omitempty"`
}

// A Child is a process in the background, seen from its parent.
type Child struct {
	cmd *exec.Cmd
	c   net.Conn
}

// Start runs this program again with args, args[0] being the name it goes by,
// and hands it request as JSON. What the child prints, or says when it
// crashes, goes to log, which may be nil.
func Start(args []string, request any, log *os.File) (*Child, error) {
	b, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	if len(b) >= maxLine {
		return nil, fmt.Errorf("request of %d bytes", len(b))
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket")
	defer theirs.Close()
	c, err := net.FileConn(ours)
	ours.Close() // FileConn has its own
	if err != nil {
		return nil, err
	}
	keepFromChildren()
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        args,
		ExtraFiles:  []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if log != nil {
		cmd.Stdout, cmd.Stderr = log, log
	}
	if err := cmd.Start(); err != nil {
		c.Close()
		return nil, err
	}
	child := &Child{cmd: cmd, c: c}
	if _, err := c.Write(append(b, '\n')); err != nil {
		child.stop()
		return nil, err
	}
	return child, nil
}

// keepFromChildren has no descriptor above 2 pass to a child, also those that
// this process was started with.
func keepFromChildren() {
	if unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1) // those that could be read
	for _, name := range names {
		if fd, err := strconv.Atoi(name); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// Wait returns when the child is ready or has failed; then the error is an
// *Error if the child could still say why. It hands on to warn what the child
// has to say meanwhile. When ctx ends first, so does the child.
func (c *Child) Wait(ctx context.Context, warn func(line string)) error {
	stop := context.AfterFunc(ctx, func() { c.c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	lines := bufio.NewReader(c.c)
	for {
		m, err := readMessage(lines)
		switch {
		case ctx.Err() != nil:
			c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
			c.stop()
			return ctx.Err()
		case err != nil:
			state := c.stop()
			return fmt.Errorf("the process in the background ended before it was ready (%s)", state)
		case m.Error != nil:
			c.stop()
			return m.Error
		case m.Warn != "" && warn != nil:
			warn(m.Warn)
		case m.Ready:
			// Released and never waited for: it outlives this process.
			return errors.Join(c.c.Close(), c.cmd.Process.Release())
		}
	}
}

// patience is how long a child that should end may take.
const patience = 10 * time.Second

// stop closes the socket, upon which the child ends by itself, and buries it.
func (c *Child) stop() string {
	c.c.Close()
	kill := time.AfterFunc(patience, func() { c.cmd.Process.Kill() })
	defer kill.Stop()
	c.cmd.Wait() // the state says it
	return c.cmd.ProcessState.String()
}

func readMessage(r *bufio.Reader) (*message, error) {
	b, err := readLine(r)
	if err != nil {
		return nil, err
	}
	m := new(message)
	return m, json.Unmarshal(b, m)
}

// readLine returns a line of at most maxLine bytes.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, fmt.Errorf("line of more than %d bytes", maxLine)
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// A Parent is the parent of a process in the background, seen from there.
type Parent struct {
	r  *bufio.Reader
	c  net.Conn
	mu sync.Mutex // serializes writes

	ready atomic.Bool // the parent may go
}

// Attach is called by the child, first of all: it reads the request and
// returns its parent, and a context that ends if the parent dies before Ready.
func Attach(request any) (*Parent, context.Context, error) {
	syscall.Umask(0)
	f := os.NewFile(socketFD, "socket")
	if f == nil {
		return nil, nil, errors.New("no socket to the parent")
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, nil, fmt.Errorf("this is no command to type: %w", err)
	}
	f.Close() // FileConn has its own
	p := &Parent{r: bufio.NewReader(c), c: c}
	line, err := readLine(p.r)
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	if err := json.Unmarshal(line, request); err != nil {
		c.Close()
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		// The parent says nothing more: this ends with its death, or in Ready.
		if _, err := p.r.ReadByte(); err != nil && !p.ready.Load() {
			cancel()
		}
	}()
	return p, ctx, nil
}

// Warn has the parent print a line.
func (p *Parent) Warn(line string) {
	if len(line) > maxLine/8 { // each byte may take six in JSON
		line = line[:maxLine/8]
	}
	p.send(message{Warn: line}) // a dead parent needs no line
}

// Ready moves to the directory /, tells the parent that all is well and lets
// go of it. An error means that it died meanwhile, and nobody knows of this
// process.
func (p *Parent) Ready() error {
	err := os.Chdir("/")
	p.ready.Store(true)
	err = errors.Join(err, p.send(message{Ready: true}))
	return errors.Join(err, p.c.Close())
}

// Fail tells the parent what went wrong and lets go of it.
func (p *Parent) Fail(e *Error) error {
	err := p.send(message{Error: e})
	return errors.Join(err, p.c.Close())
}

func (p *Parent) send(m message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err = p.c.Write(append(b, '\n'))
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
