// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manExit lists the exit codes for the man page. exitCode makes them.
var manExit = []struct {
	code int
	what string
}{
	{exitOK, "Success."},
	{exitDiffers, "A comparison found a difference, or a check did not hold."},
	{exitUsage, "The command line is wrong, or files below a directory could not be read; what is printed is about the others."},
	{exitNotFound, "There is no such image, upper or mount, or no such file in it."},
	{exitMalformed, "The image is malformed or corrupt, or the store is damaged."},
	{exitRefused, "The mount was refused, or an upper is in use; the error says what is missing."},
	{exitOther, "Any other failure."},
}

func newMan(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the man pages",
		Long:    "Man writes a page of section 1 for imgfs and for each verb into DIR. They are made from the texts of --help.",
		Example: "  imgfs man /usr/local/share/man/man1",
		Args:    takes(cobra.ExactArgs(1)),
		Hidden:  true,
		RunE: func(c *cobra.Command, args []string) error {
			return writeMans(args[0], c.Root())
		},
	}
}

func manName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// writeMans writes the pages of c and of the verbs below it.
func writeMans(dir string, c *cobra.Command) error {
	if err := writeMan(dir, c); err != nil {
		return err
	}
	for _, verb := range c.Commands() {
		if !verb.IsAvailableCommand() {
			continue
		}
		if err := writeMans(dir, verb); err != nil {
			return err
		}
	}
	return nil
}

func writeMan(dir string, c *cobra.Command) error {
	return os.WriteFile(filepath.Join(dir, manName(c)+".1"), []byte(manPage(c)), 0o644)
}

// manPage returns the page of c in man(7).
func manPage(c *cobra.Command) string {
	var p page
	fmt.Fprintf(&p, ".TH %s 1 \"\" \"imgfs\" \"imgfs manual\"\n", roff(strings.ToUpper(manName(c))))
	p.section("NAME")
	p.line(manName(c) + " - " + lowerFirst(c.Short))
	p.section("SYNOPSIS")
	use := c.UseLine()
	if !c.HasParent() {
		use = "imgfs VERB [flags] [arguments]"
	}
	fmt.Fprintf(&p, ".B %s\n", roff(use))
	p.section("DESCRIPTION")
	p.text(c.Long)
	if len(c.Aliases) > 0 {
		p.text("Other names: " + strings.Join(c.Aliases, ", ") + ".")
	}
	if c.HasAvailableSubCommands() {
		p.section("VERBS")
		for _, verb := range c.Commands() {
			if verb.IsAvailableCommand() {
				p.item(strings.TrimPrefix(verb.CommandPath(), "imgfs "), verb.Short+".")
			}
		}
	}
	p.section("OPTIONS")
	p.flags(c.LocalFlags())
	if c.HasParent() {
		p.flags(c.InheritedFlags())
	}
	if c.Example != "" {
		p.section("EXAMPLES")
		p.WriteString(".EX\n")
		for line := range strings.Lines(c.Example) {
			p.line(strings.TrimRight(line, "\n"))
		}
		p.WriteString(".EE\n")
	}
	p.section("EXIT STATUS")
	for _, e := range manExit {
		p.item(fmt.Sprint(e.code), e.what)
	}
	if !c.HasParent() {
		p.section("ENVIRONMENT")
		p.item("IMGFS_ROOT", "The directory of the store, where --root does not say it.")
		p.item("XDG_DATA_HOME", "Without IMGFS_ROOT the store is $XDG_DATA_HOME/imgfs, by default ~/.local/share/imgfs; root's is /var/lib/imgfs.")
		p.item("XDG_CONFIG_HOME", "Mirrors, insecure registries and certificates are set in $XDG_CONFIG_HOME/imgfs/config.toml, by default ~/.config/imgfs/config.toml, and in /etc/imgfs/config.toml.")
		p.item("DOCKER_CONFIG, REGISTRY_AUTH_FILE", "Logins are kept in the file REGISTRY_AUTH_FILE, else in config.json in DOCKER_CONFIG, by default ~/.docker.")
		p.item("HTTPS_PROXY, HTTP_PROXY, NO_PROXY", "Registries are reached through these proxies.")
	}
	p.section("SEE ALSO")
	p.line(seeAlso(c))
	return p.String()
}

func seeAlso(c *cobra.Command) string {
	var pages []string
	if c.HasParent() {
		pages = append(pages, manName(c.Parent())+"(1)")
	}
	for _, verb := range c.Commands() {
		if verb.IsAvailableCommand() {
			pages = append(pages, manName(verb)+"(1)")
		}
	}
	return strings.Join(pages, ", ")
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// A page is a man page as it is written.
type page struct{ strings.Builder }

func (p *page) section(name string) { fmt.Fprintf(p, ".SH %s\n", name) }

func (p *page) line(s string) { p.WriteString(roff(s) + "\n") }

// text writes paragraphs, which blank lines part.
func (p *page) text(s string) {
	for para := range strings.SplitSeq(s, "\n\n") {
		p.WriteString(".PP\n")
		for line := range strings.Lines(para) {
			p.line(strings.TrimRight(line, "\n"))
		}
	}
}

func (p *page) item(term, text string) {
	fmt.Fprintf(p, ".TP\n.B %s\n%s\n", roff(term), roff(text))
}

func (p *page) flags(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		arg, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if arg != "" {
			name += " " + arg
		}
		if f.DefValue == "true" {
			usage += " (default true)"
		}
		p.item(name, usage+".")
	})
}

// roff returns s as a line of text that man(7) prints as it is.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", `\[u2026]`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
