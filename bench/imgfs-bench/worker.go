// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A worker is the process that does a workload.
type worker struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	errs strings.Builder

	stop chan struct{}
	done sync.WaitGroup
	anon float64 // MiB, the most that the server had; read after done
}

type figure struct {
	name    string
	seconds float64
}

func (b *bench) startWork(name string, m *mounted) (*worker, error) {
	w := &worker{cmd: exec.CommandContext(b.ctx, b.self, "work", name, m.dir), stop: make(chan struct{})}
	w.cmd.Dir = "/"
	w.cmd.Stderr = &w.errs
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = bufio.NewReader(out)
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	if m.pid != 0 {
		w.done.Add(1)
		go w.watch(m.pid)
	}
	return w, nil
}

// watch looks at the server's memory now and then.
func (w *worker) watch(pid int) {
	defer w.done.Done()
	for tick := time.NewTicker(200 * time.Millisecond); ; {
		select {
		case <-w.stop:
			return
		case <-tick.C:
			w.anon = max(w.anon, anonOf(pid))
		}
	}
}

// mostAnon ends watching.
func (w *worker) mostAnon() float64 {
	close(w.stop)
	w.stop = make(chan struct{})
	w.done.Wait()
	return w.anon
}

// A coming is the next step of a worker.
type coming struct {
	name string
	cold coldness
	anon bool // look at the server's memory after it
}

// ready waits for the next step; not ok: there is none.
func (w *worker) ready() (s coming, ok bool, err error) {
	line, err := w.out.ReadString('\n')
	if err == io.EOF {
		return s, false, nil
	}
	if err != nil {
		return s, false, err
	}
	_, err = fmt.Sscanf(line, "ready %q %d %t", &s.name, &s.cold, &s.anon)
	return s, err == nil, err
}

// do lets the worker do a step and reads its figures and how long it computed,
// or with which errno it could not.
func (w *worker) do(step string) (figures []figure, cpu float64, errno string, err error) {
	if _, err := io.WriteString(w.in, "go\n"); err != nil {
		return nil, 0, "", err
	}
	for {
		line, err := w.out.ReadString('\n')
		if err != nil {
			return nil, 0, "", fmt.Errorf("%s: %w: %s", step, err, strings.TrimSpace(w.errs.String()))
		}
		var f figure
		if _, err := fmt.Sscanf(line, "%q", &f.name); err != nil {
			return nil, 0, "", fmt.Errorf("%q: %w", line, err)
		}
		rest := strings.TrimSpace(strings.TrimPrefix(line, strconv.Quote(f.name)))
		if errno, ok := strings.CutPrefix(rest, "errno: "); ok {
			return figures, 0, errno, nil
		}
		if _, err := fmt.Sscan(rest, &f.seconds, &cpu); err != nil {
			return nil, 0, "", fmt.Errorf("%q: %w", line, err)
		}
		figures = append(figures, f)
		if f.name == step {
			return figures, cpu, "", nil
		}
	}
}

// end waits for the worker's end.
func (w *worker) end() error {
	close(w.stop)
	w.done.Wait()
	w.in.Close() // it may be waiting for a line
	if err := w.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", w.cmd.Args[2], err, strings.TrimSpace(w.errs.String()))
	}
	return nil
}
