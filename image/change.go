// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxChange bounds the text of one change; a line of a Dockerfile may be as
// long.
const maxChange = 64 << 10 // bytes

// changeable are the instructions that a Change may be.
const changeable = "CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR"

// A Change is what one `commit -c` does to the config of an image: an
// instruction of a Dockerfile. Changes are made by ParseChange and are
// immutable.
type Change struct {
	text  string
	steps []step
}

// A step changes a config by one instruction.
type step func(c *Config) error

// A ChangeError says which change cannot be parsed or applied, and why.
type ChangeError struct {
	Change string // as written
	Err    error
}

func (e *ChangeError) Error() string { return fmt.Sprintf("change %.200q: %v", e.Change, e.Err) }
func (e *ChangeError) Unwrap() error { return e.Err }

// ParseChange reads an instruction in the syntax of a Dockerfile, of those
// that `docker commit -c` takes and STOPSIGNAL. Names of instructions are
// taken in any case; a line that ends in a backslash goes on in the next one;
// several lines are several instructions. The error is a *ChangeError.
//
// Where docker commit and docker build differ, the former is followed, but for
// two commands: "CMD []" and "ENTRYPOINT []" take the old command away, as in
// a build (docker commit then does nothing, without a word).
func ParseChange(s string) (Change, error) {
	c := Change{text: s}
	err := c.parse()
	if err != nil {
		return Change{}, &ChangeError{s, err}
	}
	return c, nil
}

func (c *Change) parse() error {
	switch {
	case len(c.text) > maxChange:
		return fmt.Errorf("%d bytes: limit is %d", len(c.text), maxChange)
	case !utf8.ValidString(c.text):
		return errors.New("not UTF-8, which a config must be")
	case strings.Contains(c.text, "\x00"):
		return errors.New("it has a NUL byte")
	}
	for _, line := range joinLines(c.text) {
		step, err := parseInstruction(line)
		if err != nil {
			return err
		}
		c.steps = append(c.steps, step)
	}
	if len(c.steps) == 0 {
		return errors.New("it is empty: want an instruction, one of " + changeable)
	}
	return nil
}

// String returns the change as it was written.
func (c Change) String() string { return c.text }

// Apply makes the change in cfg; $NAME and ${NAME} stand for variables of the
// config's own environment. Relative values are relative to what cfg holds
// now, so the order of changes matters. The error is a *ChangeError; cfg is
// then as it was.
func (c Change) Apply(cfg *Config) error {
	next := *cfg
	next.Config = cfg.Config.clone()
	for _, step := range c.steps {
		if err := step(&next); err != nil {
			return &ChangeError{c.text, err}
		}
	}
	*cfg = next
	return nil
}

// joinLines returns the instructions of a text: lines that go on are joined,
// comments and empty lines are left out.
func joinLines(text string) []string {
	var out []string
	var open strings.Builder
	goesOn := false
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		trimmed := strings.TrimLeftFunc(line, unicode.IsSpace)
		if trimmed == "" || trimmed[0] == '#' {
			continue
		}
		if !goesOn {
			line = trimmed
		}
		end := strings.TrimRight(line, " \t")
		goesOn = strings.HasSuffix(end, `\`)
		if goesOn {
			line = strings.TrimSuffix(end, `\`)
		}
		open.WriteString(line)
		if !goesOn {
			out = append(out, open.String())
			open.Reset()
		}
	}
	if open.Len() > 0 {
		out = append(out, open.String())
	}
	return out
}

// An instruction is a line of a Dockerfile, taken apart.
type instruction struct {
	name  string // upper case
	flags []flag
	args  string // the rest, without space at its ends
}

// A flag is --NAME=VALUE behind the name of an instruction.
type flag struct{ name, value string }

// blank is what stands between the words of an instruction.
const blank = " \t\v\f\r"

// splitInstruction takes a line apart.
func splitInstruction(line string) (in instruction, err error) {
	line = strings.TrimSpace(line)
	end := strings.IndexAny(line, blank)
	if end < 0 {
		end = len(line)
	}
	in.name = strings.ToUpper(line[:end])
	in.flags, in.args, err = splitFlags(line[end:])
	return in, err
}

// splitFlags takes the flags off the front of s. "--" ends them. The value of
// a flag without "=" is the next word.
func splitFlags(s string) (flags []flag, rest string, err error) {
	for {
		s = strings.TrimSpace(s)
		if !strings.HasPrefix(s, "--") {
			return flags, s, nil
		}
		var word string
		word, s = flagWord(s)
		if word == "--" {
			return flags, strings.TrimSpace(s), nil
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(word, "--"), "=")
		if !ok {
			if s = strings.TrimSpace(s); s == "" {
				return nil, "", fmt.Errorf("--%s has no value", name)
			}
			value, s = flagWord(s)
		}
		flags = append(flags, flag{name, value})
	}
}

// flagWord returns the first word of s without its quotes and escapes, and
// what is behind it.
func flagWord(s string) (word, rest string) {
	var b strings.Builder
	quote, escaped := rune(0), false
	for i, c := range s {
		switch {
		case escaped:
			escaped = false
			b.WriteRune(c)
		case c == '\\':
			escaped = true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case quote == 0 && unicode.IsSpace(c):
			return b.String(), s[i:]
		default:
			b.WriteRune(c)
		}
	}
	return b.String(), ""
}

// parseInstruction makes the step of one line.
func parseInstruction(line string) (step, error) {
	in, err := splitInstruction(line)
	if err != nil {
		return nil, err
	}
	parse := in.parser()
	if parse == nil {
		if knownInstruction(in.name) {
			return nil, fmt.Errorf("%s makes no sense in a commit: want one of %s", in.name, changeable)
		}
		return nil, fmt.Errorf("no instruction %.50q: want one of %s", in.name, changeable)
	}
	if len(in.flags) > 0 && in.name != "HEALTHCHECK" {
		return nil, fmt.Errorf("%s has no flag --%s", in.name, in.flags[0].name)
	}
	if in.args == "" {
		return nil, fmt.Errorf("%s needs an argument: %s", in.name, in.usage())
	}
	return parse(in)
}

// parser returns what parses the arguments of in, nil if no change may be
// such an instruction.
func (in instruction) parser() func(instruction) (step, error) {
	switch in.name {
	case "CMD":
		return parseCmd
	case "ENTRYPOINT":
		return parseEntrypoint
	case "ENV":
		return parseEnv
	case "EXPOSE":
		return parseExpose
	case "HEALTHCHECK":
		return parseHealthcheck
	case "LABEL":
		return parseLabel
	case "ONBUILD":
		return parseOnBuild
	case "STOPSIGNAL":
		return parseStopSignal
	case "USER":
		return parseUser
	case "VOLUME":
		return parseVolume
	case "WORKDIR":
		return parseWorkdir
	}
	return nil
}

// usage shows the form of an instruction.
func (in instruction) usage() string {
	switch in.name {
	case "CMD", "ENTRYPOINT":
		return in.name + ` ["program", "argument"] or ` + in.name + ` shell command; ` + in.name + ` [] for none`
	case "ENV", "LABEL":
		return in.name + " name=value …"
	case "EXPOSE":
		return "EXPOSE port[-port][/tcp|udp|sctp] …"
	case "HEALTHCHECK":
		return "HEALTHCHECK [--interval=… --timeout=… --start-period=… --start-interval=… --retries=…] CMD command, or HEALTHCHECK NONE"
	case "ONBUILD":
		return "ONBUILD instruction"
	case "STOPSIGNAL":
		return "STOPSIGNAL signal"
	case "USER":
		return "USER user[:group]"
	case "VOLUME":
		return `VOLUME /path … or VOLUME ["/path"]`
	}
	return in.name + " path"
}

// knownInstruction reports whether a Dockerfile may have an instruction.
func knownInstruction(name string) bool {
	switch name {
	case "ADD", "ARG", "COPY", "FROM", "MAINTAINER", "RUN", "SHELL":
		return true
	}
	return instruction{name: name}.parser() != nil
}
