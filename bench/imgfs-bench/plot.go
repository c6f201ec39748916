// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strings"
)

// The sizes of a chart, in pixels.
const (
	chartWidth = 760
	labelWidth = 170 // to the left of the bars
	figureRoom = 150 // to the right of the longest
	barHeight  = 13
	barStep    = 17
	groupGap   = 30 // above each figure's bars, with its name in it
	chartTop   = 40
)

// The colours are legible on white and on black; text follows the reader's.
const chartStyle = `<style>
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.group { font-weight: 600 }
.far { fill: #6e7781 }
.ours { fill: #1f883d }
.peer { fill: #8c959f }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.far { fill: #9198a1 }
.ours { fill: #3fb950 }
.peer { fill: #6e7681 }
}
</style>
`

// drawChart draws bars for each chosen figure, as long as the medians are, each
// figure by a scale of its own; shorter is better.
func drawChart(title string, cs []chosen) []byte {
	var b bytes.Buffer
	height := chartTop + 10
	for _, c := range cs {
		height += groupGap + barStep*len(c.systems)
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="%s">`+"\n",
		chartWidth, height, chartWidth, height, escape(title))
	b.WriteString(chartStyle)
	fmt.Fprintf(&b, `<text class="title" x="10" y="22">%s</text><text class="far" x="%d" y="22" text-anchor="end">shorter is better; × is to imgfs</text>`+"\n",
		escape(title), chartWidth-10)
	y := chartTop
	for _, c := range cs {
		fmt.Fprintf(&b, `<text class="group" x="10" y="%d">%s</text>`+"\n", y+groupGap-10, escape(c.label))
		y += groupGap
		longest := 0.0
		for _, s := range c.systems {
			longest = max(longest, median(c.line.Figures[s]))
		}
		for _, s := range c.systems {
			m := median(c.line.Figures[s])
			width := 0.0
			if longest > 0 {
				width = max(1, m/longest*(chartWidth-labelWidth-figureRoom))
			}
			class := "peer"
			if strings.HasPrefix(s, imgfsIs) {
				class = "ours"
			}
			said := c.line.Unit.text(m)
			if r, ok := c.line.ratio(s, c.systems[0]); ok && s != c.systems[0] {
				said += " · " + number2(r) + "×"
			}
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text><rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/><text class="far" x="%.1f" y="%d">%s</text>`+"\n",
				labelWidth-8, y+barHeight-2, escape(s), class, labelWidth, y, width, barHeight, labelWidth+width+6, y+barHeight-2, escape(said))
			y += barStep
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s)) // a Builder takes all
	return b.String()
}
