// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/image"
)

// TestNotThatStore: what a directory is instead is said.
func TestNotThatStore(t *testing.T) {
	const overlay = "image/overlay2/imagedb/content/sha256/"
	for _, tt := range []struct {
		name  string
		kind  Kind
		files []string // a directory ends in a slash
		says  string
	}{
		{"docker keeps images in a containerd of its own", Docker, []string{"engine-id", "containerd/daemon/io.containerd.metadata.v1.bolt/meta.db"}, "containerd:%/containerd/daemon"},
		{"docker keeps images in the system's containerd", Docker, []string{"engine-id", "containers/"}, "it may keep them in containerd"},
		{"a driver that cannot be read", Docker, []string{"image/btrfs/imagedb/"}, "not btrfs"},
		{"podman's", Docker, []string{"overlay-images/images.json"}, "but one of containers-storage (containers-storage:%)"},
		{"docker's", Storage, []string{overlay}, "but one of docker"},
		{"docker's, again", Containerd, []string{overlay}, "but one of docker"},
		{"another driver of podman", Storage, []string{"zfs-images/images.json"}, "not zfs"},
		{"nothing", Containerd, nil, "not a store of containerd"},
		{"a bbolt file that is none", Containerd, []string{metaDB}, "not a bbolt file"},
	} {
		root := t.TempDir()
		for _, name := range tt.files {
			path := filepath.Join(root, name)
			if strings.HasSuffix(name, "/") {
				must(t, os.MkdirAll(path, 0o755))
				continue
			}
			must(t, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600))
		}
		s, err := Open(context.Background(), Location{Kind: tt.kind, Root: root}, testOptions)
		if err == nil {
			s.Close()
		}
		if says := strings.ReplaceAll(tt.says, "%", root); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %s", tt.name, err, says)
		}
	}
	s, err := Open(context.Background(), Location{Kind: Docker, Root: t.TempDir()}, testOptions)
	if err == nil {
		s.Close()
	}
	if !errors.Is(err, image.ErrNotFound) {
		t.Errorf("an empty directory: %v", err)
	}
}
