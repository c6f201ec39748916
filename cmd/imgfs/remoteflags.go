// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/spf13/cobra"

// remoteFlags adds to c the flags of the verbs that reach registries. They
// are docker's, where they are its daemon's.
func (a *app) remoteFlags(c *cobra.Command) {
	c.Flags().StringArrayVar(&a.remote.Insecure, "insecure-registry", nil, "let `HOST[:PORT]` speak plain HTTP or show a certificate that nobody vouches for")
	c.Flags().StringArrayVar(&a.remote.Mirrors, "registry-mirror", nil, "ask `URL` before docker.io (HOST=URL: before HOST); digests are verified all the same")
}
