// SPDX-License-Identifier: Apache-2.0

package term

import (
	"bytes"
	"context"
	"testing"
)

// Work that begins when drawing has ended, as by Ctrl-C, is not told of.
func TestBarsThatEnded(t *testing.T) {
	for _, total := range []int64{0, 10} {
		ctx, cancel := context.WithCancel(context.Background())
		bars := newBars(ctx, &bytes.Buffer{})
		cancel()
		bars.Wait()
		bar := bars.Start("late", total)
		if n, err := bar.Write([]byte("12")); n != 2 || err != nil {
			t.Error(n, err)
		}
		if err := bar.Close(); err != nil {
			t.Error(err)
		}
	}
}
