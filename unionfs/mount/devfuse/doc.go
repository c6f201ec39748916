// SPDX-License-Identifier: Apache-2.0

// Package devfuse is the loop that reads requests from /dev/fuse, has a
// fuse.RawFileSystem handle them, and answers. The types are go-fuse's, its
// server is not used: who waits for a request asleep is woken through another
// CPU, which in a virtual machine takes 50 µs and more for what is handled in
// five, so this loop looks for the next request a moment before it sleeps.
//
//	server.go   Server: from the first request to the last
//	init.go     what is agreed on with the kernel
//	loop.go     who reads, who handles
//	spin.go     how long to look before sleeping
//	request.go  from bytes to handlers, and the answer
//	notify.go   what the kernel is told unasked
//
// One worker leads: it alone waits for requests. It handles what it reads itself,
// so that one program that asks is served without a switch between threads. A
// request that takes long must not stop the others. Where its kind took long of late,
// the lead is handed on before it is handled; else a watchdog hands it on after a
// millisecond. So a handler may wait for what only another request can bring: what
// it tells the kernel, say, while that waits for a page. While there is more to do
// than the leader can do, and there are CPUs, helpers take requests too; they never
// wait for one, since the kernel would wake them in the leader's place.
//
// A RawFileSystem is used as go-fuse does, but that Init is not called, and that
// the name given to Lookup and GetXAttr is valid only until they return, as is
// everything in the request. Requests and answers lie outside of Go's heap, and
// nothing is allocated for the requests that come often.
//
// Server.mu is the only lock that is held together with another, notifications':
// neither is taken under the other.
//
// The package does not know what is mounted, nor how.
package devfuse
