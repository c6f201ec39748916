// SPDX-License-Identifier: Apache-2.0

package cow

// A checkpoint is what was folded, read from one transaction of a bbolt file.
type checkpoint struct{}

func (c *checkpoint) inode(n Node) (*inode, error) { return nil, nil }

func (c *checkpoint) entry(dir Node, name string) (entry, bool, error) { return entry{}, false, nil }

// entries calls f for the entries of dir, whiteouts included, in the order of
// their hashes (hashName) from the given one on, until it returns false.
func (c *checkpoint) entries(dir Node, from uint64, f func(hash uint64, name string, e entry) bool) error {
	return nil
}

func (c *checkpoint) xattr(n Node, name string) ([]byte, error) { return nil, nil }

func (c *checkpoint) eachXattr(n Node, f func(name string, value []byte) bool) error { return nil }

func (c *checkpoint) chunk(k chunkKey) (*chunk, error) { return nil, nil }
