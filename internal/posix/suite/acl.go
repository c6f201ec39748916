// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// ACLs are written as getfacl writes them, in one word:
// u::rwx,u:1000:r--,g::r-x,g:5:rwx,m::rwx,o::---

var aclTags = map[string]uint16{"u:": 0x01, "u": 0x02, "g:": 0x04, "g": 0x08, "m:": 0x10, "o:": 0x20}

// encodeACL returns the value of a posix_acl xattr.
func encodeACL(text string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for entry := range strings.SplitSeq(text, ",") {
		part := strings.Split(entry, ":")
		tag, id := part[0], uint32(1<<32-1)
		if part[1] == "" {
			tag += ":"
		} else {
			id = uint32(num(part[1]))
		}
		var perm uint16
		for i, c := range part[2] {
			if c != '-' {
				perm |= 4 >> i
			}
		}
		b = binary.LittleEndian.AppendUint16(b, aclTags[tag])
		b = binary.LittleEndian.AppendUint16(b, perm)
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	return b
}

func decodeACL(b []byte) string {
	if len(b) < 4 || len(b)%8 != 4 || binary.LittleEndian.Uint32(b) != 2 {
		return fmt.Sprintf("no ACL: %x", b)
	}
	var out []string
	for b = b[4:]; len(b) > 0; b = b[8:] {
		tag, perm, id := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])
		for name, t := range aclTags {
			if t != tag {
				continue
			}
			rwx := []byte("---")
			for i := range rwx {
				if perm&(4>>i) != 0 {
					rwx[i] = "rwx"[i]
				}
			}
			if strings.HasSuffix(name, ":") {
				out = append(out, name+":"+string(rwx))
			} else {
				out = append(out, fmt.Sprintf("%s:%d:%s", name, id, rwx))
			}
		}
	}
	return strings.Join(out, ",")
}
