package wire

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
	"orch/server/registry"
)

// filled is a registry with n ConfigMaps of 1 KiB.
func filled(t testing.TB, n int) *registry.Registry {
	t.Helper()
	r, err := registry.New(registry.Config{Store: memory.New(), Resources: registry.BuiltIn()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	<-r.Ready()
	value := strings.Repeat("x", 1<<10)
	for i := range n {
		o := &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%06d", i)}, Data: map[string]string{"v": value}}
		if _, err := r.Create(ctx, registry.Request{Target: client.Target{Kind: api.ConfigMaps.Facts, Namespace: "default"}}, o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func listAll(t testing.TB, r *registry.Registry) *registry.List {
	t.Helper()
	l, err := r.List(context.Background(), registry.Request{Target: client.Target{Kind: api.ConfigMaps.Facts, Namespace: "default"}}, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// counter counts what is written, and keeps it if it should.
type counter struct {
	bytes.Buffer
	n    int
	keep bool
}

func (c *counter) Write(b []byte) (int, error) {
	c.n += len(b)
	if c.keep {
		return c.Buffer.Write(b)
	}
	return len(b), nil
}

// TestBulkyListsAreTheSame: made in passing or from kept bytes, a list is the same.
func TestBulkyListsAreTheSame(t *testing.T) {
	r := filled(t, 50)
	for _, m := range []Media{{Format: Protobuf}, {Format: JSON}, {Format: Protobuf, Shape: Metadata, Version: "v1"}} {
		var want []byte
		for _, bulky := range []bool{true, false, true} {
			l := listAll(t, r)
			l.Bulky = bulky
			got := counter{keep: true}
			if _, err := WriteList(&got, nil, m, api.ConfigMaps.Facts, l); err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = bytes.Clone(got.Bytes())
			} else if !bytes.Equal(want, got.Bytes()) {
				t.Errorf("%v, bulky %v: another list", m, bulky)
			}
		}
		if m.Format == Protobuf && m.Shape == Whole {
			var l core.ConfigMapList
			if err := l.Unmarshal(unwrapped(t, want)); err != nil || len(l.Items) != 50 || l.Items[49].Data["v"] == "" {
				t.Errorf("%d items, %v", len(l.Items), err)
			}
		}
	}
}

// unwrapped takes the envelope off: the length of the raw message is in field 2.
func unwrapped(t *testing.T, b []byte) []byte {
	t.Helper()
	i := bytes.Index(b, []byte("ConfigMapList")) + len("ConfigMapList")
	if b[i] != 0x12 {
		t.Fatalf("no raw message: %x", b[:i+10])
	}
	n, shift := 0, 0
	for i++; ; i++ {
		n |= int(b[i]&0x7f) << shift
		if shift += 7; b[i] < 0x80 {
			return b[i+1 : i+1+n]
		}
	}
}

// TestBulkyListTakesNoMemory: a list that is far larger than the kept encodings is
// written without holding it, and without leaving garbage of its size.
func TestBulkyListTakesNoMemory(t *testing.T) {
	const objects = 20_000 // 20 MiB; 16 MiB are kept at most
	l := listAll(t, filled(t, objects))
	if !l.Bulky {
		t.Fatal("the list is not bulky")
	}
	for _, m := range []Media{{Format: Protobuf}, {Format: JSON}} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var got counter
		if _, err := WriteList(&got, nil, m, api.ConfigMaps.Facts, l); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if got.n < objects<<10 {
			t.Fatalf("%v: %d bytes are no list of %d KiB", m, got.n, objects)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > uint64(got.n/2) {
			t.Errorf("%v: %d bytes were allocated for a list of %d", m, took, got.n)
		}
	}
}
