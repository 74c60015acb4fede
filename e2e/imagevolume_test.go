package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// imageVolumes: an image's files are a volume, read-only, also a part of them; two pods
// show the same one, and nothing of it stays when they go.
func imageVolumes(t *testing.T, c cluster) {
	pod := func(name, image, mount string) {
		t.Helper()
		c.Pod(name, "busybox:1.36", "command: [sleep, '3600']\nvolumeMounts: ["+mount+"]", "volumes: [{name: v, image: {reference: '"+image+"', pullPolicy: IfNotPresent}}]")
	}
	pod("one", "busybox:1.36", "{name: v, mountPath: /whole}, {name: v, mountPath: /part, subPath: bin}")
	pod("two", "busybox:1.36", "{name: v, mountPath: /whole}")
	c.Ready("one")
	c.Ready("two")
	for _, file := range []string{"/whole/bin/busybox", "/part/busybox"} {
		sum := strings.Fields(c.Exec("one", "md5sum", "/bin/busybox", file).Stdout)
		if len(sum) != 4 || sum[0] != sum[2] {
			t.Errorf("%s is not the image's: %v", file, sum)
		}
		contains(t, c.Exec("one", "touch", file+".new").Stderr, "Read-only file system")
	}
	c.K("delete", "pod", "one", "--grace-period=0", "--force")
	contains(t, c.Exec("two", "ls", "/whole/bin").Stdout, "busybox")

	pod("missing", "nowhere.example/none:1", "{name: v, mountPath: /v}")
	c.Gets("pod/missing", "{.status.containerStatuses[0].state.waiting.reason}", "ImagePullBackOff")
	c.Says(`Failed to pull image "nowhere.example/none:1"`, "events")
	pod("unused", "nowhere.example/none:1", "")
	c.Ready("unused")
	pod("part", "busybox:1.36", "{name: v, mountPath: /v, subPath: none}")
	c.Gets("pod/part", "{.status.containerStatuses[0].state.waiting.reason}", "CreateContainerError")
	c.Says("ImageVolumeMountFailed", "events")

	mounted := filepath.Join(c.Dir, "agent", "kubelet", "pods", c.Get("pod/two", "{.metadata.uid}"), "volumes", "kubernetes.io~image", "v", "*")
	if there, err := filepath.Glob(mounted); err != nil || len(there) != 1 {
		t.Fatalf("at %s: %v %v", mounted, there, err)
	}
	c.K("delete", "pod", "--all", "--grace-period=1")
	c.Eventually(patience, "the image is unmounted", func() error {
		left, err := filepath.Glob(mounted)
		if err == nil && len(left) > 0 {
			return fmt.Errorf("left: %s", strings.Join(left, " "))
		}
		return err
	})
}
