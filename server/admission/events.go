package admission

import (
	"cmp"
	"container/list"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	core "k8s.io/api/core/v1"
	events "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"orch/server/admission/settings"
	"orch/server/registry"
)

// eventLimits bound how many events come in, each by its own key.
type eventLimits []*eventLimit

// eventLimit is one limit; of keys that were not used for long it forgets the buckets.
type eventLimit struct {
	settings.EventLimit
	now func() time.Time

	mu      sync.Mutex
	buckets map[string]*list.Element // of *bucket, guarded by mu
	recent  list.List                // the same, last used first
}

type bucket struct {
	key string
	*rate.Limiter
}

// usualBuckets is how many keys are remembered where nothing is said.
const usualBuckets = 4096

func newEventLimits(cfg []settings.EventLimit, now func() time.Time) eventLimits {
	var out eventLimits
	for _, l := range cfg {
		if l.CacheSize == 0 {
			l.CacheSize = usualBuckets
		}
		out = append(out, &eventLimit{EventLimit: l, now: now, buckets: map[string]*list.Element{}})
	}
	return out
}

// eventRate refuses events of whom or what there have been too many.
func (l *List) eventRate(_ context.Context, a *registry.Attributes) error {
	if a.DryRun || a.Operation != registry.Create && a.Operation != registry.Update {
		return nil
	}
	var errs []error
	for _, limit := range l.events {
		if key := limit.key(a); !limit.take(key) {
			errs = append(errs, fmt.Errorf("limit reached on type %v for key %v", limit.Type, key))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewTooManyRequestsError(utilerrors.NewAggregate(errs).Error())
}

func (l *eventLimit) key(a *registry.Attributes) string {
	switch l.Type {
	case settings.ByNamespace:
		return a.Namespace
	case settings.ByUser:
		return a.User.Name
	case settings.BySource:
		return sourceOf(a.Object)
	}
	return ""
}

// sourceOf names who reports about what.
func sourceOf(o runtime.Object) string {
	source := func(component, host string, about core.ObjectReference) string {
		return strings.Join([]string{component, host, about.Kind, about.Namespace, about.Name, string(about.UID), about.APIVersion}, "")
	}
	switch e := o.(type) {
	case *core.Event:
		return source(cmp.Or(e.Source.Component, e.ReportingController), cmp.Or(e.Source.Host, e.ReportingInstance), e.InvolvedObject)
	case *events.Event:
		return source(cmp.Or(e.DeprecatedSource.Component, e.ReportingController), cmp.Or(e.DeprecatedSource.Host, e.ReportingInstance), e.Regarding)
	}
	return ""
}

func (l *eventLimit) take(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.buckets[key]
	if at == nil {
		at = l.recent.PushFront(&bucket{key, rate.NewLimiter(rate.Limit(l.QPS), int(l.Burst))})
		l.buckets[key] = at
		if l.recent.Len() > int(l.CacheSize) {
			old := l.recent.Remove(l.recent.Back()).(*bucket)
			delete(l.buckets, old.key)
		}
	}
	l.recent.MoveToFront(at)
	return at.Value.(*bucket).AllowN(l.now(), 1)
}
