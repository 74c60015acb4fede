// Package image is the image side of the runtime: references as people write
// them, packing a directory or program into an archive, importing archives (one, or all
// of a watched folder), and pulling through the mirrors of registries.yaml.
//
// Store implements engine.Images over a containerd client. An image is known by the
// digest of its configuration (ID); its names are containerd image records, as ctr and nerdctl show them.
// What an image holds never changes, so Store keeps what it has read once.
//
// It collects no garbage by itself: the agent decides what goes. Start reading at Store.
package image

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// Normalize completes a reference as people write it ("busybox", "ghcr.io/x/y:1")
// to the form under which images are kept: docker.io/library/busybox:latest.
func Normalize(ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("image reference %q: %w", ref, err)
	}
	return named.String(), nil
}

// Repository is a reference without tag and digest, in short form refused.
func repository(ref string) string {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return ref
	}
	return named.Name()
}

// isDigest reports whether ref is a bare digest or ID.
func isDigest(ref string) bool {
	hex := strings.TrimPrefix(ref, "sha256:")
	if len(hex) != 64 {
		return false
	}
	return strings.Trim(hex, "0123456789abcdef") == ""
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
