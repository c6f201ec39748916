// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// An effort is what was spent: a hint at what to make better. On a machine with
// other work CPU time says more than what the clock says. Reads and
// writes are system calls: one read and one write for each request of the
// kernel, and what the server does with its own files.
type effort struct {
	Worker float64 `json:"worker"` // s of CPU, of who asked: the kernel's work is in it
	CPU    float64 `json:"cpu"`    // s, of the server
	Reads  float64 `json:"reads"`
	Writes float64 `json:"writes"`
	MB     float64 `json:"mb"` // that it had written to disk
}

// effortOf returns what a process has spent so far; nothing if it is pid 0.
func effortOf(pid int) (e effort) {
	if pid == 0 {
		return e
	}
	for line := range strings.Lines(readProc(pid, "io")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "syscr":
			e.Reads = n
		case "syscw":
			e.Writes = n
		case "write_bytes":
			e.MB = n / 1e6
		}
	}
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, name := range threads {
		b, _ := os.ReadFile(name)
		ran, _, _ := strings.Cut(string(b), " ")
		ns, _ := strconv.ParseFloat(ran, 64)
		e.CPU += ns / 1e9
	}
	return e
}

func (e effort) minus(o effort) effort {
	return effort{e.Worker - o.Worker, e.CPU - o.CPU, e.Reads - o.Reads, e.Writes - o.Writes, e.MB - o.MB}
}

// anonOf returns the anonymous memory of a process in MiB; 0 if it is gone.
func anonOf(pid int) float64 {
	_, rest, ok := strings.Cut(readProc(pid, "status"), "RssAnon:")
	if !ok {
		return 0
	}
	kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	return kib / 1024
}

func readProc(pid int, name string) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	return string(b)
}
