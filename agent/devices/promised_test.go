package devices

import (
	"fmt"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
)

func TestPromised(t *testing.T) {
	now := metav1.NewTime(time.Unix(1, 0))
	const named = `{"b":{"nvidia.com/gpu":["GPU-2"]},"a":{"nvidia.com/gpu":["GPU-1::0"]}}`
	const isPromised = "[a nvidia.com/gpu [GPU-1::0]][b nvidia.com/gpu [GPU-2]]"
	for _, tc := range []struct {
		name string
		make func(p *core.Pod)
		want string
	}{
		{"bound", func(*core.Pod) {}, isPromised},
		{"waiting to be admitted", func(p *core.Pod) { p.Status.Phase = core.PodPending }, isPromised},
		{"taken up", func(p *core.Pod) { p.Status.StartTime = &now }, ""},
		{"in the ledger", func(p *core.Pod) { p.UID = "held" }, ""},
		{"deleted before", func(p *core.Pod) { p.DeletionTimestamp = &now }, ""},
		{"rejected", func(p *core.Pod) { p.Status.Phase = core.PodFailed }, ""},
		{"nobody chose", func(p *core.Pod) { p.Annotations = nil }, ""},
		{"nonsense", func(p *core.Pod) { p.Annotations[api.AnnotationDevices] = "{" }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &core.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID("u"), Annotations: map[string]string{api.AnnotationDevices: named}}}
			tc.make(p)
			got := ""
			for _, h := range promised([]*core.Pod{p}, map[types.UID]podDevices{"held": {}}) {
				got += fmt.Sprint([]any{h.Container, h.Name, h.IDs})
			}
			if got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}
