// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Platform says what an image was built for.
type Platform = ocispec.Platform

// HostPlatform returns the platform whose images are chosen by default:
// linux, whatever the system, with the architecture of this program.
func HostPlatform() Platform {
	return NormalizePlatform(Platform{OS: "linux", Architecture: runtime.GOARCH})
}

// ParsePlatform reads "os/arch[/variant]". A lone word is an architecture,
// and then the system is linux, or the name of a system, and then the
// architecture is the host's. The result is normalised.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	for _, p := range parts {
		if !isPlatformWord(p) {
			return Platform{}, fmt.Errorf("platform %q: want os/arch[/variant]", s)
		}
	}
	switch len(parts) {
	case 1:
		if isSystem(strings.ToLower(s)) {
			return NormalizePlatform(Platform{OS: s, Architecture: runtime.GOARCH}), nil
		}
		p := NormalizePlatform(Platform{OS: "linux", Architecture: s})
		if !isArchitecture(p.Architecture) {
			return Platform{}, fmt.Errorf("platform %q: neither a system nor an architecture", s)
		}
		return p, nil
	case 2:
		return NormalizePlatform(Platform{OS: parts[0], Architecture: parts[1]}), nil
	case 3:
		return NormalizePlatform(Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}), nil
	}
	return Platform{}, fmt.Errorf("platform %q: want os/arch[/variant]", s)
}

// FormatPlatform returns "os/arch[/variant]"; what is unknown is "unknown".
func FormatPlatform(p Platform) string {
	word := func(s string) string {
		if s == "" {
			return "unknown"
		}
		return s
	}
	s := word(p.OS) + "/" + word(p.Architecture)
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// NormalizePlatform returns p with the names containerd uses: x86_64 is
// amd64, aarch64 is arm64, armhf is arm/v7, armel is arm/v6, macos is darwin.
// The variant that an architecture has without saying so (amd64/v1, arm64/v8)
// is dropped, the one that arm means by default (v7) is said.
func NormalizePlatform(p Platform) Platform {
	p.OS = strings.ToLower(p.OS)
	p.Architecture = strings.ToLower(p.Architecture)
	p.Variant = strings.ToLower(p.Variant)
	if p.OS == "macos" {
		p.OS = "darwin"
	}
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "i386", "i486", "i586", "i686", "x86":
		p.Architecture, p.Variant = "386", ""
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	case "armv5", "armv5l", "armv6", "armv6l", "armv7", "armv7l", "armv8", "armv8l":
		p.Variant = "v" + p.Architecture[len("armv"):len("armv")+1]
		p.Architecture = "arm"
	case "ppc64el":
		p.Architecture = "ppc64le"
	case "mipsel":
		p.Architecture = "mipsle"
	case "mips64el":
		p.Architecture = "mips64le"
	}
	if n := len(p.Variant); n == 1 && '0' <= p.Variant[0] && p.Variant[0] <= '9' {
		p.Variant = "v" + p.Variant
	}
	switch p.Architecture + "/" + p.Variant {
	case "amd64/v1", "arm64/v8", "arm64/v8.0":
		p.Variant = ""
	case "arm/":
		p.Variant = "v7"
	}
	return p
}

// MatchPlatform reports whether an image for got runs where want is asked
// for: same system, same architecture, and a variant that is no later (arm/v7
// runs v6, amd64/v3 runs v2). An OSVersion asked for must begin got's.
func MatchPlatform(got, want Platform) bool { return distance(got, want) >= 0 }

// BestPlatform returns the index of the platform that fits want best, the
// first one of those that fit alike, or -1 if none does.
func BestPlatform(platforms []Platform, want Platform) int {
	best, least := -1, 0
	for i, p := range platforms {
		if d := distance(p, want); d >= 0 && (best < 0 || d < least) {
			best, least = i, d
		}
	}
	return best
}

// distance says how far got lies below want, 0 for the same platform, -1 if
// it does not match.
func distance(got, want Platform) int {
	got, want = NormalizePlatform(got), NormalizePlatform(want)
	if got.OS != want.OS || got.Architecture != want.Architecture {
		return -1
	}
	if !strings.HasPrefix(got.OSVersion, want.OSVersion) {
		return -1
	}
	if got.Variant == want.Variant {
		return 0
	}
	g, gok := variantRank(got)
	w, wok := variantRank(want)
	if !gok || !wok || g > w {
		return -1
	}
	return w - g
}

// variantRank orders the variants of an architecture whose later ones run
// what was built for the earlier ones; v8.2 comes after v8 and before v9.
func variantRank(p Platform) (int, bool) {
	v := p.Variant
	switch p.Architecture {
	case "amd64":
		if v == "" {
			v = "v1"
		}
	case "arm64":
		if v == "" {
			v = "v8"
		}
	case "arm":
	default:
		return 0, false
	}
	major, minor, _ := strings.Cut(strings.TrimPrefix(v, "v"), ".")
	m, err := strconv.ParseUint(major, 10, 8)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(minor, 10, 8)
	if err != nil && minor != "" {
		return 0, false
	}
	return int(m)<<8 | int(n), true
}

func isPlatformWord(s string) bool {
	for _, c := range []byte(s) {
		ok := 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-' || c == '.'
		if !ok {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

func isSystem(s string) bool {
	switch s {
	case "linux", "windows", "darwin", "macos", "freebsd", "netbsd", "openbsd", "wasip1", "wasi":
		return true
	}
	return false
}

func isArchitecture(s string) bool {
	switch s {
	case "386", "amd64", "arm", "arm64", "loong64", "mips", "mipsle", "mips64", "mips64le",
		"ppc64", "ppc64le", "riscv64", "s390x", "wasm":
		return true
	}
	return false
}
