package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Shape of the load.
const (
	workers     = 16
	objectBytes = 1 << 10
	lists       = 20
	watched     = 200
)

// The formats that clients speak.
const (
	jsonType     = "application/json"
	protobufType = "application/vnd.kubernetes.protobuf"
)

// connect returns a client without a rate limit of its own, on one connection.
func (s *server) connect(format string) (*kubernetes.Clientset, error) {
	c, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig())
	if err != nil {
		return nil, err
	}
	c.QPS, c.UserAgent, c.ContentType, c.AcceptContentTypes = -1, "bench", format, format+","+jsonType
	h, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfigAndClient(c, h)
}

// api measures the verbs on ConfigMaps of 1 KiB in both formats.
func (b *bench) api(ctx context.Context) error {
	return b.withServer(ctx, func(s *server) error {
		for _, f := range []struct{ name, content string }{{"protobuf", protobufType}, {"JSON", jsonType}} {
			c, err := s.connect(f.content)
			if err != nil {
				return err
			}
			v := &verbs{bench: b, server: s, ConfigMaps: c.CoreV1().RESTClient(), client: c, format: f.name, accept: f.content,
				namespace: "bench-" + strings.ToLower(f.name), table: &b.table}
			if err := v.run(ctx); err != nil {
				return err
			}
		}
		return nil
	}, "--disable-agent")
}

// verbs is the load in one format on one namespace.
type verbs struct {
	*bench
	*server
	ConfigMaps     rest.Interface
	client         *kubernetes.Clientset
	format, accept string
	namespace      string
	table          *table // nil: the load counts, not its figures
}

func (v *verbs) run(ctx context.Context) error {
	if _, err := v.client.CoreV1().Namespaces().Create(ctx, &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: v.namespace}}, meta.CreateOptions{}); err != nil {
		return err
	}
	maps := v.client.CoreV1().ConfigMaps(v.namespace)
	name := func(i int) string { return fmt.Sprintf("map-%05d", i) }
	value := strings.Repeat("x", objectBytes)
	for _, step := range []struct {
		verb string
		do   func(i int) error
	}{
		{"create", func(i int) error {
			_, err := maps.Create(ctx, &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Name: name(i), Labels: map[string]string{"app": "bench"}}, Data: map[string]string{"value": value}}, meta.CreateOptions{})
			return err
		}},
		{"get", func(i int) error { _, err := maps.Get(ctx, name(i), meta.GetOptions{}); return err }},
		{"merge patch", func(i int) error {
			_, err := maps.Patch(ctx, name(i), types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"yes"}}}`), meta.PatchOptions{})
			return err
		}},
		{"update", func(i int) error {
			_, err := maps.Update(ctx, &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Name: name(i)}, Data: map[string]string{"value": value, "more": "1"}}, meta.UpdateOptions{})
			return err
		}},
	} {
		if err := v.many(step.verb, v.load, step.do); err != nil {
			return fmt.Errorf("%s: %w", step.verb, err)
		}
	}
	if err := errors.Join(v.lists(ctx), v.watch(ctx)); err != nil {
		return err
	}
	return v.many("delete", v.load, func(i int) error { return maps.Delete(ctx, name(i), meta.DeleteOptions{}) })
}

// many calls do for 0..n-1 from all workers and notes rate, slowest hundredth and
// the server's CPU time.
func (v *verbs) many(verb string, n int, do func(i int) error) error {
	before, err := v.usage()
	if err != nil {
		return err
	}
	took, wall, err := spread(n, workers, do)
	if err != nil {
		return err
	}
	after, err := v.usage()
	if v.table != nil && err == nil {
		v.table.add(verb+", "+v.format, "/s", float64(n)/wall.Seconds())
		v.table.beside(verb+", "+v.format, "p99", "ms", milliseconds(quantile(took, .99)))
		v.table.beside(verb+", "+v.format, "server", "CPU s per 1,000", (after.cpu-before.cpu).Seconds()*1000/float64(n))
	}
	return err
}

// spread calls do for 0..n-1 from w goroutines and returns how long each call
// took, and all.
func spread(n, w int, do func(i int) error) ([]time.Duration, time.Duration, error) {
	took := make([]time.Duration, n)
	errs := make([]error, w)
	var next atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for k := range w {
		all.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i >= n || errs[k] != nil {
					return
				}
				t := time.Now()
				errs[k] = do(i)
				took[i] = time.Since(t)
			}
		})
	}
	all.Wait()
	return took, time.Since(began), errors.Join(errs...)
}

// lists reads the whole collection, to the last byte and with decoding.
func (v *verbs) lists(ctx context.Context) error {
	request := func() *rest.Request { return v.ConfigMaps.Get().Namespace(v.namespace).Resource("configmaps") }
	for _, kind := range []struct {
		figure string
		do     func(int) error
	}{
		{"to the last byte", func(int) error {
			body, err := request().SetHeader("Accept", v.accept).Stream(ctx)
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, body)
			return errors.Join(err, body.Close())
		}},
		{"decoded by client-go", func(int) error {
			var l core.ConfigMapList
			err := request().Do(ctx).Into(&l)
			if err == nil && len(l.Items) < v.load {
				return fmt.Errorf("%d of %d listed", len(l.Items), v.load)
			}
			return err
		}},
	} {
		took, _, err := spread(lists, 1, kind.do)
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		if v.table != nil && v.load == 2000 {
			v.table.addDuration("list of 2,000 "+kind.figure+", "+v.format, "ms", quantile(took, .5))
		}
	}
	return nil
}

// watch measures from sending a create to the watch event of it.
func (v *verbs) watch(ctx context.Context) error {
	maps := v.client.CoreV1().ConfigMaps(v.namespace)
	l, err := maps.List(ctx, meta.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	w, err := maps.Watch(ctx, meta.ListOptions{LabelSelector: "app=watched", ResourceVersion: l.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	took := make([]time.Duration, watched)
	for i := range took {
		o := &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Name: fmt.Sprintf("watched-%03d", i), Labels: map[string]string{"app": "watched"}}}
		began := time.Now()
		if _, err := maps.Create(ctx, o, meta.CreateOptions{}); err != nil {
			return err
		}
		if _, ok := <-w.ResultChan(); !ok {
			return errors.New("the watch has ended")
		}
		took[i] = time.Since(began)
	}
	if v.table != nil {
		v.table.addDuration("create to watch event, "+v.format, "ms", quantile(took, .5))
		v.table.beside("create to watch event, "+v.format, "p99", "ms", milliseconds(quantile(took, .99)))
	}
	return nil
}
