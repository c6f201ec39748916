// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"fmt"
	"time"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/term"
)

// A FileInfo is an entry as output has it. Bytes that are not UTF-8 are
// replaced in a string and told whole by the field …_base64.
type FileInfo struct {
	Type         string `json:"type"` // as index.TypeName
	Mode         string `json:"mode"` // octal, four digits
	Nlink        uint32 `json:"nlink"`
	UID          uint32 `json:"uid"`
	GID          uint32 `json:"gid"`
	Size         int64  `json:"size"`  // bytes
	Mtime        string `json:"mtime"` // RFC 3339, UTC
	Target       string `json:"target,omitempty"`
	TargetBase64 string `json:"target_base64,omitempty"`
	Layer        *int   `json:"layer,omitempty"` // that brought it, 0 is the base
}

// NewFileInfo returns the FileInfo of e; nil of nil.
func NewFileInfo(e *Entry) *FileInfo {
	if e == nil {
		return nil
	}
	i := &FileInfo{
		Type: index.TypeName(e.Mode), Mode: fmt.Sprintf("%04o", e.Mode&0o7777), Nlink: e.Nlink, UID: e.UID, GID: e.GID,
		Size: e.Size, Mtime: e.ModTime().UTC().Format(time.RFC3339Nano), Target: e.Target, TargetBase64: term.Base64(e.Target),
	}
	if e.Type() == 0 {
		i.Type = "hardlink"
	}
	if e.Layer >= 0 {
		layer := e.Layer
		i.Layer = &layer
	}
	return i
}
