package pods_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/pods/status"
	"orch/api"
	"orch/api/client"
	"orch/runtime/engine"
	"orch/runtime/fakeengine"
)

// TestPlaceOfAPodDeletedByForce: a pod that is deleted with a grace period of 0 is gone for
// the scheduler at once and for the node a second later, so the next one was rejected with
// OutOf..., for good.
func TestPlaceOfAPodDeletedByForce(t *testing.T) {
	r := newRig(t, fakeengine.Options{Script: func(engine.Spec) fakeengine.Script { return fakeengine.Script{IgnoreTerm: true} }})
	r.stop()
	r.deps.Admit = func(_ *core.Pod, running []*core.Pod) *status.Verdict {
		if len(running) > 0 {
			return &status.Verdict{Reason: "OutOfpods", Message: "Pod was rejected: there is one"}
		}
		return nil
	}
	r.start()
	r.create("metadata: {name: a}\nspec: {containers: [{name: main, image: app:1}]}")
	r.await("a", "ready", ready)
	r.create("metadata: {name: beside}\nspec: {containers: [{name: main, image: app:1}]}")
	r.await("beside", "rejected", func(p *core.Pod) bool { return p.Status.Reason == "OutOfpods" })
	zero, began := int64(0), time.Now()
	if _, err := r.client.Delete(context.Background(), client.Target{Kind: api.Pods.Facts, Namespace: "default", Name: "a"}, metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	r.create("metadata: {name: b}\nspec: {containers: [{name: main, image: app:1}]}")
	r.await("b", "ready or rejected", func(p *core.Pod) bool { return ready(p) || p.Status.Phase == core.PodFailed })
	if p := r.await("b", "ready", ready); p.Status.Phase != core.PodRunning || time.Since(began) < 500*time.Millisecond {
		t.Errorf("it is %s after %v, beside one that was still there", p.Status.Phase, time.Since(began))
	}
}

// TestDevicesOfAClaimOfAPodDeletedByForce: the claim of such a pod is free for the scheduler at
// once, so the next pod came to devices that were still held, and was rejected for good.
func TestDevicesOfAClaimOfAPodDeletedByForce(t *testing.T) {
	r := newRig(t, fakeengine.Options{Script: func(engine.Spec) fakeengine.Script { return fakeengine.Script{IgnoreTerm: true} }})
	r.stop()
	d := &givenDevices{released: map[types.UID]bool{}}
	d.admit = func(pod *core.Pod) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if pod.Name == "b" && !slices.Contains(d.left, "released") {
			return errors.New("Allocate failed due to a claim, which is unexpected")
		}
		return nil
	}
	r.deps.Devices = d
	r.start()
	r.create("metadata: {name: a}\nspec: {resourceClaims: [{name: r, resourceClaimName: x}], containers: [{name: main, image: app:1, resources: {claims: [{name: r}]}}]}")
	r.await("a", "ready", ready)
	zero := int64(0)
	if _, err := r.client.Delete(context.Background(), client.Target{Kind: api.Pods.Facts, Namespace: "default", Name: "a"}, metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	r.create("metadata: {name: b}\nspec: {containers: [{name: main, image: app:1}]}")
	if p := r.await("b", "ready or rejected", func(p *core.Pod) bool { return ready(p) || p.Status.Phase == core.PodFailed }); p.Status.Phase == core.PodFailed {
		t.Errorf("it was rejected: %s", p.Status.Message)
	}
}
