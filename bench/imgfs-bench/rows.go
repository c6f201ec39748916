// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A limit is what imgfs promises of a figure: at most so much, or so many times
// a peer's of the same run.
type limit struct {
	peer    string  // empty: the figure itself counts
	most    float64 // in the unit of the figure
	of      string  // whose figure; empty: the row's first system's
	atLeast bool    // most is the least
}

// A row is something to measure: a workload in the directory of an image, or
// how one gets there; who does it; and what is promised of the figures.
type row struct {
	name, group string
	work        string // the workload's name, if it is not the row's
	shape       string // of the image; empty: it needs none
	systems     []string
	turn        func(b *bench, r row, system string, im *image) error // instead of a workload
	gobench     bool                                                  // Go benchmarks instead of both
	file        bool                                                  // the image's archive is all it needs
	runs        int                                                   // more than of other rows
	long        bool                                                  // only if it is named
	apart       bool                                                  // only if it or its group is named
	main        []string                                              // the systems when quick; empty: not one of the main rows
	private     bool                                                  // on a filesystem of its own
	limits      map[string][]limit                                    // by figure
}

func (r row) title() string {
	if r.shape == "" {
		return r.name
	}
	return r.name + "/" + r.shape
}

const (
	theTime   = "" // the figure of a step without a name
	theDisk   = "disk used"
	thePeak   = "RssAnon, most"
	theChange = "change"
)

// anonAfter names the figure of the server's memory after a step.
func anonAfter(step string) string { return "RssAnon after " + step }

// alone makes the limits of a row with one figure.
func alone(limits ...limit) map[string][]limit { return map[string][]limit{theTime: limits} }

// light is what is asked of many small changes: little more than the protocol
// costs, and less than what users have now.
var light = alone(limit{peer: memfsIs, most: 1.3}, limit{peer: fuseOverlayIs, most: 1})

// allOf makes one limit for each figure of a long file.
func allOf(most float64) map[string][]limit {
	m := map[string][]limit{}
	for _, name := range []string{"write", "write+fsync", "read cold", "read warm"} {
		m[name] = []limit{{peer: diskIs, most: most}}
	}
	return m
}

// asFast promises the reads of a read-only mount, and little more for a
// writable one.
func asFast() map[string][]limit {
	const cache = 48 // MiB of decoded layers, imgfs.DefaultCache
	m := map[string][]limit{
		firstWalk:            {{peer: overlayIs, most: 0.5}},
		secondWalk:           {{peer: overlayIs, most: 1}},
		readCold:             {{peer: overlayIs, most: 0.5}},
		readWarm:             {{peer: overlayIs, most: 1}},
		hitWarm:              {{peer: overlayIs, most: 1}},
		missWarm:             {{peer: overlayIs, most: 1}},
		hitDropped:           {{peer: overlayIs, most: 1.5}},
		missDropped:          {{peer: overlayIs, most: 2.5}},
		randomCold:           {{most: 1.2e-3}},
		randomWarm:           {{peer: diskIs, most: 1 / 0.9}},
		seqWarm:              {{peer: diskIs, most: 1 / 0.5}},
		grepCold:             nil,
		readersCold:          nil,
		seqCold:              nil,
		theTime:              nil,
		anonAfter(firstWalk): nil,
	}
	for name := range m {
		m[name] = append(m[name], limit{of: imgfsRWIs, peer: imgfsIs, most: 1.2})
	}
	m[anonAfter(firstWalk)] = []limit{{most: 64}}
	m[anonAfter(readCold)] = []limit{{most: 64 + cache}}
	return m
}

// allRows returns the table's rows in its order.
func allRows() []row {
	bigPeers := []string{imgfsIs, imgfsRWIs, overlayIs, diskIs, erofsIs, overTarIs}
	mountPeers := []string{imgfsIs, imgfsRWIs, overlayIs, erofsIs, overTarIs, squashfuseIs, fuseOverlayIs, archivemountIs}
	mainPeers := []string{imgfsIs, imgfsRWIs, overlayIs}
	imagePeers := []string{imgfsRWIs, overlayIs, fuseOverlayIs, memfsIs}
	newPeers := []string{imgfsRWIs, overlayIs, fuseOverlayIs, memfsIs, diskIs}
	synced := []string{imgfsRWIs, overlayIs, fuseOverlayIs, diskIs}
	loads := map[string][]limit{
		// 850 MB/s of tar where tar -x has 255.
		untilMounted: {{peer: podmanIs, most: 1.0 / 8}, {peer: tarIs, most: 0.3}},
		tarRate:      nil,
		indexShare:   {{most: 5}},
	}
	pulls := map[string][]limit{untilMounted: {
		{peer: decodeIs, most: 1.15}, {peer: skopeoIs, most: 1.0 / 3}, {peer: umociIs, most: 1.0 / 3},
	}}
	verbs := map[string][]limit{
		aVerb: {{most: 0.020}}, listed: {{most: 0.050}}, onlyIDs: {{most: 0.050}}, filtered: {{most: 0.050}},
		looked: {{most: 0.050}}, named: {{most: 0.050}}, removed: {{most: 2}}, collected: {{most: 2}},
	}
	examined := map[string][]limit{
		twoCopies: {{peer: gnuIs, most: 0.5}}, byHash: {{peer: gnuIs, most: 0.5}}, byContent: {{peer: gnuIs, most: 1}},
		byName: {{peer: gnuIs, most: 2}}, allTimes: {{peer: gnuIs, most: 2}}, allDeleted: {{most: 1}}, allBlamed: nil,
	}
	for _, figure := range slices.Collect(maps.Keys(examined)) {
		examined[figure+whenCold] = []limit{{peer: gnuIs, most: 1}}
	}
	examined[allDeleted+whenCold], examined[allBlamed+whenCold] = nil, nil
	examinedApp := maps.Clone(examined)
	examinedApp[twoCopies] = append(examined[twoCopies], limit{most: 0.1})
	examiners := []string{imgfsIs, gnuIs}
	faster := map[string][]limit{}
	for _, figure := range []string{firstWalk, secondWalk, readCold, readWarm} {
		faster[figure] = []limit{{peer: squashfuseIs, most: 1}, {peer: fuseOverlayIs, most: 1}}
	}
	small := map[string][]limit{indexShare: loads[indexShare]}
	mounts := alone(limit{most: 0.030})
	places := map[string][]limit{firstMount: {{most: 0.5}}, laterMount: {{most: 0.030}}}
	return []row{
		{name: "hot path", group: "hot", gobench: true, main: []string{imgfsIs}, limits: hotLimits()},

		{name: "load", group: "load", shape: "app", file: true, turn: loadTurn, systems: []string{imgfsIs, tarIs, podmanIs}, limits: loads},
		{name: "load", group: "load", shape: "base", file: true, main: []string{imgfsIs, tarIs}, turn: loadTurn, systems: []string{imgfsIs, tarIs, podmanIs, umociIs}, limits: small},
		{name: "in place", group: "load", shape: "app", file: true, turn: placeTurn, systems: []string{imgfsIs, overTarIs}, limits: places},
		{name: "mount", group: "load", shape: "app", turn: mountTurn, systems: []string{imgfsIs, imgfsRWIs, overlayIs, erofsIs}, runs: 10, limits: mounts},
		{name: "mount", group: "load", shape: "base", main: mainPeers, turn: mountTurn, systems: mountPeers, runs: 10, limits: mounts},
		{name: "mount", group: "load", shape: "deep", turn: mountTurn, systems: []string{imgfsIs, imgfsRWIs, overlayIs}, runs: 10, limits: mounts},
		{name: "mount", group: "load", shape: "many", turn: mountTurn, systems: []string{imgfsIs, imgfsRWIs, overlayIs}, runs: 10, limits: mounts},
		{name: "first byte", group: "load", shape: "base", turn: firstByteTurn, systems: mountPeers},

		{name: "pull", group: "registry", apart: true, shape: "app", file: true, turn: pullTurn, systems: []string{imgfsIs, skopeoIs, umociIs, fetchIs, decodeIs}, limits: pulls},
		{name: "store", group: "registry", apart: true, turn: storeTurn, systems: []string{imgfsIs}, limits: verbs},

		{name: "examine", group: "forensics", apart: true, shape: "app", turn: examineTurn, systems: examiners, limits: examinedApp},
		{name: "examine", group: "forensics", apart: true, shape: "deep", turn: examineTurn, systems: examiners, limits: examined},
		{name: "examine", group: "forensics", apart: true, shape: "many", turn: examineTurn, systems: examiners, limits: examined},

		{name: "read", group: "read", shape: "app", systems: bigPeers, limits: asFast()},
		{name: "lstat", group: "read", shape: "app", systems: append(bigPeers, fuseOverlayIs), limits: asFast()},
		{name: "exec", group: "read", shape: "app", systems: append(bigPeers, fuseOverlayIs), limits: asFast()},
		{name: "everything", group: "read", shape: "base", main: append(mainPeers, diskIs), systems: bigPeers, limits: asFast()},
		{name: "read", group: "read", shape: "base", systems: []string{imgfsIs, squashfuseIs, fuseOverlayIs}, limits: faster},
		{name: "walk", group: "read", shape: "deep", systems: []string{imgfsIs, imgfsRWIs, overlayIs, diskIs}, limits: asFast()},
		{name: "walk", group: "read", shape: "many", systems: []string{imgfsIs, imgfsRWIs, overlayIs}, limits: asFast()},
		{name: "big", group: "read", shape: "rw", systems: append(bigPeers, fuseOverlayIs), limits: asFast()},

		{name: "append", group: "write", shape: "rw", systems: imagePeers, limits: map[string][]limit{
			theTime: {{most: 0.001}}, theDisk: {{most: 1}},
		}},
		{name: "chmod", group: "write", shape: "rw", systems: imagePeers, limits: alone(limit{peer: overlayIs, most: 0.3})},
		{name: "chown", group: "write", shape: "rw", long: true, systems: imagePeers, limits: alone(limit{peer: overlayIs, most: 0.3})},
		{name: "rename-dir", group: "write", shape: "rw", private: true, systems: imagePeers, limits: alone(limit{most: 0.001})},
		{name: "create", group: "write", shape: "rw", private: true, systems: newPeers, limits: light},
		{name: "untar", group: "write", shape: "rw", private: true, systems: newPeers, limits: light},
		{name: "rm-image", group: "write", shape: "rw", private: true, systems: imagePeers, limits: light},
		{name: "rm-new", group: "write", shape: "rw", private: true, systems: newPeers, limits: light},
		{name: "seq", group: "write", shape: "tiny", systems: synced, limits: allOf(1 / 0.9)},
		{name: "seq-user", work: "seq", group: "write", shape: "tiny", systems: []string{imgfsCachedIs, diskIs}, limits: allOf(1 / 0.5)},
		{name: "fsync", group: "write", shape: "tiny", main: []string{imgfsRWIs, diskIs}, systems: synced, limits: alone(limit{peer: diskIs, most: 1.2})},
		{name: "create-fsync", group: "write", shape: "tiny", main: []string{imgfsRWIs, diskIs}, systems: synced, limits: alone(limit{peer: diskIs, most: 3})},
		{name: "sqlite-wal", group: "write", shape: "tiny", systems: synced, limits: alone(limit{peer: diskIs, most: 1.5})},
		{name: "sqlite-delete", group: "write", shape: "tiny", systems: synced, limits: alone(limit{peer: diskIs, most: 3})},
		{name: "million", group: "write", shape: "many", private: true, systems: []string{imgfsRWIs}, long: true, limits: map[string][]limit{
			anonAfter(theChange): {{most: 128}}, thePeak: nil,
		}},
	}
}

// chooseRows returns the rows of the given groups and names, in the order of
// the table: of no group all but those apart, of no name all but the long ones,
// and of no group and name when quick the main ones.
func chooseRows(groups, names []string, quick bool) ([]row, error) {
	all := allRows()
	for _, g := range groups {
		if !slices.ContainsFunc(all, func(r row) bool { return r.group == g }) {
			return nil, fmt.Errorf("no such group: %s (hot, load, registry, forensics, read, write)", g)
		}
	}
	called := func(r row, name string) bool { return name == r.name || name == r.title() }
	for _, name := range names {
		if !slices.ContainsFunc(all, func(r row) bool { return called(r, name) }) {
			var known []string
			for _, r := range all {
				known = append(known, r.title())
			}
			return nil, fmt.Errorf("no such row: %s (%s)", name, strings.Join(known, ", "))
		}
	}
	return slices.DeleteFunc(all, func(r row) bool {
		switch {
		case len(groups) > 0 && !slices.Contains(groups, r.group):
			return true
		case len(names) > 0:
			return !slices.ContainsFunc(names, func(name string) bool { return called(r, name) })
		}
		return r.long || len(groups) == 0 && (r.apart || quick && len(r.main) == 0)
	}), nil
}

// workload returns the name of the row's workload.
func (r row) workload(quick bool) string {
	name := cmp.Or(r.work, r.name)
	if short := map[string]string{"seq": "seq-quick", "everything": "read"}[name]; quick && short != "" {
		return short
	}
	return name
}
