package defaults

import (
	"strings"

	core "k8s.io/api/core/v1"
)

// pullPolicy is Always for the tag latest, given or meant, else IfNotPresent.
func pullPolicy(image string) core.PullPolicy {
	if imageTag(image) == "latest" {
		return core.PullAlways
	}
	return core.PullIfNotPresent
}

// imageTag is the tag of an image name: "latest" where neither tag nor digest
// is given, "" where only a digest is or where there is no name at all.
func imageTag(image string) string {
	name, _, digest := strings.Cut(image, "@")
	last := name[strings.LastIndexByte(name, '/')+1:]
	if _, tag, ok := strings.Cut(last, ":"); ok {
		return tag
	}
	if digest || last == "" {
		return ""
	}
	return "latest"
}
