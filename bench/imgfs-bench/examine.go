// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// gnuIs answers the same questions by diff, find, grep and sha256sum, where the
// image lies unpacked.
const gnuIs = "GNU tools, unpacked"

// The figures of the rows "examine", each cold and again.
const (
	twoCopies   = "diff of two copies"
	byName      = "find by name"
	byHash      = "find by hash"
	byContent   = "find by content"
	allDeleted  = "deleted"
	allBlamed   = "blame of all"
	allTimes    = "timeline"
	whenCold    = ", cold"
	contentWord = "BEGIN [A-Z ]*PRIVATE KEY"
)

// makeExamined makes what the rows "examine" compare: the image again, as one
// layer of an image of its own and as a second copy of its files.
func (b *bench) makeExamined(system string, im *image) error {
	if system == gnuIs {
		for _, program := range []string{"diff", "find", "grep", "sha256sum"} {
			if _, err := exec.LookPath(program); err != nil {
				return &unableError{program + " is not installed"}
			}
		}
	}
	name, err := b.load(im.archive)
	if err != nil {
		return err
	}
	if im.flat == "" {
		b.say("flattening", im)
		file := filepath.Join(im.dir, "flat.tar")
		flat := "bench/flat-" + im.shape + ":1"
		if _, err := output(b.command("export", "-o", file, name)); err != nil {
			return err
		}
		if _, err := output(b.command("import", "-q", file, flat)); err != nil {
			return err
		}
		sums, err := output(b.command("find", "--type", "f", "--size", "+1k", "--format", "{{.SHA256}}", name))
		if err != nil {
			return err
		}
		im.flat, im.sum = flat, strings.Fields(sums)[0]
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	if system != gnuIs || im.again != "" {
		return nil
	}
	if err := b.makeTree(im); err != nil {
		return err
	}
	again := filepath.Join(im.dir, "again")
	if _, err := output(exec.CommandContext(b.ctx, "cp", "-a", im.tree, again)); err != nil {
		return err
	}
	im.again = again
	return nil
}

// examineTurn asks an image what is in it.
func examineTurn(b *bench, r row, system string, im *image) error {
	name, err := b.load(im.archive)
	if err != nil {
		return err
	}
	shell := func(script string) *exec.Cmd {
		cmd := exec.CommandContext(b.ctx, "sh", "-c", script)
		cmd.Dir, cmd.Env = im.tree, append(os.Environ(), "LC_ALL=C", "SUM="+im.sum, "WORD="+contentWord, "AGAIN="+im.again)
		return cmd
	}
	for _, step := range []struct {
		figure string
		args   []string // of imgfs
		script string   // of the others; empty: they cannot tell
	}{
		{twoCopies, []string{"diff", "--ignore", "config,history,manifest", name, im.flat}, `diff -rq --no-dereference . "$AGAIN"`},
		{byName, []string{"find", "--name", "*.so*", name}, `find . -name '*.so*'`},
		{byHash, []string{"find", "--sha256", im.sum, name}, `find . -type f -exec sha256sum {} + | grep "^$SUM"`},
		{byContent, []string{"find", "--content", contentWord, name}, `grep -rlaE --devices=skip "$WORD" .`},
		{allDeleted, []string{"deleted", name}, ""},
		{allBlamed, []string{"blame", "-r", name, "/"}, ""},
		{allTimes, []string{"timeline", "--format", "bodyfile", name}, `find . -printf '0|%p|%i|%M|%U|%G|%s|%A@|%T@|%C@|0\n'`},
	} {
		command := func() *exec.Cmd { return b.command(step.args...) }
		if system == gnuIs {
			command = func() *exec.Cmd { return shell(step.script) }
			if step.script == "" {
				continue
			}
		}
		if err := b.timeTwice(r, step.figure, system, command); err != nil {
			return err
		}
	}
	return nil
}

// timeTwice records how long a command takes with nothing in memory, and again.
// That it finds a difference, or nothing, is no error.
func (b *bench) timeTwice(r row, figure, system string, command func() *exec.Cmd) error {
	for _, c := range []coldness{cold, warm} {
		if c != warm {
			if err := dropCaches(c); err != nil {
				return err
			}
		}
		cmd := command()
		var errs bytes.Buffer
		cmd.Stderr = &errs
		start := time.Now()
		err := cmd.Run()
		took := time.Since(start).Seconds()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(errs.Bytes()))
		}
		name := figure
		if c != warm {
			name += whenCold
		}
		b.report.add(r, name, system, seconds, took)
		b.report.effort(r, name, system, effort{Worker: cpuOf(cmd)})
	}
	return nil
}
