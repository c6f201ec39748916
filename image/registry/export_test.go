// SPDX-License-Identifier: Apache-2.0

package registry

import "time"

// Hurry makes waits short, as tests need them.
func (c *Client) Hurry() {
	c.firstWait = time.Millisecond
	c.auth.http.Transport.(*retrying).first = time.Millisecond
}

// Impatient has c bear no silence longer than d.
func (c *Client) Impatient(d time.Duration) { c.hosts.silence = d }

var (
	ParseChallenges = parseChallenges
	ParseSearch     = parseSearch
	Scrub           = scrub
)

func (c challenge) Scheme() string            { return c.scheme }
func (c challenge) Params() map[string]string { return c.params }
