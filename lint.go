// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"strings"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/layerstore"
)

// blobOddities returns what is odd about a layer as it was shipped: rows C2
// and C7 of docs/semantics.md.
func blobOddities(l layerstore.Layer) (list []index.Oddity) {
	for _, row := range []struct{ rule, what string }{{"C2", mediaTypeLie(l)}, {"C7", l.Oddity}} {
		if what, ok := strings.CutSuffix(row.what, " ("+row.rule+")"); ok {
			list = append(list, index.Oddity{Rule: row.rule, What: what})
		}
	}
	return list
}
