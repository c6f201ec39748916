// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// clone returns a copy that can be changed without changing c.
func (c *RunConfig) clone() RunConfig {
	out := *c
	out.ExposedPorts = maps.Clone(c.ExposedPorts)
	out.Env = slices.Clone(c.Env)
	out.Volumes = maps.Clone(c.Volumes)
	out.OnBuild = slices.Clone(c.OnBuild)
	out.Labels = maps.Clone(c.Labels)
	return out // the others are replaced whole
}

// stringList reads a JSON list of strings. ok is false if s is no JSON list
// at all, and then means something else.
func stringList(s string) (list []string, ok bool, err error) {
	var any []any
	if !strings.HasPrefix(s, "[") || json.Unmarshal([]byte(s), &any) != nil {
		return nil, false, nil
	}
	list = make([]string, 0, len(any))
	for _, v := range any {
		text, ok := v.(string)
		if !ok {
			return nil, false, errors.New("a JSON list may hold strings only")
		}
		list = append(list, text)
	}
	return list, true, nil
}

// A command is what CMD and ENTRYPOINT set: words, or a line for the shell.
type command struct {
	words []string
	line  string // the shell form
	exec  bool
}

func parseCommand(in instruction) (command, error) {
	list, ok, err := stringList(in.args)
	if err != nil {
		return command{}, fmt.Errorf("%s: %w", in.name, err)
	}
	return command{words: list, line: in.args, exec: ok}, nil
}

// resolve returns the words of a command in a config, nil for none.
func (c command) resolve(cfg *Config) Words {
	switch {
	case c.exec && len(c.words) == 0:
		return nil
	case c.exec:
		return slices.Clone(c.words)
	case len(cfg.Config.Shell) > 0:
		return append(slices.Clone(cfg.Config.Shell), c.line)
	case strings.EqualFold(cfg.OS, "windows"):
		return Words{"cmd", "/S", "/C", c.line}
	}
	return Words{"/bin/sh", "-c", c.line}
}

func parseCmd(in instruction) (step, error) {
	cmd, err := parseCommand(in)
	if err != nil {
		return nil, err
	}
	return func(c *Config) error {
		c.Config.Cmd = cmd.resolve(c)
		c.Config.ArgsEscaped = false
		c.cmdChanged = true
		return nil
	}, nil
}

// parseEntrypoint: a new entrypoint takes the old command away, which was
// meant for another; not one that an earlier change set.
func parseEntrypoint(in instruction) (step, error) {
	cmd, err := parseCommand(in)
	if err != nil {
		return nil, err
	}
	return func(c *Config) error {
		c.Config.Entrypoint = cmd.resolve(c)
		c.Config.ArgsEscaped = false
		if !c.cmdChanged {
			c.Config.Cmd = nil
		}
		return nil
	}, nil
}

// A pair is NAME=VALUE, neither expanded yet.
type pair struct{ name, value string }

// parsePairs reads "name=value …", or the old form "name value" with one pair
// whose value goes on to the end.
func parsePairs(in instruction) ([]pair, error) {
	words := splitWords(in.args)
	if len(words) == 0 || !strings.Contains(words[0], "=") {
		name, value, ok := cutBlank(in.args)
		if !ok {
			return nil, fmt.Errorf("%s %.50s: want %s", in.name, in.args, in.usage())
		}
		return []pair{{name, value}}, nil
	}
	var pairs []pair
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return nil, fmt.Errorf("%s: %.50q has no =: want %s", in.name, w, in.usage())
		}
		if name == "" {
			return nil, fmt.Errorf("%s: %.50q has no name", in.name, w)
		}
		pairs = append(pairs, pair{name, value})
	}
	return pairs, nil
}

// cutBlank cuts s at its first white space.
func cutBlank(s string) (before, after string, ok bool) {
	i := strings.IndexAny(s, blank)
	if i < 0 {
		return s, "", false
	}
	return s[:i], strings.TrimLeft(s[i:], blank), true
}

// expandPairs expands names and values, all in the same environment.
func expandPairs(instruction string, pairs []pair, env environment) ([]pair, error) {
	out := make([]pair, len(pairs))
	for i, p := range pairs {
		name, err := expand(p.name, env)
		if err != nil {
			return nil, err
		}
		if name == "" {
			return nil, fmt.Errorf("%s: %.50q is empty when its variables are replaced, and no name", instruction, p.name)
		}
		value, err := expand(p.value, env)
		if err != nil {
			return nil, err
		}
		out[i] = pair{name, value}
	}
	return out, nil
}

func parseEnv(in instruction) (step, error) {
	pairs, err := parsePairs(in)
	if err != nil {
		return nil, err
	}
	return func(c *Config) error {
		list, err := expandPairs(in.name, pairs, environ(c.Config.Env))
		if err != nil {
			return err
		}
		for _, p := range list {
			if strings.Contains(p.name, "=") {
				return fmt.Errorf("ENV: %.50q: a name cannot have =", p.name)
			}
			c.Config.setEnv(p.name, p.value)
		}
		return nil
	}, nil
}

// setEnv sets a variable where it stands, or behind the others.
func (c *RunConfig) setEnv(name, value string) {
	set := false
	c.Env = slices.DeleteFunc(c.Env, func(e string) bool {
		n, _, _ := strings.Cut(e, "=")
		first := !set
		set = set || n == name
		return n == name && !first
	})
	if !set {
		c.Env = append(c.Env, name+"="+value)
		return
	}
	for i, e := range c.Env {
		if n, _, _ := strings.Cut(e, "="); n == name {
			c.Env[i] = name + "=" + value
		}
	}
}

func parseLabel(in instruction) (step, error) {
	pairs, err := parsePairs(in)
	if err != nil {
		return nil, err
	}
	return func(c *Config) error {
		list, err := expandPairs(in.name, pairs, environ(c.Config.Env))
		if err != nil {
			return err
		}
		if c.Config.Labels == nil {
			c.Config.Labels = make(map[string]string)
		}
		for _, p := range list {
			c.Config.Labels[p.name] = p.value
		}
		return nil
	}, nil
}

func parseExpose(in instruction) (step, error) {
	return func(c *Config) error {
		words, err := expandWords(in.args, environ(c.Config.Env))
		if err != nil {
			return err
		}
		if len(words) == 0 {
			return errors.New("EXPOSE: no port when variables are replaced")
		}
		if c.Config.ExposedPorts == nil {
			c.Config.ExposedPorts = make(map[string]struct{})
		}
		for _, w := range words {
			lo, hi, proto, err := parsePort(w)
			if err != nil {
				return fmt.Errorf("EXPOSE: port %.50q: %w", w, err)
			}
			if len(c.Config.ExposedPorts)+hi-lo >= maxElements { // also bounds the work
				return fmt.Errorf("EXPOSE: over %d ports: limit of a config", maxElements)
			}
			for p := lo; p <= hi; p++ {
				c.Config.ExposedPorts[strconv.Itoa(p)+"/"+proto] = struct{}{}
			}
		}
		return nil
	}, nil
}

// parsePort reads PORT[-PORT][/PROTOCOL]. What a port of the host may be
// before it ([[IP:]PORT:]) is read as docker reads it, and means nothing to an
// image.
func parsePort(s string) (lo, hi int, proto string, err error) {
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		if err := checkHostPort(s[:i]); err != nil {
			return 0, 0, "", err
		}
		s = s[i+1:]
	}
	s, proto, _ = strings.Cut(s, "/")
	switch proto = strings.ToLower(proto); proto {
	case "":
		proto = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return 0, 0, "", fmt.Errorf("protocol %.20q: want tcp, udp or sctp", proto)
	}
	lo, hi, err = parsePorts(s)
	return lo, hi, proto, err
}

// checkHostPort takes what docker takes before the port of a container:
// "8080", "", "127.0.0.1:8080", "[::1]:".
func checkHostPort(s string) error {
	port := s
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		ip := strings.TrimSuffix(strings.TrimPrefix(s[:i], "["), "]")
		if _, err := netip.ParseAddr(ip); ip != "" && err != nil {
			return fmt.Errorf("%.50q is no IP address", ip)
		}
		port = s[i+1:]
	}
	if port == "" {
		return nil
	}
	_, _, err := parsePorts(port)
	return err
}

// parsePorts reads one port or a range.
func parsePorts(s string) (lo, hi int, err error) {
	first, last, isRange := strings.Cut(s, "-")
	number := func(s string) (int, error) {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return 0, errors.New("want PORT[-PORT][/tcp|udp|sctp], ports 0 to 65535")
		}
		return int(n), nil
	}
	if lo, err = number(first); err != nil {
		return 0, 0, err
	}
	if hi = lo; isRange {
		if hi, err = number(last); err != nil {
			return 0, 0, err
		}
	}
	if hi < lo {
		return 0, 0, errors.New("the range ends before it begins")
	}
	return lo, hi, nil
}

// minInterval is the least time that docker takes in a health check.
const minInterval = time.Millisecond

// parseHealthcheck: what a new check leaves open stays as it was.
func parseHealthcheck(in instruction) (step, error) {
	kind, rest, _ := cutBlank(in.args)
	kind = strings.ToUpper(kind)
	if kind == "NONE" {
		if rest != "" || len(in.flags) > 0 {
			return nil, errors.New("HEALTHCHECK NONE takes nothing else")
		}
		return func(c *Config) error {
			c.Config.Healthcheck = &Healthcheck{Test: []string{"NONE"}}
			return nil
		}, nil
	}
	if kind != "CMD" {
		return nil, fmt.Errorf("HEALTHCHECK %.50s: want CMD or NONE", kind)
	}
	check, err := healthFlags(in.flags)
	if err != nil {
		return nil, fmt.Errorf("HEALTHCHECK: %w", err)
	}
	list, exec, err := stringList(rest)
	switch {
	case err != nil:
		return nil, fmt.Errorf("HEALTHCHECK CMD: %w", err)
	case rest == "" || exec && len(list) == 0:
		return nil, errors.New("HEALTHCHECK CMD has no command")
	case exec:
		check.Test = append([]string{"CMD"}, list...)
	default:
		check.Test = []string{"CMD-SHELL", rest}
	}
	return func(c *Config) error {
		next := check
		if old := c.Config.Healthcheck; old != nil {
			next.Interval = orElse(next.Interval, old.Interval)
			next.Timeout = orElse(next.Timeout, old.Timeout)
			next.StartPeriod = orElse(next.StartPeriod, old.StartPeriod)
			next.StartInterval = orElse(next.StartInterval, old.StartInterval)
			next.Retries = orElse(next.Retries, old.Retries)
		}
		c.Config.Healthcheck = &next
		return nil
	}, nil
}

// orElse returns v, or old if v is zero.
func orElse[T comparable](v, old T) T {
	var zero T
	if v == zero {
		return old
	}
	return v
}

func healthFlags(flags []flag) (h Healthcheck, err error) {
	times := map[string]*time.Duration{
		"interval": &h.Interval, "timeout": &h.Timeout,
		"start-period": &h.StartPeriod, "start-interval": &h.StartInterval,
	}
	seen := make(map[string]bool)
	for _, f := range flags {
		if seen[f.name] {
			return h, fmt.Errorf("--%s twice", f.name)
		}
		seen[f.name] = true
		if d := times[f.name]; d != nil {
			*d, err = parseInterval(f.value)
		} else if f.name == "retries" {
			h.Retries, err = parseRetries(f.value)
		} else {
			return h, fmt.Errorf("no flag --%.50s: want --interval, --timeout, --start-period, --start-interval or --retries", f.name)
		}
		if err != nil {
			return h, fmt.Errorf("--%s: %w", f.name, err)
		}
	}
	return h, nil
}

func parseInterval(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%.50q is no time: want 30s, 1m30s, 500ms", s)
	}
	if d != 0 && d < minInterval {
		return 0, fmt.Errorf("%s is less than %s", d, minInterval)
	}
	return d, nil
}

func parseRetries(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%.50q is no number of tries", s)
	}
	return int(n), nil
}

// parseOnBuild keeps the instruction as it is written. One that could never
// be built is refused now.
func parseOnBuild(in instruction) (step, error) {
	trigger, err := splitInstruction(in.args)
	if err != nil {
		return nil, fmt.Errorf("ONBUILD: %w", err)
	}
	switch trigger.name {
	case "ONBUILD", "FROM", "MAINTAINER":
		return nil, fmt.Errorf("ONBUILD %s is not allowed", trigger.name)
	}
	if !knownInstruction(trigger.name) {
		return nil, fmt.Errorf("ONBUILD: no instruction %.50q", trigger.name)
	}
	if trigger.args == "" {
		return nil, fmt.Errorf("ONBUILD %s needs an argument", trigger.name)
	}
	return func(c *Config) error {
		c.Config.OnBuild = append(c.Config.OnBuild, in.args)
		return nil
	}, nil
}

// parseStopSignal keeps the signal as it is written.
func parseStopSignal(in instruction) (step, error) {
	return func(c *Config) error {
		s, err := expand(in.args, environ(c.Config.Env))
		if err != nil {
			return err
		}
		if !isSignal(s) {
			return fmt.Errorf("STOPSIGNAL: no signal %.50q: want a name such as SIGTERM, or 1 to 64", s)
		}
		c.Config.StopSignal = s
		return nil
	}, nil
}

// isSignal reports whether s is a signal of Linux, by number or name, with or
// without SIG.
func isSignal(s string) bool {
	if n, err := strconv.Atoi(s); err == nil {
		return 1 <= n && n <= 64
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	switch name {
	case "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
		"KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "RTMAX", "RTMIN", "SEGV", "STKFLT", "STOP",
		"SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "UNUSED", "URG", "USR1", "USR2", "VTALRM",
		"WINCH", "XCPU", "XFSZ":
		return true
	}
	most := 15
	step, ok := strings.CutPrefix(name, "RTMIN+")
	if !ok {
		most = 14
		step, ok = strings.CutPrefix(name, "RTMAX-")
	}
	n, err := strconv.Atoi(step)
	return ok && err == nil && step[0] != '+' && 1 <= n && n <= most
}

func parseUser(in instruction) (step, error) {
	return func(c *Config) error {
		user, err := expand(in.args, environ(c.Config.Env))
		if err == nil {
			c.Config.User = user
		}
		return err
	}, nil
}

// parseVolume reads a JSON list, or paths with blanks between them.
func parseVolume(in instruction) (step, error) {
	list, ok, err := stringList(in.args)
	if err != nil {
		return nil, fmt.Errorf("VOLUME: %w", err)
	}
	if !ok {
		list = strings.FieldsFunc(in.args, func(c rune) bool { return strings.ContainsRune(blank, c) })
	}
	if len(list) == 0 {
		return nil, errors.New("VOLUME: the list is empty")
	}
	return func(c *Config) error {
		if c.Config.Volumes == nil {
			c.Config.Volumes = make(map[string]struct{})
		}
		for _, v := range list {
			p, err := expand(v, environ(c.Config.Env))
			if err != nil {
				return err
			}
			if p = strings.TrimFunc(p, unicode.IsSpace); p == "" {
				return fmt.Errorf("VOLUME: path %.50q is empty", v)
			}
			c.Config.Volumes[p] = struct{}{}
		}
		return nil
	}, nil
}

// parseWorkdir: a relative path is below the old one.
func parseWorkdir(in instruction) (step, error) {
	return func(c *Config) error {
		dir, err := expand(in.args, environ(c.Config.Env))
		if err != nil {
			return err
		}
		if dir == "" {
			return fmt.Errorf("WORKDIR: path %.50q is empty when its variables are replaced", in.args)
		}
		if !path.IsAbs(dir) {
			dir = path.Join("/", c.Config.WorkingDir, dir)
		}
		c.Config.WorkingDir = path.Clean(dir)
		return nil
	}, nil
}
