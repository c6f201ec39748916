// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"os/exec"
	"testing"
	"time"
)

// A killer kills processes that all do the same, at moments spread over the time
// that one of them takes.
type killer struct {
	whole  time.Duration // that one takes
	rounds int           // how many are to be started
	round  int           // of the one that is running, from 1
	killed int
}

// next begins a round. There are more than were asked for where too few
// processes were still alive when they were to be killed.
func (k *killer) next() bool {
	k.round++
	return k.round <= k.rounds || k.killed < k.rounds/3 && k.round <= 10*k.rounds
}

// wait waits for a process that was just started, and kills it in time.
func (k *killer) wait(cmd *exec.Cmd) {
	began := time.Now()
	at := k.whole * time.Duration((k.round-1)%k.rounds) / time.Duration(k.rounds)
	timer := time.AfterFunc(at, func() { cmd.Process.Kill() })
	if cmd.Wait() != nil {
		k.killed++
	} else {
		k.whole = min(k.whole, time.Since(began)) // the machine is quicker now
	}
	timer.Stop()
}

func (k *killer) end(t *testing.T) {
	t.Helper()
	t.Logf("%d of %d were killed, one takes %v", k.killed, k.round-1, k.whole)
	if k.killed < k.rounds/3 {
		t.Errorf("only %d were killed", k.killed)
	}
}
