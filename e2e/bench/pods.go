package main

import (
	"context"
	"fmt"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	podsInTurn = 20
	podsAtOnce = 30
)

// realPod is a pod of one container that does nothing.
func realPod(name, image string) *core.Pod {
	return &core.Pod{ObjectMeta: meta.ObjectMeta{Name: name}, Spec: core.PodSpec{AutomountServiceAccountToken: new(false),
		Containers: []core.Container{{Name: "main", Image: image, ImagePullPolicy: core.PullIfNotPresent}}}}
}

// pods measures real pods on the server's own node: one after another, then many
// at once, from create to Ready and from delete to gone.
func (b *bench) pods(ctx context.Context) error {
	return b.withServer(ctx, func(s *server) error {
		c, err := s.connect(protobufType)
		if err != nil {
			return err
		}
		if _, err := nodeReady(ctx, c); err != nil {
			return err
		}
		w, err := follow(ctx, c, "default")
		if err != nil {
			return err
		}
		defer w.stop()
		if err := serviceAccount(ctx, c, "default"); err != nil {
			return err
		}
		p := &podLoad{client: c, follower: w, image: b.image, prefix: "first"}
		if err := p.each(ctx, 1, 1); err != nil { // the image is unpacked now
			return err
		}
		p = &podLoad{client: c, follower: w, image: b.image, prefix: "turn"}
		if err := p.each(ctx, podsInTurn, 1); err != nil {
			return err
		}
		b.table.addDuration("pod create to Ready, one at a time, p50", "ms", quantile(p.started, .5))
		b.table.addDuration("pod create to Ready, one at a time, p99", "ms", quantile(p.started, .99))
		b.table.addDuration("pod delete to gone, one at a time, p50", "ms", quantile(p.ended, .5))
		p = &podLoad{client: c, follower: w, image: b.image, prefix: "burst"}
		if err := p.each(ctx, podsAtOnce, podsAtOnce); err != nil {
			return err
		}
		b.table.addDuration("30 pods at once, all Ready", "s", p.allStarted)
		b.table.addDuration("30 pods at once, all gone", "s", p.allEnded)
		return nil
	})
}

// podLoad starts pods and ends them.
type podLoad struct {
	client   *kubernetes.Clientset
	follower *follower
	image    string
	prefix   string

	started, ended       []time.Duration
	allStarted, allEnded time.Duration
}

func (p *podLoad) each(ctx context.Context, n, atOnce int) (err error) {
	name := func(i int) string { return fmt.Sprintf("%s-%02d", p.prefix, i) }
	pods := p.client.CoreV1().Pods("default")
	p.started, p.allStarted, err = spread(n, atOnce, func(i int) error {
		if _, err := pods.Create(ctx, realPod(name(i), p.image), meta.CreateOptions{}); err != nil {
			return err
		}
		return p.follower.until(ctx, name(i), isReady)
	})
	if err != nil {
		return err
	}
	p.ended, p.allEnded, err = spread(n, atOnce, func(i int) error {
		if err := pods.Delete(ctx, name(i), meta.DeleteOptions{}); err != nil {
			return err
		}
		return p.follower.until(ctx, name(i), isGone)
	})
	return err
}

// nodeReady waits for a node that is Ready and takes pods, and returns when it was so.
func nodeReady(ctx context.Context, c *kubernetes.Clientset) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	w, err := c.CoreV1().Nodes().Watch(ctx, meta.ListOptions{})
	if err != nil {
		return time.Time{}, err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		n, ok := e.Object.(*core.Node)
		if !ok {
			continue
		}
		for _, x := range n.Status.Conditions {
			if x.Type == core.NodeReady && x.Status == core.ConditionTrue && len(n.Spec.Taints) == 0 {
				return time.Now(), nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("no node is ready after %v", startLimit)
}

// serviceAccount waits for the account without which no pod is admitted.
func serviceAccount(ctx context.Context, c *kubernetes.Clientset, namespace string) error {
	for range 1000 {
		_, err := c.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", meta.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("namespace %s has no default service account", namespace)
}
