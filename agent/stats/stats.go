// Package stats says what the node and its containers use, at the kubelet's paths and in
// its forms: /stats/summary, /metrics/resource, /metrics/cadvisor and /metrics. Counters
// are read when somebody asks and at most once a second; nothing is sampled in between,
// so that a node nobody looks at does nothing. The rate of CPU use is that since the last
// look, or over a moment if there was none lately. It owns nothing but the last sample.
//
// Start reading at Source, then Stats.sample; a file per page.
package stats

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/runtime/engine"
)

// Pod is a pod that runs on this node.
type Pod struct {
	UID             types.UID
	Namespace, Name string
	// Cgroup from the root of the hierarchy.
	Cgroup string
	Start  time.Time
	// HostNetwork: its interfaces are the node's.
	HostNetwork bool
	Containers  []Container
	// Object as the node knows it, with its newest status.
	Object *core.Pod
}

// Container that runs.
type Container struct {
	Name, ID, Image string
	PID             int
	Start           time.Time
	LogPath         string
}

// Source is what pages are made of.
type Source struct {
	Node string
	Pods func() []Pod
	// Counters of a container.
	Counters func(ctx context.Context, id string) (engine.Stats, error)
	// RootDir lies on the file system of pods, ImageDir on that of images and layers.
	RootDir, ImageDir string
	// More are further families for /metrics, in Prometheus' text form; nil for none.
	More func(ctx context.Context) ([]byte, error)
	// Root is put before /proc; empty is "/".
	Root string
}

// Stats serves the pages.
type Stats struct {
	Source
	began time.Time

	mu   sync.Mutex // held while a sample is taken: who asks at once shares it
	last sample
	prev sample // the one that rates are against
}

// New checks the source.
func New(s Source) (*Stats, error) {
	if s.Node == "" || s.Pods == nil || s.Counters == nil || s.RootDir == "" || s.ImageDir == "" {
		return nil, errors.New("making the node's statistics: a part of the source is missing")
	}
	return &Stats{Source: s, began: time.Now()}, nil
}

// Paths are the pages by path.
func (s *Stats) Paths() map[string]http.Handler {
	return map[string]http.Handler{
		"/pods":             http.HandlerFunc(s.pods),
		"/stats/summary":    http.HandlerFunc(s.summary),
		"/metrics":          s.page(s.kubelet, s.more),
		"/metrics/resource": s.page(s.resource, nil),
		"/metrics/cadvisor": s.page(s.cadvisor, nil),
		"/metrics/probes":   s.page(func(look, func(family)) {}, nil),
	}
}

const (
	// freshFor is how long a sample serves all who ask.
	freshFor = time.Second
	// rateOver is the shortest time between two samples of a rate, rateWithin the longest.
	rateOver, rateWithin = 200 * time.Millisecond, 2 * time.Minute
)

// sample is everything at one time.
type sample struct {
	at   time.Time
	node nodeCounters
	pods []podCounters
}

// podCounters are those of a pod. A container that ended while it was looked at is left out.
type podCounters struct {
	Pod
	containers []containerCounters
	network    []interfaceCounters
}

type containerCounters struct {
	Container
	engine.Stats
}

// look is a sample with what rates are made of: the one before.
type look struct {
	sample
	before map[string]engine.Stats // by container
	node0  nodeCounters
	since  time.Duration // 0: nothing is known before
}

// sample gives the newest sample; rated asks for one that rates can be made of.
func (s *Stats) sample(ctx context.Context, rated bool) (look, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.last.at) > freshFor {
		if err := s.takeLocked(ctx); err != nil {
			return look{}, err
		}
	}
	if rated && (s.prev.at.IsZero() || s.last.at.Sub(s.prev.at) > rateWithin) {
		select {
		case <-ctx.Done():
			return look{}, ctx.Err()
		case <-time.After(rateOver):
		}
		if err := s.takeLocked(ctx); err != nil {
			return look{}, err
		}
	}
	return s.lookLocked(), nil
}

func (s *Stats) takeLocked(ctx context.Context) error {
	next := sample{at: time.Now()}
	var err error
	if next.node, err = readNode(s.Root); err != nil {
		return fmt.Errorf("reading the node's counters: %w", err)
	}
	for _, p := range s.Pods() {
		pc := podCounters{Pod: p}
		for _, c := range p.Containers {
			got, err := s.Counters(ctx, c.ID)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				continue // it has ended
			}
			pc.containers = append(pc.containers, containerCounters{c, got})
			if pc.network == nil && !p.HostNetwork {
				pc.network = readInterfaces(s.Root, c.PID)
			}
		}
		next.pods = append(next.pods, pc)
	}
	s.prev, s.last = s.last, next
	return nil
}

func (s *Stats) lookLocked() look {
	l := look{sample: s.last, before: map[string]engine.Stats{}, node0: s.prev.node}
	if s.prev.at.IsZero() || s.last.at.Sub(s.prev.at) > rateWithin {
		return l
	}
	l.since = s.last.at.Sub(s.prev.at)
	for _, p := range s.prev.pods {
		for _, c := range p.containers {
			l.before[c.ID] = c.Stats
		}
	}
	return l
}

// rate of a container's CPU use in billionths of a core; ok is false for one that is new.
func (l look) rate(c containerCounters) (nanoCores uint64, ok bool) {
	old, ok := l.before[c.ID]
	if !ok || c.CPUNanos < old.CPUNanos || !c.Time.After(old.Time) {
		return 0, false
	}
	return uint64(float64(c.CPUNanos-old.CPUNanos) / c.Time.Sub(old.Time).Seconds()), true
}

// nodeRate is that of the node.
func (l look) nodeRate() (nanoCores uint64, ok bool) {
	if l.since <= 0 || l.node.cpuNanos < l.node0.cpuNanos {
		return 0, false
	}
	return uint64(float64(l.node.cpuNanos-l.node0.cpuNanos) / l.since.Seconds()), true
}
