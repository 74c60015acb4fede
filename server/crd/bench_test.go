package crd_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// wide is a definition with a schema of n fields, and an object that has them all.
func wide(n int) (definition, object string) {
	var schema, spec strings.Builder
	for i := range n {
		switch i % 4 {
		case 0:
			fmt.Fprintf(&schema, "f%d: {type: string, maxLength: 64, pattern: '^[a-z0-9-]+$'}, ", i)
			fmt.Fprintf(&spec, `"f%d":"value-%d",`, i, i)
		case 1:
			fmt.Fprintf(&schema, "f%d: {type: integer, minimum: 0, default: 3}, ", i)
		case 2:
			fmt.Fprintf(&schema, "f%d: {type: boolean}, ", i)
			fmt.Fprintf(&spec, `"f%d":true,`, i)
		default:
			fmt.Fprintf(&schema, "f%d: {type: object, properties: {a: {type: string}, b: {type: array, maxItems: 8, items: {type: string, maxLength: 8}}}}, ", i)
			fmt.Fprintf(&spec, `"f%d":{"a":"x","b":["y","z"]},`, i)
		}
	}
	return gadgets("{type: object, properties: {" + schema.String() + "}, x-kubernetes-validations: [{rule: 'self.f1 <= 1000', message: too much}]}"),
		`{"apiVersion":"example.com/v1","kind":"Gadget","metadata":{"name":"NAME"},"spec":{` + strings.TrimSuffix(spec.String(), ",") + `}}`
}

// BenchmarkCreateWide creates custom resources with a 200-field schema over HTTP. The
// target is 1,500 a second.
func BenchmarkCreateWide(b *testing.B) {
	w := start(b)
	def, object := wide(200)
	w.define(def)
	w.http.Transport = &http.Transport{MaxIdleConnsPerHost: 64}
	var n atomic.Int64
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			body := strings.NewReader(strings.Replace(object, "NAME", fmt.Sprintf("g%d", n.Add(1)), 1))
			resp, err := w.http.Post(w.url+gadgetsPath, "application/json", body)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 201 {
				b.Errorf("status %d", resp.StatusCode)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
}
