package registry

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
)

// The objects of shared/perf: ConfigMaps of 1 KiB.
var payload = strings.Repeat("x", 1024)

func BenchmarkCreate(b *testing.B) {
	t := start(b)
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			o := configMap(fmt.Sprintf("c%d", n.Add(1)), "payload", payload)
			r, err := t.Create(t.ctx, req(api.ConfigMaps, ""), o, metav1.CreateOptions{})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := r.Item.AppendProto(nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkGet(b *testing.B) {
	t := start(b)
	for i := range 1000 {
		t.createMap(configMap(fmt.Sprintf("c%d", i), "payload", payload))
	}
	var n atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, err := t.Get(t.ctx, req(api.ConfigMaps, fmt.Sprintf("c%d", n.Add(1)%1000)), metav1.GetOptions{})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := r.Item.AppendProto(nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkPatch(b *testing.B) {
	t := start(b)
	for i := range 100 {
		t.createMap(configMap(fmt.Sprintf("c%d", i), "payload", payload))
	}
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			_, err := t.Patch(t.ctx, req(api.ConfigMaps, fmt.Sprintf("c%d", i%100)), types.MergePatchType,
				fmt.Appendf(nil, `{"data":{"n":"%d"}}`, i), metav1.PatchOptions{})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkUpdate(b *testing.B) {
	t := start(b)
	o := t.createMap(configMap("c", "payload", payload))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		n := o.DeepCopy()
		n.Data["n"] = fmt.Sprint(i)
		r, err := t.Update(t.ctx, req(api.ConfigMaps, "c"), n, metav1.UpdateOptions{})
		if err != nil {
			b.Fatal(err)
		}
		o = r.Object.(*core.ConfigMap)
	}
}

// BenchmarkList reads 2,000 objects of 1 KiB and puts their kept encodings together.
func BenchmarkList(b *testing.B) {
	t := start(b)
	for i := range 2000 {
		t.createMap(configMap(fmt.Sprintf("c%04d", i), "payload", payload))
	}
	for name, encode := range map[string]func(*Item) ([]byte, error){"proto": (*Item).Proto, "json": (*Item).JSON} {
		b.Run(name, func(b *testing.B) {
			var out []byte
			b.ReportAllocs()
			for b.Loop() {
				l := t.list(metav1.ListOptions{})
				out = out[:0]
				for _, i := range l.Items {
					e, err := encode(i)
					if err != nil {
						b.Fatal(err)
					}
					out = append(out, e...)
				}
			}
		})
	}
}

// BenchmarkWatch measures a create until its event is in a watcher's hands.
func BenchmarkWatch(b *testing.B) {
	t := start(b)
	w, err := t.Watch(t.ctx, req(api.ConfigMaps, ""), metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		t.createMap(configMap(fmt.Sprintf("c%d", i), "payload", payload))
		if _, err := w.Next(t.ctx); err != nil {
			b.Fatal(err)
		}
	}
}
