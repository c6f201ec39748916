// SPDX-License-Identifier: Apache-2.0

// Package registry is a client of image registries: the OCI distribution
// protocol, docker's token authentication, mirrors, docker's search. It hands
// out bytes and takes bytes; it knows no disk but the files of its own
// settings: certificates, config.toml, docker's config.json.
//
// A registry is a stranger. Documents are bounded and verified before they
// are returned, blobs never go beyond the size that their descriptor says,
// lists end, and what a registry says of itself is bounded before it becomes
// part of an error. Credentials go to the origin they belong to and to the
// token server it names, never along a redirect to another origin, to a
// foreign layer's URL, into a log or an error.
//
// oras-go speaks the protocol of uploads, mounts and lists and keeps docker's
// credential stores. Reads are written here, because they resume, are bounded
// and change over between mirrors. So is the token protocol: oras-go refuses a
// token server with a private address unless it has the registry's own host
// name, and that is how a company's registry commonly stands.
package registry
