// SPDX-License-Identifier: Apache-2.0

package crashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A Kind says what a record changes.
type Kind uint8

const (
	Create      Kind = iota + 1 // a file, device or FIFO; Mode, Size = rdev
	Mkdir                       // Mode
	Symlink                     // Data = target
	Link                        // a name more
	Unlink                      //
	Rmdir                       //
	Rename                      // also exchanges, by Flags
	Write                       // Data at Off
	Truncate                    // to Size
	Fallocate                   // Flags, Off, Size = length
	SetAttr                     // the fields that Flags names
	SetXattr                    // Name = Data
	RemoveXattr                 // Name
	Sync                        // a file or directory; Flags 1 = fdatasync
	SyncFailed                  // … that returned an error
	SyncFS                      // all
	Read                        // never recorded; for faults
)

var kindNames = [...]string{"", "create", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "write", "truncate",
	"fallocate", "setattr", "setxattr", "removexattr", "sync", "syncfailed", "syncfs", "read"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", k)
}

// The fields of a SetAttr.
const (
	setMode = 1 << iota
	setOwner
	setTime
)

// An Op is one record. Which fields count is said at its Kind.
type Op struct {
	Kind  Kind
	Flags uint32
	Mode  uint32
	UID   uint32
	GID   uint32
	Ino   uint64 // what is changed or synced
	Dir   uint64 // the directory of Name
	Dir2  uint64 // the directory of Name2
	Off   int64
	Size  int64
	Begin uint64 // of a sync: how many records there were when it began
	Time  int64  // mtime after it, nanoseconds since 1970
	Name  string
	Name2 string // of a rename: the new name
	Data  []byte
}

func (op Op) String() string {
	switch op.Kind {
	case Write:
		return fmt.Sprintf("write #%d [%d,%d)", op.Ino, op.Off, op.Off+int64(len(op.Data)))
	case Truncate:
		return fmt.Sprintf("truncate #%d %d", op.Ino, op.Size)
	case Fallocate:
		return fmt.Sprintf("fallocate #%d mode %#x [%d,%d)", op.Ino, op.Flags, op.Off, op.Off+op.Size)
	case Sync:
		return fmt.Sprintf("sync #%d datasync=%d begun %d", op.Ino, op.Flags, op.Begin)
	case Rename:
		return fmt.Sprintf("rename #%d %d/%q → %d/%q flags %d", op.Ino, op.Dir, op.Name, op.Dir2, op.Name2, op.Flags)
	}
	return fmt.Sprintf("%v #%d %d/%q", op.Kind, op.Ino, op.Dir, op.Name)
}

// opHead is the fixed part of a record:
//
//	 0  4  length of the whole record
//	 4  1  kind
//	 5  3  0
//	 8 16  flags, mode, uid, gid
//	24 56  ino, dir, dir2, off, size, begin, time
//	80 12  lengths of name, name2, data; these follow
const opHead = 92

var errBadLog = errors.New("crashfs: a record is cut short")

func (op *Op) encode() []byte {
	n := opHead + len(op.Name) + len(op.Name2) + len(op.Data)
	b := make([]byte, 0, n)
	le := binary.LittleEndian
	b = le.AppendUint32(b, uint32(n))
	b = append(b, byte(op.Kind), 0, 0, 0)
	for _, v := range [...]uint32{op.Flags, op.Mode, op.UID, op.GID} {
		b = le.AppendUint32(b, v)
	}
	for _, v := range [...]uint64{op.Ino, op.Dir, op.Dir2, uint64(op.Off), uint64(op.Size), op.Begin, uint64(op.Time)} {
		b = le.AppendUint64(b, v)
	}
	for _, v := range [...]int{len(op.Name), len(op.Name2), len(op.Data)} {
		b = le.AppendUint32(b, uint32(v))
	}
	b = append(b, op.Name...)
	b = append(b, op.Name2...)
	return append(b, op.Data...)
}

// decodeOp returns the first record of b and its length. Data stays in b.
func decodeOp(b []byte) (op Op, n int, err error) {
	if len(b) < opHead {
		return op, 0, errBadLog
	}
	le := binary.LittleEndian
	n = int(le.Uint32(b))
	names, names2, data := int(le.Uint32(b[80:])), int(le.Uint32(b[84:])), int(le.Uint32(b[88:]))
	if n > len(b) || n != opHead+names+names2+data {
		return op, 0, errBadLog
	}
	op = Op{
		Kind: Kind(b[4]), Flags: le.Uint32(b[8:]), Mode: le.Uint32(b[12:]), UID: le.Uint32(b[16:]), GID: le.Uint32(b[20:]),
		Ino: le.Uint64(b[24:]), Dir: le.Uint64(b[32:]), Dir2: le.Uint64(b[40:]), Off: int64(le.Uint64(b[48:])),
		Size: int64(le.Uint64(b[56:])), Begin: le.Uint64(b[64:]), Time: int64(le.Uint64(b[72:])),
	}
	b = b[opHead:n]
	op.Name, op.Name2, op.Data = string(b[:names]), string(b[names:names+names2]), b[names+names2:]
	return op, n, nil
}
