// SPDX-License-Identifier: Apache-2.0

// Command imgfs mounts container images as directories and looks into them.
// Each verb has a file: its flags, one call into package imgfs, and printing.
package main

import (
	"os"
	"path/filepath"
)

// version is set by the linker.
var version = ""

func main() { os.Exit(run(os.Args)) }

// run does what argv says and returns the exit code. The program goes by
// several names: it serves a mount in the background and helps mount(8).
func run(argv []string) int {
	a := newApp()
	defer a.close()
	name, args := "imgfs", argv
	if len(argv) > 0 {
		name, args = filepath.Base(argv[0]), argv[1:]
	}
	if p, ok := programs[name]; ok {
		return p(a, args)
	}
	return a.run(args)
}

// programs are what the binary is when it is called by another name.
var programs = map[string]func(a *app, args []string) int{
	serverName: serveMount,
	shellName:  serveShell,
	helperName: helpMount,
}
