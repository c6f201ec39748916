// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/term"
)

// remoteFlags adds to c the flags of the verbs that reach registries. They
// are docker's, where they are its daemon's.
func (a *app) remoteFlags(c *cobra.Command) {
	c.Flags().StringArrayVar(&a.remote.Insecure, "insecure-registry", nil, "let `HOST[:PORT]` speak plain HTTP or show a certificate that nobody vouches for")
	c.Flags().StringArrayVar(&a.remote.Mirrors, "registry-mirror", nil, "ask `URL` before docker.io (HOST=URL: before HOST); digests are verified all the same")
}

// logRemote returns what is told of a registry's troubles that passed: it says
// them on stderr, above the bars if some are drawn.
func (a *app) logRemote() func(format string, args ...any) {
	var mu sync.Mutex // one line at a time
	return func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		var out io.Writer = a.stderr
		if bars := a.bars.Load(); bars != nil {
			out = bars
		}
		fmt.Fprintf(out, "imgfs: %s\n", term.Escape(fmt.Sprintf(format, args...)))
	}
}

// remoteHint returns the cure of what a registry refused, empty if none is
// known.
func remoteHint(e *imgfs.RegistryError) string {
	login := "imgfs login " + e.Host
	if e.Host == "docker.io" {
		login = "imgfs login"
	}
	switch {
	case errors.Is(e, imgfs.ErrNotTLS):
		return "--insecure-registry " + e.Host + " lets it, if nobody in between could listen or lie"
	case errors.Is(e, imgfs.ErrCertificate):
		return "put its authority into /etc/docker/certs.d/" + e.Host + "/ca.crt; --insecure-registry " + e.Host + " asks for none"
	case errors.Is(e, imgfs.ErrOffline) && strings.HasPrefix(e.What, "blob "):
		return "what came is kept: the next pull goes on from there"
	case errors.Is(e, imgfs.ErrOffline):
		return "images of the store need no network (imgfs images lists them); imgfs load -i FILE brings one from a file"
	case e.Repository == "":
		return ""
	case errors.Is(e, imgfs.ErrNotInRegistry) && strings.HasPrefix(e.What, "manifest "):
		if ref, err := image.ParseReference(e.Host + "/" + e.Repository); err == nil {
			return "imgfs tags " + ref.FamiliarName() + " lists what the registry has of it"
		}
	case errors.Is(e, imgfs.ErrUnauthorized), errors.Is(e, imgfs.ErrDenied):
		if e.Host != "docker.io" {
			return login
		}
		return "the repository does not exist, or needs a login that may do this: " + login
	}
	return ""
}
