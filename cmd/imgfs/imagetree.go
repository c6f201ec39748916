// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

// A layerNode stands for the stacks of layers that begin alike.
type layerNode struct {
	layers   []imgfs.LayerInfo // what all of them have here, base first
	images   []imgfs.ImageSummary
	children []*layerNode
}

// add puts an image below n, whose layers it has; layers are the rest of its.
func (n *layerNode) add(i imgfs.ImageSummary, layers []imgfs.LayerInfo) {
	if len(layers) == 0 {
		n.images = append(n.images, i)
		return
	}
	for _, c := range n.children {
		same := 0
		for same < len(c.layers) && same < len(layers) && c.layers[same].DiffID == layers[same].DiffID {
			same++
		}
		if same == 0 {
			continue
		}
		if same < len(c.layers) { // c becomes what both have
			rest := &layerNode{layers: c.layers[same:], images: c.images, children: c.children}
			c.layers, c.images, c.children = c.layers[:same], nil, []*layerNode{rest}
		}
		c.add(i, layers[same:])
		return
	}
	n.children = append(n.children, &layerNode{layers: layers, images: []imgfs.ImageSummary{i}})
}

// printLayerTree prints images below the layers that they share.
func printLayerTree(w io.Writer, images []imgfs.ImageSummary, noTrunc bool) error {
	root := new(layerNode)
	for _, i := range images {
		root.add(i, i.Layers)
	}
	p := &layerPrinter{w: bufio.NewWriter(w), noTrunc: noTrunc}
	for _, i := range root.images {
		p.image("", &i)
	}
	for _, c := range root.children {
		p.node("", "", c)
	}
	return p.w.Flush() // has the first error
}

type layerPrinter struct {
	w       *bufio.Writer
	noTrunc bool
}

func (p *layerPrinter) id(digest string) string {
	if p.noTrunc {
		return digest
	}
	return term.ShortID(digest)
}

// node prints the layers of n, one for all of them, and what stands on them.
func (p *layerPrinter) node(first, rest string, n *layerNode) {
	size := int64(0)
	for _, l := range n.layers {
		size += l.TarSize
	}
	what := "layer " + p.id(string(n.layers[len(n.layers)-1].DiffID))
	if len(n.layers) > 1 {
		what = fmt.Sprintf("%d layers to %s", len(n.layers), what[len("layer "):])
	}
	fmt.Fprintf(p.w, "%s%s  %s\n", first, what, term.Size(size))
	for k := range n.images {
		branch := "├── "
		if k == len(n.images)-1 && len(n.children) == 0 {
			branch = "└── "
		}
		p.image(rest+branch, &n.images[k])
	}
	for k, c := range n.children {
		branch, below := "├── ", "│   "
		if k == len(n.children)-1 {
			branch, below = "└── ", "    "
		}
		p.node(rest+branch, rest+below, c)
	}
}

func (p *layerPrinter) image(before string, i *imgfs.ImageSummary) {
	name := i.Repository
	if i.Tag != "<none>" {
		name += ":" + i.Tag
	}
	fmt.Fprintf(p.w, "%s%s  %s  %s\n", before, term.Escape(name), p.id(string(i.ID)), term.Size(i.Size))
}
