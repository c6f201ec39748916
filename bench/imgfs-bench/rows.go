// SPDX-License-Identifier: Apache-2.0

package main

import "cmp"

// A limit is what the writable mount promises of a figure: at most so many
// times a peer's, or, without a peer, so much.
type limit struct {
	peer string
	most float64
}

// A writeRow is a workload, who does it, and what is promised of its figures.
type writeRow struct {
	name, work string
	shape      string
	systems    []string
	long       bool // only if it is named
	private    bool // on a filesystem of its own
	limits     map[string][]limit
}

const (
	theTime = ""          // the figure of a step without a name, in seconds
	theDisk = "disk used" // in MiB
	theAnon = "RssAnon"   // in MiB
)

// alone makes the limits of a row with one figure.
func alone(limits ...limit) map[string][]limit { return map[string][]limit{theTime: limits} }

// light is what is asked of many small changes: little more than the protocol
// costs, and less than what users have now.
var light = alone(limit{memfsIs, 1.3}, limit{fuseOverlayIs, 1})

// allOf makes one limit for each figure of a long file.
func allOf(most float64) map[string][]limit {
	m := map[string][]limit{}
	for _, name := range []string{"write", "write+fsync", "read cold", "read warm"} {
		m[name] = []limit{{diskIs, most}}
	}
	return m
}

func writeRows() []writeRow {
	imagePeers := []string{imgfsIs, overlayIs, fuseOverlayIs, memfsIs}
	newPeers := []string{imgfsIs, overlayIs, fuseOverlayIs, memfsIs, diskIs}
	synced := []string{imgfsIs, overlayIs, fuseOverlayIs, diskIs}
	kept := []limit{{imgfsReadIs, 1.2}}
	return []writeRow{
		{name: "append", shape: "rw", systems: imagePeers, limits: map[string][]limit{
			theTime: {{"", 0.001}}, theDisk: {{"", 1}},
		}},
		{name: "chmod", shape: "rw", systems: imagePeers, limits: alone(limit{overlayIs, 0.3})},
		{name: "chown", shape: "rw", systems: imagePeers, limits: alone(limit{overlayIs, 0.3})},
		{name: "rename-dir", shape: "rw", private: true, systems: imagePeers, limits: alone(limit{"", 0.001})},
		{name: "create", shape: "rw", private: true, systems: newPeers, limits: light},
		{name: "untar", shape: "rw", private: true, systems: newPeers, limits: light},
		{name: "rm-image", shape: "rw", private: true, systems: imagePeers, limits: light},
		{name: "rm-new", shape: "rw", private: true, systems: newPeers, limits: light},
		{name: "seq", shape: "tiny", systems: synced, limits: allOf(1 / 0.9)},
		{name: "seq-user", work: "seq", shape: "tiny", systems: []string{imgfsCachedIs, diskIs}, limits: allOf(1 / 0.5)},
		{name: "fsync", shape: "tiny", systems: synced, limits: alone(limit{diskIs, 1.2})},
		{name: "create-fsync", shape: "tiny", systems: synced, limits: alone(limit{diskIs, 3})},
		{name: "sqlite-wal", shape: "tiny", systems: synced, limits: alone(limit{diskIs, 1.5})},
		{name: "sqlite-delete", shape: "tiny", systems: synced, limits: alone(limit{diskIs, 3})},
		{name: "reads", shape: "base", systems: []string{imgfsIs, imgfsReadIs}, limits: map[string][]limit{
			"first walk": kept, "second walk": kept, "read all, cold": kept, "read all, warm": kept,
		}},
		{name: "million", shape: "many", private: true, systems: []string{imgfsIs}, long: true, limits: map[string][]limit{
			theAnon: {{"", 128}},
		}},
	}
}

// workload returns the name of the row's workload.
func (r writeRow) workload(quick bool) string {
	name := cmp.Or(r.work, r.name)
	if quick && name == "seq" {
		return "seq-quick"
	}
	return name
}
