// SPDX-License-Identifier: Apache-2.0

// Package regtest gives tests registries to talk to, all on loopback: Debian's
// docker-registry, plain, with TLS, with passwords or behind a token server,
// or as a mirror; and a Fake, which answers as it is told to, faults included.
// It knows nothing of the client.
package regtest
