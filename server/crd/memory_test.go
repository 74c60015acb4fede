package crd_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// TestIdleMemory: definitions that nobody uses cost little more than their text. Compiled
// schemas, rules and documents are made when they are needed.
func TestIdleMemory(t *testing.T) {
	const definitions, most = 20, 20 << 20
	w := start(t)
	def, _ := wide(200)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	w.define(strings.NewReplacer("gadgets", "gizmos", "Gadget", "Gizmo").Replace(def)) // what the first one loads for all
	before := heap()
	for i := range definitions {
		w.define(strings.NewReplacer("gadgets", fmt.Sprintf("gadget%ds", i), "Gadget", fmt.Sprintf("Gadget%d", i)).Replace(def))
	}
	grown := heap() - before
	t.Logf("%d definitions of 200 fields take %d KiB", definitions, grown>>10)
	if grown > most {
		t.Errorf("%d definitions take %d MiB", definitions, grown>>20)
	}
}
