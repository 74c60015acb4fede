package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"

	"orch/api"
	"orch/api/events"
	"orch/gpu/fakenvml"
	gpu "orch/gpu/slices"
	"orch/server/scheduler"
)

// scheduling runs the scheduler of the server, with its own rights and nothing more.
func scheduling(t *testing.T, s *Server) {
	t.Helper()
	c := s.Client(api.SchedulerUser)
	said, err := events.New(events.Config{Client: c, Component: api.DefaultSchedulerName})
	if err != nil {
		t.Fatal(err)
	}
	sched, err := scheduler.New(scheduler.Config{Client: c, Events: said, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- sched.Run(ctx) }()
	go func() { done <- said.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// reads a JSON object over HTTP until it is as wanted.
func awaited[T any](t *testing.T, c *caller, path string, ok func(*T) bool) *T {
	t.Helper()
	var body string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var code int
		if code, body = c.do("GET", path, ""); code != 200 {
			t.Fatalf("GET %s: %d %s", path, code, body)
		}
		o := new(T)
		if err := json.Unmarshal([]byte(body), o); err != nil {
			t.Fatal(err)
		}
		if ok(o) {
			return o
		}
	}
	t.Fatalf("%s does not come to be as wanted: %s", path, body)
	return nil
}

// TestDevicesAreAllocatedOverHTTP: a node publishes its cards with a node's rights; pods get
// them by a claim, plainly, and by the name of a class, and the scheduler has the rights
// that it needs for all that.
func TestDevicesAreAllocatedOverHTTP(t *testing.T) {
	s, admin := admitted(t)
	scheduling(t, s)
	node := user(t, s, api.UserNodePrefix+"n1", api.GroupNodes)
	setUp(t, node, [2]string{"/api/v1/nodes", `{"metadata":{"name":"n1"}}`})
	ready(t, admin, node)
	rec, err := fakenvml.Load("h200-8")
	if err != nil {
		t.Fatal(err)
	}
	for i, spec := range gpu.Of(gpu.Node{Name: "n1", Machine: rec.Machine}) {
		o := &resource.ResourceSlice{Spec: spec}
		o.Name = "n1-" + string(rune('a'+i))
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		setUp(t, node, [2]string{deviceSlices, string(b)})
	}
	container := func(limits string) string {
		return `"containers":[{"name":"c","image":"x","resources":{"limits":{` + limits + `}}}]`
	}
	setUp(t, admin,
		[2]string{"/apis/resource.k8s.io/v1/deviceclasses", `{"metadata":{"name":"cards"},"spec":{"extendedResourceName":"example.com/card","selectors":[{"cel":{"expression":"device.driver == \"gpu.nvidia.com\""}}]}}`},
		[2]string{claims, `{"metadata":{"name":"two"},"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"cards","count":2}}]}}}`},
		[2]string{pods, `{"metadata":{"name":"claiming"},"spec":{` + container("") + `,"resourceClaims":[{"name":"r","resourceClaimName":"two"}]}}`},
		[2]string{pods, `{"metadata":{"name":"plain","annotations":{"orch.io/allocated-devices":"mine"}},"spec":{` + container(`"nvidia.com/gpu":"2"`) + `}}`},
		[2]string{pods, `{"metadata":{"name":"classy"},"spec":{` + container(`"example.com/card":"1"`) + `}}`},
	)
	bound := func(p *core.Pod) bool { return p.Spec.NodeName == "n1" }
	seen := map[string]string{}
	has := func(who, uuid string) {
		if other := seen[uuid]; other != "" {
			t.Errorf("%s and %s have %s", who, other, uuid)
		}
		seen[uuid] = who
	}
	machine := rec.Machine
	byName := func(name string) string { return machine.GPUs[int(name[len(name)-1]-'0')].UUID }
	awaited(t, admin, pods+"/claiming", bound)
	two := awaited(t, admin, claims+"/two", func(o *resource.ResourceClaim) bool { return o.Status.Allocation != nil })
	for _, r := range two.Status.Allocation.Devices.Results {
		has("claiming", byName(r.Device))
	}
	plain := awaited(t, admin, pods+"/plain", bound)
	var units map[string]map[string][]string
	if err := json.Unmarshal([]byte(plain.Annotations[api.AnnotationDevices]), &units); err != nil {
		t.Fatal(err)
	}
	for _, id := range units["c"]["nvidia.com/gpu"] {
		has("plain", id)
	}
	classy := awaited(t, admin, pods+"/classy", bound)
	made := awaited(t, admin, claims+"/"+classy.Status.ExtendedResourceClaimStatus.ResourceClaimName, func(o *resource.ResourceClaim) bool { return o.Status.Allocation != nil })
	for _, r := range made.Status.Allocation.Devices.Results {
		has("classy", byName(r.Device))
	}
	if len(seen) != 5 {
		t.Errorf("%v", seen)
	}
	// What is left is three; who wants four is told so.
	setUp(t, admin, [2]string{pods, `{"metadata":{"name":"late"},"spec":{` + container(`"nvidia.com/gpu":"4"`) + `}}`})
	awaited(t, admin, pods+"/late", func(p *core.Pod) bool {
		return len(p.Status.Conditions) > 0 && strings.HasPrefix(p.Status.Conditions[0].Message, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
	})
}

// ready gives the node room, and takes away the taint that new nodes have.
func ready(t *testing.T, admin, node *caller) {
	t.Helper()
	o := awaited(t, admin, "/api/v1/nodes/n1", func(*core.Node) bool { return true })
	o.Spec.Taints = nil
	put(t, admin, "/api/v1/nodes/n1", o)
	o = awaited(t, admin, "/api/v1/nodes/n1", func(*core.Node) bool { return true })
	text := `{"cpu":"8","memory":"64Gi","pods":"110","nvidia.com/gpu":"8"}`
	if err := json.Unmarshal([]byte(text), &o.Status.Allocatable); err != nil {
		t.Fatal(err)
	}
	o.Status.Capacity = o.Status.Allocatable
	put(t, node, "/api/v1/nodes/n1/status", o)
}

func put(t *testing.T, c *caller, path string, o any) {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if code, m := c.message("PUT", path, string(b)); code != 200 {
		t.Fatalf("PUT %s: %d %s", path, code, m)
	}
}
