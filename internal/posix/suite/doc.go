// SPDX-License-Identifier: Apache-2.0

// Package suite is a table of rules that a POSIX filesystem on Linux keeps,
// each a test of its own: error numbers and their precedence, permissions of
// root and of ordinary users, sticky and setgid directories, when setuid bits
// go, which timestamps each call moves, link counts at every moment, files
// without names, renames over open files, ACLs and their inheritance, xattrs,
// locks, mappings, notifications, execution. Its spirit is that of pjdfstest,
// whose rules it holds as far as they concern Linux; ext4 keeps all of them.
//
// Most rules are short scripts, one system call a line; script.go says how to
// read them. The package does not know what it tests: it is given a directory.
package suite

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/internal/posix/thread"
)

// Options say in what a filesystem is allowed to differ.
type Options struct {
	// Differs names rules that are skipped, and why. A name that ends in a
	// slash stands for all rules below it.
	Differs map[string]string

	// OwnIoctls: the filesystem answers ioctls for inode flags itself, as
	// ext4 does; otherwise they must be ENOTTY.
	OwnIoctls bool

	// Records: owners and modes are shown and kept but not enforced, as on
	// a user's FUSE mount without default_permissions. Only RunUser asks.
	Records bool
}

// Run tests the filesystem that dir is an empty directory of. It needs root.
func Run(t *testing.T, dir string, opt Options) {
	if os.Geteuid() != 0 {
		t.Skip("the suite needs root to be other users; RunUser does not")
	}
	runner{dir: dir, opt: opt, root: true}.all(t)
}

// RunUser tests what concerns one ordinary user alone. It runs as that user.
func RunUser(t *testing.T, dir string, opt Options) {
	runner{dir: dir, opt: opt}.all(t)
}

// A runner runs all rules below one directory.
type runner struct {
	dir  string
	opt  Options
	root bool
}

func (r runner) all(t *testing.T) {
	n := 0
	in := func(t *testing.T, name string, f func(*env)) {
		n++
		dir := fmt.Sprintf("%s/%d", r.dir, n)
		t.Run(name, func(t *testing.T) {
			if why := r.opt.why(t.Name()); why != "" {
				t.Skip(why)
			}
			runIn(t, dir, r, f)
		})
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			for _, rule := range g.rules {
				r.scripts(t, rule, in)
			}
		})
	}
	if !r.root {
		if r.opt.Records {
			t.Run("records", func(t *testing.T) {
				for _, rule := range recordRules {
					in(t, rule.name, func(e *env) { e.run(rule.script) })
				}
			})
		}
	} else {
		t.Run("errno", func(t *testing.T) { errnoRules(t, in) })
	}
	t.Run("calls", func(t *testing.T) {
		for _, c := range calls {
			if r.root || c.user {
				in(t, c.name, c.test)
			}
		}
	})
}

// scripts runs a rule, for each type of file that it is about.
func (r runner) scripts(t *testing.T, rule rule, in func(*testing.T, string, func(*env))) {
	over := rule.over
	if over == nil {
		over = []string{""}
	}
	for _, kind := range over {
		name, script := rule.name, strings.ReplaceAll(rule.script, "$T", kind)
		if kind != "" {
			name += "/" + kind
		}
		if !r.root && needsRoot(script) {
			continue
		}
		in(t, name, func(e *env) { e.run(script) })
	}
}

// why returns why a rule is skipped.
func (o Options) why(name string) string {
	for rule, why := range o.Differs {
		if strings.HasSuffix(name, "/"+rule) || strings.HasSuffix(rule, "/") && strings.Contains(name+"/", "/"+rule) {
			return why
		}
	}
	return ""
}

// runIn makes dir and runs f in it, on a thread of its own.
func runIn(t *testing.T, dir string, r runner, f func(*env)) {
	t.Helper()
	e := &env{T: t, dir: dir, fds: map[string]int{}, runner: r}
	thread.Run(func() {
		defer e.end()
		e.begin()
		f(e)
	})
	if e.skipWhy != "" {
		t.Skip(e.skipWhy)
	}
}

// A rule is a script and what it proves.
type rule struct {
	name   string
	script string
	over   []string // $T in the script stands for each of these
}

// A group is the rules of one system call or subject.
type group struct {
	name  string
	rules []rule
}

var groups = slices.Concat(createGroups, removeGroups, renameGroups, attrGroups, sizeGroups, privGroups, xattrGroups)

var (
	everyType = []string{"file", "dir", "fifo", "block", "char", "socket", "symlink"}
	notDirs   = []string{"file", "fifo", "block", "char", "socket", "symlink"}
	notLinks  = []string{"file", "dir", "fifo", "block", "char", "socket"} // no symlink
	plainOnes = []string{"file", "fifo", "block", "char", "socket"}
)
