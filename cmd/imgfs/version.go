// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs/internal/term"
)

// versionInfo is what version prints.
type versionInfo struct {
	Version   string
	Commit    string
	GoVersion string
	Platform  string
}

func newVersion(a *app) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:     "version",
		Short:   "Show the version of imgfs",
		Long:    "Version shows which imgfs this is and what built it.",
		Example: "  imgfs version --format '{{.Version}}'",
		Args:    takes(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if format == "" {
				format = `imgfs {{.Version}}{{with .Commit}} ({{.}}){{end}}, {{.GoVersion}}, {{.Platform}}`
			}
			return formatError(term.Rows(a.stdout, format, "", false, versionInfo{}, []versionInfo{buildInfo()}))
		},
	}
	c.Flags().StringVarP(&format, "format", "f", "", "print as `FORMAT`: json or a Go template")
	return c
}

// buildInfo returns what the linker said, or else what the Go command noted.
func buildInfo() versionInfo {
	v := versionInfo{
		Version: version, GoVersion: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	if v.Version == "" || v.Version == "(devel)" {
		v.Version = "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value[:min(len(s.Value), 12)]
		}
	}
	return v
}
