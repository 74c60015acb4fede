package server

import (
	"encoding/json"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
)

// sharing is a pod whose container has limits, with annotations.
func sharing(name, annotations, limits string) string {
	return `{"metadata":{"name":"` + name + `","annotations":{` + annotations + `}},"spec":{"containers":[{"name":"c","image":"x","resources":{"limits":{` + limits + `}}}]}}`
}

// TestGPUSharesAreOneSpelling: what a pod asks of parts of GPUs is in its limits, also for
// quota, and what no card can give is refused.
func TestGPUSharesAreOneSpelling(t *testing.T) {
	_, admin := admitted(t)
	setUp(t, admin, [2]string{"/api/v1/namespaces/a/resourcequotas", `{"metadata":{"name":"q"},"spec":{"hard":{"requests.nvidia.com/gpumem":"8000"}}}`})
	for _, tc := range []struct{ name, annotations, limits, want string }{
		{"fraction", `"gpu-fraction":"0.5"`, ``, "nvidia.com/gpu=1 nvidia.com/gpucores=50 nvidia.com/gpumem-percentage=50"},
		{"memory", `"gpu-memory":"3000","gpu-fraction-num-devices":"2"`, ``, "nvidia.com/gpu=2 nvidia.com/gpumem=3k"},
		{"hami", ``, `"nvidia.com/gpumem":"3000"`, "nvidia.com/gpu=1 nvidia.com/gpumem=3k"},
		{"whole", ``, `"nvidia.com/gpu":"1"`, "nvidia.com/gpu=1"},
	} {
		code, body := admin.do("POST", pods, sharing(tc.name, tc.annotations, tc.limits))
		var p core.Pod
		if err := json.Unmarshal([]byte(body), &p); err != nil || code != 201 {
			t.Fatalf("%s: %d %s", tc.name, code, body)
		}
		r := p.Spec.Containers[0].Resources
		for f := range strings.FieldsSeq(tc.want) {
			name, n, _ := strings.Cut(f, "=")
			limit, request := r.Limits[core.ResourceName(name)], r.Requests[core.ResourceName(name)]
			if limit.String() != n || request.String() != n {
				t.Errorf("%s: %v, want %s", tc.name, r, tc.want)
			}
		}
	}
	for _, tc := range []struct{ annotations, limits, says string }{
		{`"gpu-fraction":"1.5"`, ``, `pods "p" is forbidden: metadata.annotations: gpu-fraction: "1.5", it must be a number above 0 and below 1`},
		{`"gpu-fraction":"0.5"`, `"nvidia.com/gpu":"1"`, `pods "p" is forbidden: container c asks for nvidia.com/gpu, and the pod's annotations for a part of a GPU: ask in one way`},
		{``, `"nvidia.com/gpu":"1","nvidia.com/gpucores":"101"`, `pods "p" is forbidden: container c: nvidia.com/gpucores: 101, a card has 100`},
		{``, `"nvidia.com/gpumem":"5000"`, `exceeded quota: q, requested: requests.nvidia.com/gpumem=5k, used: requests.nvidia.com/gpumem=6k, limited: requests.nvidia.com/gpumem=8k`},
	} {
		if code, m := admin.message("POST", pods, sharing("p", tc.annotations, tc.limits)); code != 403 || !strings.Contains(m, tc.says) {
			t.Errorf("got %d %s\nwant %s", code, m, tc.says)
		}
	}
}
