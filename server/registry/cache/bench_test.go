package cache

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
)

// BenchmarkSelectNone lists 100,000 objects with a selector that none matches.
func BenchmarkSelectNone(b *testing.B) {
	r, stop := run(b, 0)
	defer stop()
	value := strings.Repeat("x", 1<<10)
	for i := range 100_000 {
		r.putLabelled(fmt.Sprintf("c%06d", i), value, map[string]string{"app": "bulk"})
	}
	sel, err := labels.Parse("app=none")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		p, err := r.List(r.ctx, cmKind, ListOptions{Filter: NewFilter("default", sel, nil)})
		if err != nil || len(p.Items) > 0 {
			b.Fatal(len(p.Items), err)
		}
	}
}
