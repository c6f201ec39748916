// SPDX-License-Identifier: Apache-2.0

package cow

// rekey gives records of the tree's inodes the numbers that they have now.
func (u *Upper) rekey() error { return nil }
