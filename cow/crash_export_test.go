// SPDX-License-Identifier: Apache-2.0

package cow

// What the crash tests, which stand outside of the package, need of its inside.

// CopyWhole is up to which size a file is copied at its first write.
const CopyWhole = copyWhole

// SetBoot has an upper take boot for the machine's boot, as another one after a
// loss of power.
func (o *Options) SetBoot(boot string) { o.boot = boot }

// SetFold sets when an upper folds, and when changes wait for it.
func (o *Options) SetFold(at, by int64) { o.foldAt, o.foldBy = at, by }

// SetFlush sets what an upper does in place of syncfs(2).
func (o *Options) SetFlush(flush func() error) { o.flush = flush }

// SyncSoon does now what a timer does every second.
func (u *Upper) SyncSoon() { u.syncSoon() }
