package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orch/api"
	"orch/api/client"
)

func deployment(name string, replicas int32) *apps.Deployment {
	l := map[string]string{"app": name}
	return &apps.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: apps.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l}, Template: core.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: l},
			Spec:       core.PodSpec{Containers: []core.Container{{Name: "c", Image: "image:1", Ports: []core.ContainerPort{{Name: "http", ContainerPort: 8080}}}}},
		}},
	}
}

// rolledOut waits for `kubectl rollout status` to be content.
func (c *cluster) rolledOut(name string) *apps.Deployment {
	c.t.Helper()
	var d *apps.Deployment
	c.await(func() string {
		d = client.Cached(c, api.Deployments, "default", name)
		s, want := d.Status, *d.Spec.Replicas
		if s.ObservedGeneration < d.Generation || s.UpdatedReplicas != want || s.Replicas != want || s.AvailableReplicas != want {
			return fmt.Sprintf("%d wanted, generation %d, status %+v", want, d.Generation, s)
		}
		for _, cond := range s.Conditions {
			if cond.Type == apps.DeploymentProgressing && cond.Reason == "NewReplicaSetAvailable" {
				return ""
			}
		}
		return fmt.Sprintf("no condition says that it is done: %+v", s.Conditions)
	})
	return d
}

func (c *cluster) sets(name string) []*apps.ReplicaSet {
	return client.CachedList(c, api.ReplicaSets, "default", labels.SelectorFromSet(labels.Set{"app": name}))
}

func (c *cluster) pods(name string) []*core.Pod {
	return client.CachedList(c, api.Pods, "default", labels.SelectorFromSet(labels.Set{"app": name}))
}

func TestDeploymentIsRolledOutQuickly(t *testing.T) {
	c := start(t)
	began := time.Now()
	make_(c, api.Deployments, deployment("web", 30))
	c.await(func() string {
		if n := len(c.pods("web")); n != 30 {
			return fmt.Sprintf("%d pods", n)
		}
		return ""
	})
	created := time.Since(began)
	d := c.rolledOut("web")
	t.Logf("30 pods created in %v, ready in %v", created, time.Since(began))
	if created > 20*time.Second { // a pod a second, as a controller that waits between pods makes them, would take longer
		t.Errorf("creating 30 pods took %v", created)
	}
	if d.Annotations["deployment.kubernetes.io/revision"] != "1" {
		t.Errorf("annotations = %v", d.Annotations)
	}
	s := c.sets("web")
	if len(s) != 1 || !strings.HasPrefix(s[0].Name, "web-") || s[0].Labels["pod-template-hash"] == "" {
		t.Errorf("sets = %v", s)
	}
	c.awaitEvent("ScalingReplicaSet", "Scaled up replica set "+s[0].Name+" from 0 to 30")
	c.awaitEvent("SuccessfulCreate", "Created pod: web-")
}

// awaitEvent waits for an event with that reason and beginning of message.
func (c *cluster) awaitEvent(reason, message string) {
	c.t.Helper()
	c.await(func() string {
		var seen []string
		for _, e := range client.CachedList(c, api.Events, "", nil) {
			if e.Reason == reason && strings.HasPrefix(e.Message, message) {
				return ""
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		slices.Sort(seen)
		return fmt.Sprintf("no event %s %q among\n%s", reason, message, strings.Join(seen, "\n"))
	})
}

func TestRollingUpdateKeepsPodsAvailableAndUndoGoesBack(t *testing.T) {
	c := start(t)
	make_(c, api.Deployments, deployment("web", 6))
	c.rolledOut("web")
	first := c.sets("web")[0].Name
	low := 100
	if err := c.Subscribe(c.ctx, api.Pods.Facts, func(client.Change) {
		n := 0
		for _, p := range c.pods("web") {
			if len(p.Status.Conditions) > 0 && p.DeletionTimestamp == nil && p.Status.Phase == core.PodRunning {
				n++
			}
		}
		low = min(low, n)
	}); err != nil {
		t.Fatal(err)
	}
	image := func(name string) func(*apps.Deployment) {
		return func(d *apps.Deployment) { d.Spec.Template.Spec.Containers[0].Image = name }
	}
	edit(c, api.Deployments, "default", "web", image("image:2"))
	d := c.rolledOut("web")
	if low < 4 { // 25 % of 6, rounded down, may be missing
		t.Errorf("only %d pods were available for a while", low)
	}
	if d.Annotations["deployment.kubernetes.io/revision"] != "2" {
		t.Errorf("revision = %v", d.Annotations)
	}
	edit(c, api.Deployments, "default", "web", image("image:1")) // what rollout undo does
	c.rolledOut("web")
	for _, s := range c.sets("web") {
		if want := int32(0); s.Name == first {
			want = 6
			if *s.Spec.Replicas != want || s.Annotations["deployment.kubernetes.io/revision"] != "3" || s.Annotations["deployment.kubernetes.io/revision-history"] != "1" {
				t.Errorf("set %s: %d replicas, %v", s.Name, *s.Spec.Replicas, s.Annotations)
			}
		} else if *s.Spec.Replicas != want {
			t.Errorf("set %s: %d replicas, want %d", s.Name, *s.Spec.Replicas, want)
		}
	}
}

func TestRecreateEndsOldPodsFirst(t *testing.T) {
	c := start(t)
	d := deployment("web", 3)
	d.Spec.Strategy.Type = apps.RecreateDeploymentStrategyType
	make_(c, api.Deployments, d)
	c.rolledOut("web")
	mixed := false
	if err := c.Subscribe(c.ctx, api.Pods.Facts, func(client.Change) {
		images := map[string]bool{}
		for _, p := range c.pods("web") {
			images[p.Spec.Containers[0].Image] = true
		}
		mixed = mixed || len(images) > 1
	}); err != nil {
		t.Fatal(err)
	}
	edit(c, api.Deployments, "default", "web", func(d *apps.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "image:2" })
	c.rolledOut("web")
	if mixed {
		t.Error("pods of both templates existed at a time")
	}
}

func TestProgressDeadline(t *testing.T) {
	c := start(t)
	c.ready = func(*core.Pod) bool { return false }
	d := deployment("web", 1)
	d.Spec.ProgressDeadlineSeconds = new(int32(1))
	d.Spec.MinReadySeconds = 0
	make_(c, api.Deployments, d)
	c.await(func() string {
		d := client.Cached(c, api.Deployments, "default", "web")
		for _, cond := range d.Status.Conditions {
			if cond.Type == apps.DeploymentProgressing && cond.Status == core.ConditionFalse && cond.Reason == "ProgressDeadlineExceeded" {
				return ""
			}
		}
		return fmt.Sprintf("%+v", d.Status.Conditions)
	})
}

func TestScaleDownPauseAndHistory(t *testing.T) {
	c := start(t)
	d := deployment("web", 4)
	d.Spec.RevisionHistoryLimit = new(int32(1))
	make_(c, api.Deployments, d)
	c.rolledOut("web")
	for i := 2; i <= 4; i++ {
		edit(c, api.Deployments, "default", "web", func(d *apps.Deployment) { d.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("image:", i) })
		c.rolledOut("web")
	}
	c.await(func() string {
		if n := len(c.sets("web")); n != 2 {
			return fmt.Sprintf("%d sets, want the new one and one old one", n)
		}
		return ""
	})
	edit(c, api.Deployments, "default", "web", func(d *apps.Deployment) { d.Spec.Paused, d.Spec.Replicas = true, new(int32(1)) })
	c.await(func() string {
		if n := len(c.pods("web")); n != 1 {
			return fmt.Sprintf("%d pods after scaling down while paused", n)
		}
		return ""
	})
}

func TestDeletionTakesEverythingAlong(t *testing.T) {
	for _, how := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground} {
		t.Run(string(how), func(t *testing.T) {
			c := start(t)
			make_(c, api.Deployments, deployment("web", 3))
			c.rolledOut("web")
			if err := client.Delete(c.ctx, c, api.Deployments, "default", "web", metav1.DeleteOptions{PropagationPolicy: &how}); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			gone := func() string {
				return strings.Join(append(names(c.sets("web")), names(c.pods("web"))...), " ")
			}
			c.await(func() string {
				if client.Cached(c, api.Deployments, "default", "web") == nil && how == metav1.DeletePropagationForeground && gone() != "" {
					t.Fatalf("the deployment went before %s", gone())
				}
				if len(c.pods("web")) > 0 {
					return gone()
				}
				return ""
			})
			c.await(gone)
			c.await(func() string {
				if client.Cached(c, api.Deployments, "default", "web") != nil {
					return "the deployment is still there"
				}
				return ""
			})
			t.Logf("gone after %v", time.Since(began))
		})
	}
}

func names[T any, P client.PtrTo[T]](objects []*T) []string {
	var out []string
	for _, o := range objects {
		out = append(out, P(o).GetName())
	}
	return out
}

func TestOrphanedPodsStayAndAreAdoptedAgain(t *testing.T) {
	c := start(t)
	make_(c, api.Deployments, deployment("web", 2))
	c.rolledOut("web")
	before := names(c.pods("web"))
	orphan := metav1.DeletePropagationOrphan
	if err := client.Delete(c.ctx, c, api.Deployments, "default", "web", metav1.DeleteOptions{PropagationPolicy: &orphan}); err != nil {
		t.Fatal(err)
	}
	c.await(func() string {
		if s := c.sets("web"); len(s) != 1 || len(s[0].OwnerReferences) > 0 || client.Cached(c, api.Deployments, "default", "web") != nil {
			return fmt.Sprintf("sets %v", s)
		}
		return ""
	})
	make_(c, api.Deployments, deployment("web", 2))
	c.rolledOut("web")
	if after := names(c.pods("web")); !slices.Equal(before, after) {
		t.Errorf("pods %v became %v", before, after)
	}
}

func TestServiceEndpointsFollowPods(t *testing.T) {
	c := start(t)
	make_(c, api.Services, &core.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: core.ServiceSpec{Selector: map[string]string{"app": "web"}, ClusterIP: "None",
			Ports: []core.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}}},
	})
	make_(c, api.Deployments, deployment("web", 150))
	c.rolledOut("web")
	slices_ := func() []*discovery.EndpointSlice {
		return client.CachedList(c, api.EndpointSlices, "default", labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: "web"}))
	}
	count := func(want int) func() string {
		return func() string {
			n := 0
			for _, s := range slices_() {
				for _, e := range s.Endpoints {
					if *e.Conditions.Ready && *s.Ports[0].Port == 8080 && e.TargetRef != nil && *e.NodeName == "n1" {
						n++
					}
				}
			}
			if n != want {
				return fmt.Sprintf("%d ready endpoints, want %d", n, want)
			}
			return ""
		}
	}
	c.await(count(150))
	if n := len(slices_()); n != 2 {
		t.Errorf("%d slices, want 2", n)
	}
	edit(c, api.Deployments, "default", "web", func(d *apps.Deployment) { d.Spec.Replicas = new(int32(5)) })
	c.await(count(5))
	c.await(func() string {
		e := client.Cached(c, api.Endpoints, "default", "web")
		if e == nil || len(e.Subsets) != 1 || len(e.Subsets[0].Addresses) != 5 || e.Subsets[0].Ports[0].Port != 8080 {
			return fmt.Sprintf("endpoints %+v", e)
		}
		return ""
	})
	if err := client.Delete(c.ctx, c, api.Services, "default", "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.await(func() string { return strings.Join(names(slices_()), " ") })
	c.await(func() string {
		if client.Cached(c, api.Endpoints, "default", "web") != nil {
			return "endpoints are left"
		}
		return ""
	})
}
