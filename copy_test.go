// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/regtest"
)

// TestCopy sends one image round through all kinds of places and back.
func TestCopy(t *testing.T) {
	ctx := context.Background()
	host := regtest.Start(t, regtest.Options{}).Host
	b := newOCI(t)
	made := b.image("linux/amd64", textLayers(t, "gzip", "a=1 || b=2"), nil)
	dir := t.TempDir()
	src := "oci-archive:" + b.write(named(made, "docker.io/library/made:1"))
	s := openStore(t)
	places := []string{
		src,
		"oci:" + dir + "/layout",
		"docker-archive:" + dir + "/docker.tar:example.com/renamed:2",
		"docker://" + host + "/team/app:1",
		"docker://" + host + "/other/app:1",
		"oci-archive:" + dir + "/oci.tar:word",
		"store:kept:1",
		"docker://" + host + "/third:1",
		"oci:" + dir + "/last:end",
	}
	for i := range len(places) - 1 {
		if _, err := s.Copy(ctx, places[i], places[i+1], imgfs.CopyOptions{}); err != nil {
			t.Fatalf("copy %s %s: %v", places[i], places[i+1], err)
		}
	}
	path := filepath.Join(dir, "last")
	info, err := s.Info(ctx, path, imgfs.OpenOptions{})
	if err != nil || info.Digest != made.Digest {
		t.Fatalf("at the end of the way: %v, %v; want %s", info, err, made.Digest)
	}
	diffTrees(t, "at the end of the way", treeOf(t, s, path), treeOf(t, s, "kept:1"))
	if list, err := s.Images(ctx); err != nil || len(list) != 1 {
		t.Errorf("the store has %v, %v; want the one that was copied to it", list, err)
	}
}

func TestCopyIndex(t *testing.T) {
	needTools(t, "skopeo", "umoci")
	ctx := context.Background()
	host := regtest.Start(t, regtest.Options{}).Host
	dir := t.TempDir()
	b := newOCI(t)
	amd := b.image("linux/amd64", textLayers(t, "gzip", "a=amd"), nil)
	arm := b.image("linux/arm64", textLayers(t, "", "a=arm"), nil)
	index := b.indexOf(amd, arm)
	src := "oci-archive:" + b.write(named(index, "docker.io/library/many:1"))
	s := openStore(t)
	all, armOnly := imgfs.CopyOptions{AllPlatforms: true}, imgfs.CopyOptions{Platform: "linux/arm64"}
	for _, tt := range []struct {
		name     string
		from, to string
		opt      imgfs.CopyOptions
		want     string // digest at the end; "host" = of this machine's image
	}{
		{"an index to an archive", src, "oci:" + dir + "/a:x", imgfs.CopyOptions{}, string(index.Digest)},
		{"one platform of it", src, "oci:" + dir + "/b:x", armOnly, string(arm.Digest)},
		{"an index to a registry", src, "docker://" + host + "/many:all", all, string(index.Digest)},
		{"one platform to a registry", src, "docker://" + host + "/many:arm", armOnly, string(arm.Digest)},
		{"this machine's to a registry", src, "docker://" + host + "/many:host", imgfs.CopyOptions{}, "host"},
		{"an index between repositories", "docker://" + host + "/many:all", "docker://" + host + "/again:all", all, string(index.Digest)},
		{"an index from a registry", "docker://" + host + "/again:all", "oci:" + dir + "/c:x", all, string(index.Digest)},
		{"one platform from a registry", "docker://" + host + "/again:all", "oci:" + dir + "/d:x", armOnly, string(arm.Digest)},
		{"this machine's from a registry", "docker://" + host + "/again:all", "oci:" + dir + "/e:x", imgfs.CopyOptions{}, "host"},
	} {
		if _, err := s.Copy(ctx, tt.from, tt.to, tt.opt); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if tt.want == "host" {
			if tt.want = string(amd.Digest); image.HostPlatform().Architecture == "arm64" {
				tt.want = string(arm.Digest)
			}
		}
		out, err := exec.Command("skopeo", "inspect", "--tls-verify=false", "--raw", tt.to).Output()
		if got := regtest.Digest(out); err != nil || got != tt.want {
			t.Errorf("%s: skopeo sees %s, %v; want %s", tt.name, got, err, tt.want)
		}
	}
	run(t, "umoci", "unpack", "--image", filepath.Join(dir, "e")+":x", filepath.Join(dir, "bundle"))

	// To the store an index comes as pull and load bring it.
	if _, err := s.Copy(ctx, "docker://"+host+"/many:all", "many:1", imgfs.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	list, err := s.Images(ctx)
	if err != nil || len(list) != 1 || list[0].Digest != index.Digest {
		t.Errorf("the store has %v, %v; want %s", list, err, index.Digest)
	}
	// Half an index is not pushed whole.
	if _, err := s.Copy(ctx, "many:1", "docker://"+host+"/half:1", all); !errors.Is(err, imgfs.ErrIncomplete) {
		t.Errorf("half an index: got %v, want ErrIncomplete", err)
	}
}

func TestCopyErrors(t *testing.T) {
	ctx := context.Background()
	s := openStore(t)
	dir := t.TempDir()
	b := newOCI(t)
	one := b.image("linux/amd64", textLayers(t, "gzip", "a=1"), nil)
	two := b.image("linux/amd64", textLayers(t, "gzip", "a=2"), nil)
	src := "oci-archive:" + b.write(named(one, "docker.io/library/x:1"), named(two, "docker.io/library/x:2"))
	out := filepath.Join(dir, "out")
	for _, tt := range []struct {
		from, to string
		opt      imgfs.CopyOptions
		want     error
	}{
		{src, "oci:" + out + ":name", imgfs.CopyOptions{}, image.ErrNotFound}, // two of one name
		{src + ":docker.io/library/x:3", "oci:" + out, imgfs.CopyOptions{}, image.ErrNotFound},
		{src, "oci:" + out, imgfs.CopyOptions{Platform: "linux/arm64"}, image.ErrNotFound},
		{src, "oci:" + out, imgfs.CopyOptions{Platform: "x"}, imgfs.ErrOption},
		{src, "docker://example.com/x@" + string(one.Digest), imgfs.CopyOptions{}, imgfs.ErrOption},
		{src, "oci:" + out + ":a b", imgfs.CopyOptions{}, imgfs.ErrOption},
		{src, "containers-storage:x", imgfs.CopyOptions{}, imgfs.ErrOption},
		{"https://example.com/x", "oci:" + out, imgfs.CopyOptions{}, imgfs.ErrOption},
		{"a", "store:b", imgfs.CopyOptions{}, imgfs.ErrBothStored},
		{"a", "store:b", imgfs.CopyOptions{}, imgfs.ErrOption},
		{"nope", "oci:" + out, imgfs.CopyOptions{}, image.ErrNotFound},
	} {
		if _, err := s.Copy(ctx, tt.from, tt.to, tt.opt); !errors.Is(err, tt.want) {
			t.Errorf("copy %s %s: got %v, want %v", tt.from, tt.to, err, tt.want)
		}
	}
	if list, _ := os.ReadDir(dir); len(list) != 0 {
		t.Errorf("left: %v", list)
	}
}
