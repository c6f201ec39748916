// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxExpanded bounds a word in which variables were replaced.
const maxExpanded = 1 << 20 // bytes

// maxPattern bounds a pattern; the work of a match is its length times that of
// the text.
const maxPattern = 4 << 10 // bytes

// An environment looks variables up.
type environment func(name string) (value string, ok bool)

// environ makes an environment of a list of NAME=value; of one name twice the
// last counts.
func environ(list []string) environment {
	return func(name string) (string, bool) {
		for i := len(list) - 1; i >= 0; i-- {
			if n, value, _ := strings.Cut(list[i], "="); n == name {
				return value, true
			}
		}
		return "", false
	}
}

// splitWords splits s at white space that is not quoted. Quotes and escapes
// stay in the words.
func splitWords(s string) []string {
	var words []string
	var b strings.Builder
	quote := rune(0)
	for i := 0; i < len(s); {
		c, n := utf8.DecodeRuneInString(s[i:])
		i += n
		switch {
		case quote == 0 && unicode.IsSpace(c):
			if b.Len() > 0 {
				words = append(words, b.String())
				b.Reset()
			}
			continue
		case c == '\\' && quote != '\'':
			if i == len(s) {
				continue // escapes nothing
			}
			b.WriteRune(c)
			c, n = utf8.DecodeRuneInString(s[i:])
			i += n
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case c == quote:
			quote = 0
		}
		b.WriteRune(c)
	}
	if b.Len() > 0 {
		words = append(words, b.String())
	}
	return words
}

// expand takes quotes and escapes out of a word and puts values in the place
// of variables: $NAME, ${NAME}, and of the modifiers of a shell :- :+ :? - + ?
// # ## % %% / and //. One that is not set is empty.
func expand(word string, env environment) (string, error) {
	x := &expander{s: word, env: env}
	out, err := x.until(0)
	if err != nil {
		return "", fmt.Errorf("%.100q: %w", word, err)
	}
	return out.text.String(), nil
}

// expandWords is expand; then the value of a variable that was not quoted is
// split at white space, and so is the word.
func expandWords(word string, env environment) ([]string, error) {
	x := &expander{s: word, env: env}
	out, err := x.until(0)
	if err != nil {
		return nil, fmt.Errorf("%.100q: %w", word, err)
	}
	return out.split(), nil
}

// An expander reads s from pos on.
type expander struct {
	s   string
	pos int
	env environment
	raw bool // escapes stay, as in patterns
}

// expanded is the text of a word, and the words it is split into.
type expanded struct {
	text  strings.Builder
	words []string
	word  strings.Builder
}

// literal adds what must not be split.
func (e *expanded) literal(s string) error {
	if e.text.Len()+len(s) > maxExpanded {
		return fmt.Errorf("over %d bytes when its variables are replaced", maxExpanded)
	}
	e.text.WriteString(s)
	e.word.WriteString(s)
	return nil
}

// splittable adds what is split at white space.
func (e *expanded) splittable(s string) error {
	for {
		i := strings.IndexFunc(s, unicode.IsSpace)
		if i < 0 {
			return e.literal(s)
		}
		if err := e.literal(s[:i]); err != nil {
			return err
		}
		c, n := utf8.DecodeRuneInString(s[i:])
		e.text.WriteRune(c)
		e.end()
		s = s[i+n:]
	}
}

func (e *expanded) end() {
	if e.word.Len() > 0 {
		e.words = append(e.words, e.word.String())
		e.word.Reset()
	}
}

func (e *expanded) split() []string {
	e.end()
	return e.words
}

// peek returns the next rune, 0 at the end. Texts have no NUL.
func (x *expander) peek() rune {
	if x.pos == len(x.s) {
		return 0
	}
	c, _ := utf8.DecodeRuneInString(x.s[x.pos:])
	return c
}

// next returns the next rune and goes on, 0 at the end.
func (x *expander) next() rune {
	if x.pos == len(x.s) {
		return 0
	}
	c, n := utf8.DecodeRuneInString(x.s[x.pos:])
	x.pos += n
	return c
}

// until expands what stands before the rune stop, which is read, too; 0 is
// the end.
func (x *expander) until(stop rune) (*expanded, error) {
	out := new(expanded)
	for {
		c := x.peek()
		if c == stop {
			x.next()
			return out, nil
		}
		var s string
		var err error
		split := false
		switch c {
		case 0:
			return nil, fmt.Errorf("%c is missing", stop)
		case '\'':
			s, err = x.single()
		case '"':
			s, err = x.double()
		case '$':
			s, err = x.dollar()
			split = true
		case '\\':
			x.next()
			if x.raw {
				s = `\`
			}
			if c := x.next(); c != 0 {
				s += string(c)
			}
		default:
			s = string(x.next())
			split = true
		}
		if err == nil && split {
			err = out.splittable(s)
		} else if err == nil {
			err = out.literal(s)
		}
		if err != nil {
			return nil, err
		}
	}
}

// single reads '…'.
func (x *expander) single() (string, error) {
	x.next()
	n := strings.IndexByte(x.s[x.pos:], '\'')
	if n < 0 {
		return "", errors.New("a single quote is not closed")
	}
	s := x.s[x.pos : x.pos+n]
	x.pos += n + 1
	return s, nil
}

// double reads "…", where a backslash escapes a quote, $ and itself.
func (x *expander) double() (string, error) {
	x.next()
	var out expanded
	for {
		var s string
		switch c := x.peek(); c {
		case 0:
			return "", errors.New("a double quote is not closed")
		case '"':
			x.next()
			return out.text.String(), nil
		case '$':
			var err error
			if s, err = x.dollar(); err != nil {
				return "", err
			}
		case '\\':
			x.next()
			switch e := x.peek(); e {
			case 0:
				continue
			case '"', '$', '\\':
				if x.raw {
					s = `\`
				}
				s += string(x.next())
			default:
				s = `\`
			}
		default:
			s = string(x.next())
		}
		if err := out.literal(s); err != nil {
			return "", err
		}
	}
}

// dollar reads $NAME or ${…}. A dollar before anything else stands for itself.
func (x *expander) dollar() (string, error) {
	x.next()
	if x.peek() != '{' {
		name := x.name()
		if name == "" {
			return "$", nil
		}
		value, _ := x.env(name)
		return value, nil
	}
	x.next()
	name := x.name()
	if name == "" {
		return "", errors.New("${ without a name: bad substitution")
	}
	value, set := x.env(name)
	switch op := x.next(); op {
	case '}':
		return value, nil
	case ':':
		return x.alternative(x.next(), name, value, set && value != "")
	case '-', '+', '?':
		return x.alternative(op, name, value, set)
	case '#', '%':
		return x.trim(op, value)
	case '/':
		return x.replace(value)
	case 0:
		return "", errors.New("${ is not closed")
	default:
		return "", fmt.Errorf("${%s%c…}: no such modifier", name, op)
	}
}

// name reads the name of a variable: letters, digits and _, or digits alone,
// or one character that has a meaning in a shell (and here no value).
func (x *expander) name() string {
	start := x.pos
	c := x.peek()
	switch {
	case c == 0:
		return ""
	case strings.ContainsRune("@*#?-$!", c):
		return string(x.next())
	case unicode.IsDigit(c):
		for unicode.IsDigit(x.peek()) {
			x.next()
		}
	default:
		for c == '_' || unicode.IsLetter(c) || unicode.IsDigit(c) {
			x.next()
			c = x.peek()
		}
	}
	return x.s[start:x.pos]
}

// alternative ends ${NAME-word}, ${NAME+word} and ${NAME?word}.
func (x *expander) alternative(op rune, name, value string, set bool) (string, error) {
	if !strings.ContainsRune("-+?", op) || op == 0 {
		return "", fmt.Errorf("${%s:…}: no such modifier", name)
	}
	word, err := x.until('}')
	if err != nil {
		return "", err
	}
	text := word.text.String()
	switch {
	case op == '+' && set, op == '-' && !set:
		return text, nil
	case op == '+':
		return "", nil
	case op == '?' && !set && text == "":
		return "", fmt.Errorf("%s is not set", name)
	case op == '?' && !set:
		return "", fmt.Errorf("%s: %s", name, text)
	}
	return value, nil
}

// pattern reads a pattern up to stop, escapes kept.
func (x *expander) pattern(stop rune) (string, error) {
	raw := x.raw
	x.raw = true
	p, err := x.until(stop)
	x.raw = raw
	if err != nil {
		return "", err
	}
	return p.text.String(), nil
}

// trim ends ${NAME#pattern} and ${NAME%pattern}; the operator twice takes away
// the most that matches, not the least.
func (x *expander) trim(op rune, value string) (string, error) {
	most := x.peek() == op
	if most {
		x.next()
	}
	p, err := x.pattern('}')
	if err != nil {
		return "", err
	}
	if op == '#' {
		re, err := compileGlob("", p, most, "")
		if err != nil {
			return "", err
		}
		if at := re.FindStringIndex(value); at != nil {
			value = value[at[1]:]
		}
		return value, nil
	}
	// The less stands before the match, the more it takes.
	before := "(.*)"
	if most {
		before = "(.*?)"
	}
	re, err := compileGlob(before, p, true, "$")
	if err != nil {
		return "", err
	}
	if m := re.FindStringSubmatch(value); m != nil {
		value = m[1]
	}
	return value, nil
}

// replace ends ${NAME/pattern/text} and, for all matches, ${NAME//pattern/text}.
func (x *expander) replace(value string) (string, error) {
	all := x.peek() == '/'
	if all {
		x.next()
	}
	p, err := x.pattern('/')
	if err != nil {
		return "", err
	}
	with, err := x.pattern('}') // docker keeps escapes here, too
	if err != nil {
		return "", err
	}
	g, err := globExpr(p, true)
	if err != nil {
		return "", err
	}
	re, err := regexp.Compile("(?s:" + g + ")")
	if err != nil {
		return "", fmt.Errorf("pattern %.50q: %w", p, err)
	}
	at := re.FindAllStringIndex(value, -1)
	if !all && len(at) > 1 {
		at = at[:1]
	}
	var out expanded
	last := 0
	for _, m := range at {
		if err := errors.Join(out.literal(value[last:m[0]]), out.literal(with)); err != nil {
			return "", err
		}
		last = m[1]
	}
	err = out.literal(value[last:])
	return out.text.String(), err
}

// compileGlob compiles a pattern between two expressions, from the beginning
// of the text on.
func compileGlob(before, pattern string, most bool, after string) (*regexp.Regexp, error) {
	g, err := globExpr(pattern, most)
	if err != nil {
		return nil, err
	}
	re, err := regexp.Compile("^(?s:" + before + "(?:" + g + ")" + after + ")")
	if err != nil {
		return nil, fmt.Errorf("pattern %.50q: %w", pattern, err)
	}
	return re, nil
}

// globExpr makes an expression of a pattern of a shell: * is any text, ? any
// character, a backslash escapes them.
func globExpr(pattern string, most bool) (string, error) {
	if len(pattern) > maxPattern {
		return "", fmt.Errorf("pattern of %d bytes: limit is %d", len(pattern), maxPattern)
	}
	star := ".*?"
	if most {
		star = ".*"
	}
	var b strings.Builder
	escaped := false
	for _, c := range pattern {
		switch {
		case escaped:
			escaped = false
			b.WriteString(regexp.QuoteMeta(string(c)))
		case c == '\\':
			escaped = true
		case c == '*':
			b.WriteString(star)
		case c == '?':
			b.WriteString(".")
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	if escaped {
		return "", fmt.Errorf("pattern %.50q: nothing behind the backslash", pattern)
	}
	return b.String(), nil
}
