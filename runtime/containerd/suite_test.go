package containerd

import (
	"path/filepath"
	"testing"

	"orch/runtime/enginetest"
)

const polite = `trap 'exit 143' TERM; `

func TestSuite(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) enginetest.Rig {
		c := testConfig(t)
		e := open(t, c)
		busybox(t, e)
		sh := func(s string) []string { return []string{"sh", "-c", s} }
		return enginetest.Rig{
			Engine: e, Image: "busybox:test", File: "busybox", Absent: "nowhere.example/none:1", LogDir: filepath.Join(c.Root, "log"),
			Forever: sh(polite + `sleep 1000 & wait`), Exit3: sh(`exit 3`), Hello: sh(polite + `echo hello; sleep 1000 & wait`),
			Stubborn: sh(`trap '' TERM; sleep 1000`), Missing: []string{"/no/such/program"},
			Exec7: sh(`exit 7`), Cat: []string{"cat"}, CgroupParent: "/orch-test",
		}
	})
}
