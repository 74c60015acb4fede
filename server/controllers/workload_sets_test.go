package controllers_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"orch/api"
	"orch/api/client"
)

func template(app string) core.PodTemplateSpec {
	return core.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: core.PodSpec{Containers: []core.Container{{Name: "c", Image: "image:1"}}}}
}

func (c *cluster) revisionsOf(app string) []*apps.ControllerRevision {
	return client.CachedList(c, api.ControllerRevisions, "default", labels.SelectorFromSet(labels.Set{"app": app}))
}

func TestDaemonSetIsOnEveryNodeAndRollsOut(t *testing.T) {
	c := start(t)
	node := &core.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	make_(c, api.Nodes, node)
	d := &apps.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "d"},
		Spec: apps.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "d"}}, Template: template("d")}}
	make_(c, api.DaemonSets, d)
	settled := func(image string) func() string {
		return func() string {
			d := client.Cached(c, api.DaemonSets, "default", "d")
			pods := c.pods("d")
			if s := d.Status; s.ObservedGeneration < d.Generation || s.DesiredNumberScheduled != 1 || s.NumberAvailable != 1 || s.UpdatedNumberScheduled != 1 ||
				len(pods) != 1 || pods[0].Spec.Containers[0].Image != image || pods[0].DeletionTimestamp != nil {
				return fmt.Sprintf("%+v, pods %v", s, names(pods))
			}
			return ""
		}
	}
	c.await(settled("image:1"))
	c.awaitEvent("SuccessfulCreate", "Created pod: d-")
	edit(c, api.DaemonSets, "default", "d", func(d *apps.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "image:2" })
	c.await(settled("image:2"))
	if r := c.revisionsOf("d"); len(r) != 2 {
		t.Errorf("revisions %v", names(r))
	}
	edit(c, api.DaemonSets, "default", "d", func(d *apps.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "image:1" }) // what rollout undo does
	c.await(settled("image:1"))
	c.await(func() string {
		r := c.revisionsOf("d")
		numbers := []int64{}
		for _, one := range r {
			numbers = append(numbers, one.Revision)
		}
		if slices.Sort(numbers); !slices.Equal(numbers, []int64{2, 3}) {
			return fmt.Sprint("revisions ", numbers)
		}
		return ""
	})
	edit(c, api.Nodes, "", "n1", func(n *core.Node) {
		n.Spec.Taints = append(n.Spec.Taints, core.Taint{Key: "k", Effect: core.TaintEffectNoExecute})
	})
	c.await(func() string { return strings.Join(names(c.pods("d")), " ") })
}

func statefulSet(replicas int32) *apps.StatefulSet {
	return &apps.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: apps.StatefulSetSpec{Replicas: &replicas, ServiceName: "web", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: template("web"),
			VolumeClaimTemplates: []core.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: core.PersistentVolumeClaimSpec{
				AccessModes: []core.PersistentVolumeAccessMode{core.ReadWriteOnce},
				Resources:   core.VolumeResourceRequirements{Requests: core.ResourceList{core.ResourceStorage: resource.MustParse("1Gi")}}}}},
			PersistentVolumeClaimRetentionPolicy: &apps.StatefulSetPersistentVolumeClaimRetentionPolicy{
				WhenDeleted: apps.RetainPersistentVolumeClaimRetentionPolicyType, WhenScaled: apps.DeletePersistentVolumeClaimRetentionPolicyType}}}
}

func TestStatefulSetComesInOrderAndRollsBackwards(t *testing.T) {
	c := start(t)
	var made, gone []string
	if err := c.Subscribe(c.ctx, api.Pods.Facts, func(ch client.Change) {
		switch {
		case ch.Old == nil && ch.New != nil:
			made = append(made, ch.New.GetName())
		case ch.New == nil:
			gone = append(gone, ch.Old.GetName())
		}
	}); err != nil {
		t.Fatal(err)
	}
	make_(c, api.StatefulSets, statefulSet(3))
	settled := func(replicas int32, image string) func() string {
		return func() string {
			s := client.Cached(c, api.StatefulSets, "default", "web")
			pods := c.pods("web")
			if st := s.Status; st.ObservedGeneration < s.Generation || st.Replicas != replicas || st.AvailableReplicas != replicas || st.UpdatedReplicas != replicas || st.CurrentRevision != st.UpdateRevision {
				return fmt.Sprintf("%+v, pods %v", st, names(pods))
			}
			for _, p := range pods {
				if p.Spec.Containers[0].Image != image {
					return fmt.Sprintf("pod %s has %s", p.Name, p.Spec.Containers[0].Image)
				}
			}
			return ""
		}
	}
	c.await(settled(3, "image:1"))
	if want := []string{"web-0", "web-1", "web-2"}; !slices.Equal(made, want) {
		t.Errorf("pods came as %v", made)
	}
	c.awaitEvent("SuccessfulCreate", "Create Claim data-web-0 Pod web-0 in StatefulSet web success")
	c.awaitEvent("SuccessfulCreate", "Create Pod web-2 in StatefulSet web successful")
	edit(c, api.StatefulSets, "default", "web", func(s *apps.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "image:2" })
	c.await(settled(3, "image:2"))
	if want := []string{"web-2", "web-1", "web-0"}; !slices.Equal(gone, want) {
		t.Errorf("pods went as %v", gone)
	}
	edit(c, api.StatefulSets, "default", "web", func(s *apps.StatefulSet) { s.Spec.Replicas = new(int32(1)) })
	c.await(settled(1, "image:2"))
	c.await(func() string { // scaling down takes the claims along
		if claims := client.CachedList(c, api.PersistentVolumeClaims, "default", nil); len(claims) != 1 || claims[0].Name != "data-web-0" {
			return fmt.Sprint("claims ", names(claims))
		}
		return ""
	})
}

// finish ends the pods of an app in a phase, each once.
func (c *cluster) finish(app string, phase core.PodPhase) {
	c.t.Helper()
	for _, p := range c.pods(app) {
		if p.Status.Phase != core.PodRunning {
			continue
		}
		next := p.DeepCopy()
		next.Status.Phase = phase
		if _, err := client.UpdateStatus(context.Background(), c, api.Pods, next); err != nil {
			c.t.Log(err) // somebody else wrote it: the next turn finds it
		}
	}
}

func newJob(name string, completions int32) *batch.Job {
	j := &batch.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: batch.JobSpec{Completions: &completions, Parallelism: new(int32(2)), Template: template(name)}}
	j.Spec.Template.Spec.RestartPolicy = core.RestartPolicyNever
	return j
}

func (c *cluster) jobEnds(name string, as batch.JobConditionType, pods core.PodPhase) *batch.Job {
	c.t.Helper()
	var j *batch.Job
	c.await(func() string {
		c.finish(name, pods)
		if j = client.Cached(c, api.Jobs, "default", name); j == nil {
			return "the job is gone"
		}
		for _, cond := range j.Status.Conditions {
			if cond.Type == as && cond.Status == core.ConditionTrue {
				return ""
			}
		}
		return fmt.Sprintf("%+v", j.Status)
	})
	c.await(func() string {
		for _, p := range c.pods(name) {
			if len(p.Finalizers) > 0 {
				return p.Name + " has still a finalizer"
			}
		}
		return ""
	})
	return j
}

func TestJobCountsEveryPodOnce(t *testing.T) {
	c := start(t)
	make_(c, api.Jobs, newJob("sum", 7))
	if j := c.jobEnds("sum", batch.JobComplete, core.PodSucceeded); j.Status.Succeeded != 7 || j.Status.Failed != 0 || j.Status.CompletionTime == nil || j.Status.Active != 0 {
		t.Errorf("status %+v", j.Status)
	}
	c.awaitEvent("Completed", "Job completed")
	fails := newJob("fails", 1)
	fails.Spec.BackoffLimit = new(int32(0))
	make_(c, api.Jobs, fails)
	if j := c.jobEnds("fails", batch.JobFailed, core.PodFailed); j.Status.Failed != 1 || j.Status.Succeeded != 0 {
		t.Errorf("status %+v", j.Status)
	}
	c.awaitEvent("BackoffLimitExceeded", "Job has reached the specified backoff limit")
}

func TestIndexedJobGivesEveryPodItsIndex(t *testing.T) {
	c := start(t)
	j := newJob("ix", 3)
	j.Spec.CompletionMode = new(batch.IndexedCompletion)
	make_(c, api.Jobs, j)
	if j := c.jobEnds("ix", batch.JobComplete, core.PodSucceeded); j.Status.CompletedIndexes != "0-2" || j.Status.Succeeded != 3 {
		t.Errorf("status %+v", j.Status)
	}
	seen := map[string]bool{}
	for _, p := range c.pods("ix") {
		i := p.Labels[batch.JobCompletionIndexAnnotation]
		seen[i] = true
		if !strings.HasPrefix(p.Name, "ix-"+i+"-") || p.Spec.Hostname != "ix-"+i || p.Spec.Containers[0].Env[0].Name != "JOB_COMPLETION_INDEX" {
			t.Errorf("pod %s: %+v", p.Name, p.Spec)
		}
	}
	if len(seen) != 3 {
		t.Errorf("indexes %v", seen)
	}
}

func TestFinishedJobGoesWithItsTime(t *testing.T) {
	c := start(t)
	j := newJob("brief", 1)
	j.Spec.TTLSecondsAfterFinished = new(int32(0))
	make_(c, api.Jobs, j)
	c.await(func() string {
		c.finish("brief", core.PodSucceeded)
		if client.Cached(c, api.Jobs, "default", "brief") != nil || len(c.pods("brief")) > 0 {
			return "the job is still there"
		}
		return ""
	})
}

func TestPodsOfADeletedJobAreFreed(t *testing.T) {
	c := start(t)
	make_(c, api.Jobs, newJob("gone", 2))
	c.await(func() string {
		if n := len(c.pods("gone")); n != 2 {
			return fmt.Sprintf("%d pods", n)
		}
		return ""
	})
	background := metav1.DeletePropagationBackground
	if err := client.Delete(c.ctx, c, api.Jobs, "default", "gone", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
	c.await(func() string { return strings.Join(names(c.pods("gone")), " ") })
}

func TestCronJobStartsWhatIsDue(t *testing.T) {
	c := start(t)
	// Due once an hour, in half an hour: no minute that ends under way makes another job.
	schedule := fmt.Sprintf("%d * * * *", time.Now().Add(30*time.Minute).UTC().Minute())
	cj := &batch.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "tick"}, Spec: batch.CronJobSpec{Schedule: schedule, TimeZone: new("Etc/UTC"), ConcurrencyPolicy: batch.AllowConcurrent}}
	cj.Spec.JobTemplate.Spec.Template = template("tick")
	cj.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = core.RestartPolicyNever
	make_(c, api.CronJobs, cj)
	c.settle()
	c.sleep(30 * time.Minute)
	edit(c, api.CronJobs, "default", "tick", func(j *batch.CronJob) { j.Labels = map[string]string{"look": "again"} })
	c.await(func() string {
		j := client.Cached(c, api.CronJobs, "default", "tick")
		if len(j.Status.Active) != 1 || j.Status.LastScheduleTime == nil || len(c.pods("tick")) != 1 {
			return fmt.Sprintf("%+v", j.Status)
		}
		return ""
	})
	c.awaitEvent("SuccessfulCreate", "Created job tick-")
	c.await(func() string {
		c.finish("tick", core.PodSucceeded)
		if j := client.Cached(c, api.CronJobs, "default", "tick"); len(j.Status.Active) != 0 || j.Status.LastSuccessfulTime == nil {
			return fmt.Sprintf("%+v", j.Status)
		}
		return ""
	})
}
