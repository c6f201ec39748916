// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
)

// capabilityXattr holds the capabilities of a file, see capabilities(7).
const capabilityXattr = "security.capability"

// capNames are the capabilities by their numbers, include/uapi/linux/capability.h.
var capNames = [...]string{
	"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
	"linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
	"sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
	"sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
	"mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
	"checkpoint_restore",
}

// Capabilities are those that a file gives to who executes it.
type Capabilities struct {
	Permitted, Inheritable uint64
	Effective              bool
}

// ParseCapabilities reads a value of security.capability; ok is false if it is
// none. The forms are those of struct vfs_cap_data, of version 1 to 3.
func ParseCapabilities(v []byte) (c Capabilities, ok bool) {
	if len(v) < 4 {
		return c, false
	}
	le := binary.LittleEndian
	magic := le.Uint32(v)
	words, size := 2, 20
	switch magic >> 24 {
	case 1:
		words, size = 1, 12
	case 2:
	case 3:
		size = 24
	default:
		return c, false
	}
	if len(v) != size {
		return c, false
	}
	for i := range words {
		c.Permitted |= uint64(le.Uint32(v[4+8*i:])) << (32 * i)
		c.Inheritable |= uint64(le.Uint32(v[8+8*i:])) << (32 * i)
	}
	c.Effective = magic&1 != 0
	return c, true
}

// Has reports whether c gives the capability of that number.
func (c Capabilities) Has(n int) bool { return (c.Permitted|c.Inheritable)>>n&1 != 0 }

// String returns c as getcap prints it: cap_net_raw=ep.
func (c Capabilities) String() string {
	var groups []string
	add := func(set uint64, flags string) {
		if set == 0 {
			return
		}
		var names []string
		for ; set != 0; set &= set - 1 {
			names = append(names, capName(bits.TrailingZeros64(set)))
		}
		groups = append(groups, strings.Join(names, ",")+"="+flags)
	}
	e := ""
	if c.Effective {
		e = "e"
	}
	add(c.Permitted&c.Inheritable, e+"ip")
	add(c.Permitted&^c.Inheritable, e+"p")
	add(c.Inheritable&^c.Permitted, e+"i")
	if groups == nil {
		return "="
	}
	return strings.Join(groups, " ")
}

func capName(n int) string {
	if n < len(capNames) {
		return "cap_" + capNames[n]
	}
	return fmt.Sprintf("cap_%d", n)
}

// parseCap returns the number of a capability: "cap_net_raw", "net_raw" or
// "CAP_NET_RAW".
func parseCap(s string) (int, error) {
	name := strings.TrimPrefix(strings.ToLower(s), "cap_")
	for n, known := range capNames {
		if name == known {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%q is no capability", s)
}
