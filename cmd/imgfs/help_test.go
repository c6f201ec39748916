// SPDX-License-Identifier: Apache-2.0

package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// eachVerb calls do for each verb that help shows.
func eachVerb(c *cobra.Command, do func(*cobra.Command)) {
	for _, verb := range c.Commands() {
		do(verb)
		eachVerb(verb, do)
	}
}

func TestVerbsHaveHelp(t *testing.T) {
	eachVerb(newRoot(newApp()), func(c *cobra.Command) {
		name := c.CommandPath()
		if c.Name() == "help" {
			return
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short text %q", name, c.Short)
		}
		if c.Long == "" {
			t.Errorf("%s: no long text", name)
		}
		if !strings.Contains(c.Example, "imgfs ") {
			t.Errorf("%s: no example", name)
		}
		if c.Args == nil {
			t.Errorf("%s: takes any arguments", name)
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
				t.Errorf("%s --%s: usage %q", name, f.Name, f.Usage)
			}
		})
	})
}

// TestManPages: every request in a page is one that man(7) knows, so no text
// was taken for one.
func TestManPages(t *testing.T) {
	request := regexp.MustCompile(`^\.(TH|SH|B|PP|TP|EX|EE)( |$)`)
	root := newRoot(newApp())
	pages := []string{manPage(root)}
	eachVerb(root, func(c *cobra.Command) { pages = append(pages, manPage(c)) })
	for _, page := range pages {
		for line := range strings.Lines(page) {
			line = strings.TrimSuffix(line, "\n")
			if strings.HasPrefix(line, "'") || strings.HasPrefix(line, ".") && !request.MatchString(line) {
				t.Errorf("request %q in\n%.40s", line, page)
			}
		}
	}
	for _, code := range manExit {
		if !strings.Contains(pages[0], code.what) {
			t.Errorf("exit code %d is not in imgfs.1", code.code)
		}
	}
	for in, want := range map[string]string{
		".x":     `\&.x`,
		"'x":     `\&'x`,
		`a\t-b…`: `a\et\-b\[u2026]`,
	} {
		if got := roff(in); got != want {
			t.Errorf("roff(%q)\n got %s\nwant %s", in, got, want)
		}
	}
}
