// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"fmt"
	"os"
	"testing"
)

// BenchmarkUpper measures changes through the kernel.
func BenchmarkUpper(b *testing.B) {
	for name, opt := range map[string]Options{"passthrough": {}, "writeback": {NoPassthrough: true}} {
		for size, data := range map[string][]byte{"empty": nil, "100B": make([]byte, 100)} {
			b.Run("way="+name+"/create="+size, func(b *testing.B) {
				dir, _ := mountedUpper(b, newUpper(b, small()), opt)
				i := 0
				for b.Loop() {
					if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, i), data, 0o644); err != nil {
						b.Fatal(err)
					}
					i++
				}
			})
		}
		b.Run("way="+name+"/unlink", func(b *testing.B) {
			dir, _ := mountedUpper(b, newUpper(b, wide(1, 20000)), opt)
			i := 0
			for b.Loop() {
				if i == 20000 {
					b.Skip("more files are needed")
				}
				if err := os.Remove(fmt.Sprintf("%s/dir0000/file%05d", dir, i)); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}
