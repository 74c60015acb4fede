package e2e

import (
	"os"
	"testing"

	"orch/e2e/lab"
)

func TestMain(m *testing.M) {
	code := m.Run()
	lab.RemoveImages()
	os.Exit(code)
}
