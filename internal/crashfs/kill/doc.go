// SPDX-License-Identifier: Apache-2.0

// Package kill is a harness, for tests alone, that kills the server of a
// mounted file system by SIGKILL at random moments under load, again and
// again, and checks after each next mount that every call that was answered
// has happened and that of those under way each has happened or not.
//
// The truth is a second directory, on a file system of the machine, to which
// each call is applied once it was answered. Workers have a directory of their
// own each, so that they need not know of each other. Not compared are times,
// and what was written and not closed: it may still be in the kernel's cache.
//
// It knows nothing of what it kills.
package kill
