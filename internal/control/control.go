// SPDX-License-Identifier: Apache-2.0

// Package control is the register of living mounts. The server of each mount
// listens on a local socket of its own, in a directory that only its user may
// enter; who lists or ends mounts asks there. There is no process in common
// and no file that two servers write, so no command waits for another, and a
// server that is killed is found out by its socket, which nobody answers.
//
// In a directory lie, for a mount with the random name ID:
//
//	ID.sock   where its server listens; there while the mount answers
//	ID.json   what the server said of itself when it began
//	ID.log    what it has to say meanwhile (made by who starts it)
//
// A request is a line of JSON, so is its answer; both are bounded, and so is
// the time for them. The answer to a call comes behind a stream: pieces of up
// to 64 KiB, each behind its length in four bytes, little-endian, the last of
// length 0. Server and client each check that the other is of the same user,
// or root.
//
// The package does not know how to mount or unmount.
package control

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Info is what a server tells of its mount.
type Info struct {
	ID       string    `json:"id"`
	Dir      string    `json:"dir"`    // absolute, without symlinks
	Device   string    `json:"device"` // major:minor of the mounted tree
	Image    string    `json:"image"`  // as it was asked for
	ImageID  string    `json:"image_id"`
	Platform string    `json:"platform"`
	Mode     string    `json:"mode"`              // "ro" or "rw"
	Upper    string    `json:"upper,omitempty"`   // name of the upper, of a writable mount
	Changed  int64     `json:"changed,omitempty"` // inodes that the upper holds
	Options  []string  `json:"options,omitempty"`
	PID      int       `json:"pid"`
	Since    time.Time `json:"since"`
	Log      string    `json:"log,omitempty"` // path
	Store    string    `json:"store"`         // path
	Verified bool      `json:"verified"`
	Damaged  bool      `json:"damaged"`        // a layer is not what its digests say
	Made     []string  `json:"made,omitempty"` // directories made for the mount, outermost first
	Exits    bool      `json:"exits"`          // the server is a process that ends with the mount
}

// Bounds of the protocol.
const (
	maxRequest  = 4 << 10
	maxAnswer   = 64 << 10
	maxClients  = 64
	answerTime  = 2 * time.Second
	maxSockPath = 107 // bytes: sun_path without its final zero
	idBytes     = 6
	keepLogs    = 7 * 24 * time.Hour
)

// Verbs of the protocol.
const (
	verbInfo    = "info"
	verbUnmount = "unmount"
	verbWait    = "wait" // the connection stays open until the server is gone
	verbCall    = "call" // something that only the server of a writable mount can do
)

type request struct {
	Verb string `json:"verb"`
	Lazy bool   `json:"lazy,omitempty"`
	Call *Call  `json:"call,omitempty"`
}

// A Call asks a server for something that comes as a stream. Who serves says
// what names and arguments there are.
type Call struct {
	Name string          `json:"name"`
	Arg  json.RawMessage `json:"arg,omitempty"`
}

type answer struct {
	Info  *Info  `json:"info,omitempty"`
	Error string `json:"error,omitempty"`
	Errno int    `json:"errno,omitempty"`
}

// Dirs returns the directories where servers of this user may listen, the
// best first. IMGFS_RUNTIME_DIR, if set, is the only one. Of the others every
// one is looked into, since not every session of a user has XDG_RUNTIME_DIR.
func Dirs() []string {
	if dir := os.Getenv("IMGFS_RUNTIME_DIR"); dir != "" {
		return []string{filepath.Clean(dir)}
	}
	uid := os.Geteuid()
	var dirs []string
	if uid == 0 {
		dirs = append(dirs, "/run/imgfs")
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) && ownedBy(dir, uid) {
		dirs = append(dirs, filepath.Join(dir, "imgfs"))
	}
	if dir := fmt.Sprintf("/run/user/%d", uid); ownedBy(dir, uid) {
		dirs = append(dirs, filepath.Join(dir, "imgfs"))
	}
	dirs = append(dirs, fmt.Sprintf("/tmp/imgfs-%d", uid))
	return unique(dirs)
}

// OthersDirs returns, for root, where servers of other users listen.
func OthersDirs() []string {
	if os.Geteuid() != 0 || os.Getenv("IMGFS_RUNTIME_DIR") != "" {
		return nil
	}
	var dirs []string
	for _, pattern := range []string{"/run/user/*/imgfs", "/tmp/imgfs-*"} {
		found, _ := filepath.Glob(pattern) // the pattern is fine
		dirs = append(dirs, found...)
	}
	return dirs
}

// Prepare returns the first of dirs that can be used, and makes it if it is
// not there.
func Prepare(dirs []string) (string, error) {
	var first error
	for _, dir := range dirs {
		err := prepare(dir)
		if err == nil {
			return dir, nil
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = fs.ErrNotExist
	}
	return "", fmt.Errorf("no directory for the sockets of mounts: %w", first)
}

func prepare(dir string) error {
	if n := len(socketPath(dir, hex.EncodeToString(make([]byte, idBytes)))) + len(".new"); n > maxSockPath {
		return &fs.PathError{Op: "listen", Path: dir, Err: syscall.ENAMETOOLONG}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, err := ownerOf(dir)
	if err != nil {
		return err
	}
	if owner != os.Geteuid() {
		return &fs.PathError{Op: "listen", Path: dir, Err: fmt.Errorf("belongs to user %d", owner)}
	}
	// It is not made narrower: whoever opened it may have had a reason.
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return &fs.PathError{Op: "listen", Path: dir, Err: fmt.Errorf("is open to others: mode %04o, want 0700", mode)}
	}
	return syscall.Access(dir, 2|1) // W_OK|X_OK: it may be on a read-only file system
}

// ownerOf returns the owner of a directory; a symlink is an error.
func ownerOf(dir string) (uid int, err error) {
	info, err := os.Lstat(dir)
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() {
		return 0, &fs.PathError{Op: "open", Path: dir, Err: syscall.ENOTDIR}
	}
	return int(st.Uid), nil
}

func ownedBy(dir string, uid int) bool {
	owner, err := ownerOf(dir)
	return err == nil && owner == uid
}

func unique(dirs []string) []string {
	seen := make(map[string]bool, len(dirs))
	kept := dirs[:0]
	for _, d := range dirs {
		if !seen[d] {
			seen[d] = true
			kept = append(kept, d)
		}
	}
	return kept
}

// NewID returns a name for a mount that no other has.
func NewID() string {
	b := make([]byte, idBytes)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// isID reports whether s is as NewID makes them.
func isID(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == idBytes
}

func socketPath(dir, id string) string { return filepath.Join(dir, id+".sock") }
func infoPath(dir, id string) string   { return filepath.Join(dir, id+".json") }

// LogPath returns where the server of the mount id writes what it has to say.
func LogPath(dir, id string) string { return filepath.Join(dir, id+".log") }
