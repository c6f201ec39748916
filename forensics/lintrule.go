// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"fmt"
	"strings"
)

// A Level says how much a finding matters.
type Level uint8

const (
	Info    Level = iota // worth knowing
	Warning              // worth a look: it may mislead, or give rights away
	Error                // engines and scanners do not see the same files
)

// String returns the word for l in output.
func (l Level) String() string { return [...]string{"info", "warning", "error"}[l] }

// ParseLevel reads the word of a level.
func ParseLevel(s string) (Level, error) {
	for l := Info; l <= Error; l++ {
		if s == l.String() {
			return l, nil
		}
	}
	return 0, fmt.Errorf("%q is no level: there are info, warning and error", s)
}

// A Rule is a row of docs/semantics.md as lint tells it.
type Rule struct {
	ID        string
	Level     Level
	Spec      string // what the image spec or this project's rules say
	Elsewhere string // what other engines may show; empty: the same
}

// rules are the rows that lint reports. Where a tar leaves no choice, or an
// image is refused, there is none.
var rules = []Rule{
	{"C2", Warning, "bytes decide about the compression, the media type does not", "engines that believe the media type refuse the layer"},
	{"C7", Warning, "bytes behind a gzip stream are not part of the layer", "tools that look at the blob see them"},
	{"D1", Warning, "the last entry of a name holds", "scanners that list the tar see the earlier content, too"},
	{"D5", Warning, "a later entry replaces a file by a directory, or the other way", "engines that cannot replace one by the other refuse the layer"},
	{"D7", Info, "each layer is applied in its turn", ""},
	{"G1", Info, "the name is shown", "file systems built on go-fuse answer it by themselves"},
	{"H2", Warning, "the target of a hard link may lie in a layer below", "engines that unpack each layer alone refuse it"},
	{"H10", Warning, "a name with .. ends at the root of the image", "engines refuse the layer, or leave the entry out"},
	{"L1", Info, "a directory entry over a symlink is a new directory", "engines that unpack in place may keep the symlink and write through it"},
	{"L2", Error, "a symlink of a lower layer becomes a directory where names lie below it", "engines that unpack in place write through the symlink, to another directory"},
	{"M1", Info, "a directory without an entry is 0755, of root, of time 0", "engines that unpack give it the time of unpacking"},
	{"M5", Info, "setuid, setgid and sticky bits, and modes, are kept", ""},
	{"N1", Warning, "names that differ in case are two", "on file systems that ignore case one hides the other"},
	{"N2", Warning, "any byte but NUL and / may be in a name", "terminals obey escape sequences, and show other names than there are"},
	{"P8", Info, "symlinks end at the root of the image", "tools that look at an unpacked image from outside leave it"},
	{"P10", Warning, "an entry behind a loop of symlinks is passed over", "engines refuse the layer"},
	{"T4", Warning, "a path in a global header is ignored", "readers that obey it see other names"},
	{"T5", Info, "an entry of unknown type is passed over", "GNU tar takes it as a file"},
	{"T6", Warning, "data behind the end is not part of the layer", "readers that go on behind the end see more files"},
	{"T12", Info, "a size means nothing where there is no content", "readers that believe it lose their place in the tar"},
	{"T17", Warning, "times are kept as they are", ""},
	{"V1", Error, "a character device 0:0 is a device", "it is a whiteout to overlayfs: where the layer becomes a directory of it, the name and what lies below it are gone"},
	{"V2", Info, "devices and FIFOs are kept", "engines without root leave devices out, or refuse the layer"},
	{"W5", Error, "an opaque marker at the root hides all layers below", "overlayfs ignores it there"},
	{"W9", Warning, "whiteouts of whiteouts hide nothing and are not shown", "AUFS kept its own data under such names"},
	{"W11", Error, "a directory that is whited out and brought again in one layer holds what this layer brings", "engines that apply entries in their order bring the files of lower layers back"},
	{"W14", Info, "a whiteout of nothing hides nothing", "engines that keep whiteouts as files may list it"},
	{"W19", Info, "marks in the base hide nothing", "engines that do not look for them there show them as files"},
	{"W20", Warning, "names below a whiteout are not shown", "engines that see only the whiteout of the last name show them"},
	{"X2", Error, "trusted.overlay.* is data", "overlayfs obeys it: directories become opaque, files show the content of others"},
	{"X3", Error, "user.overlay.* is data", "overlayfs mounted without root (userxattr) obeys it"},
	{"X4", Info, "capabilities of files are kept", "engines without root drop them"},
	{"X5", Warning, "LIBARCHIVE.xattr.* is ignored", "libarchive sets the xattr"},
	{"X7", Info, "user.* xattrs of what is neither a file nor a directory are ignored", "engines refuse the layer"},
}

// RuleOf returns the rule of an id. One that nobody described is a warning.
func RuleOf(id string) *Rule {
	for i := range rules {
		if rules[i].ID == id {
			return &rules[i]
		}
	}
	return &Rule{ID: id, Level: Warning}
}

// Rules returns the ids of all rules that lint may report.
func Rules() []string {
	ids := make([]string, len(rules))
	for i := range rules {
		ids[i] = rules[i].ID
	}
	return ids
}

// A FailOn says which findings make a check fail.
type FailOn struct {
	none   bool
	level  Level
	byRule []string // if any, the level does not matter
}

// ParseFailOn reads a level, a list of ids of rules with commas between, or
// none.
func ParseFailOn(s string) (FailOn, error) {
	if s == "none" {
		return FailOn{none: true}, nil
	}
	if l, err := ParseLevel(s); err == nil {
		return FailOn{level: l}, nil
	}
	var f FailOn
	for id := range strings.SplitSeq(s, ",") {
		id = strings.ToUpper(strings.TrimSpace(id))
		if RuleOf(id).Spec == "" {
			return f, fmt.Errorf("%q is neither a level (info, warning, error), nor none, nor a rule (%s)", id, strings.Join(Rules(), " "))
		}
		f.byRule = append(f.byRule, id)
	}
	return f, nil
}

// Matches reports whether a finding makes the check fail.
func (f FailOn) Matches(found *Finding) bool {
	if f.none {
		return false
	}
	for _, id := range f.byRule {
		if id == found.Rule.ID {
			return true
		}
	}
	return f.byRule == nil && found.Level >= f.level
}
