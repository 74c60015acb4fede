// Package publish keeps the ResourceSlices of one driver and this node in the API as they
// are wanted: written when something changes, made again when somebody takes them away, gone
// when there is nothing to offer. It owns those objects. It refuses to know what a device
// is (gpu/slices does), and asks the server for nothing while there is none.
//
// Start reading at For (plan.go, pure), then Publisher.Run.
package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
)

// Config of a Publisher.
type Config struct {
	Driver, Node string
	// Client acts as the node; its cache holds Nodes.
	Client *client.Client
	// Want is the pool, Changed is closed when it may be another; ask for that first. Ready is
	// closed when Want is known: until then nothing is taken away.
	Want    func() []resource.ResourceSliceSpec
	Changed func() <-chan struct{}
	Ready   <-chan struct{}
	// Aside tells that a program of others publishes for the driver: nothing is written
	// meanwhile, and that program replaces what is there. Changed tells of it too. Nil: never.
	Aside func() bool
	Log   *slog.Logger
}

// Retry times after a failure.
const (
	firstRetry = 250 * time.Millisecond
	maxRetry   = 30 * time.Second
)

// Publisher is the owner of the slices.
type Publisher struct {
	config   Config
	selector string
	// wake has something in it when the slices or the node may be other than they were.
	wake chan struct{}
	// cache is nil until there is something to offer.
	cache *client.LiveCache
	// clean: what an earlier run left has been looked at.
	clean bool
}

// New checks the config.
func New(c Config) (*Publisher, error) {
	if c.Driver == "" || c.Node == "" || c.Client == nil || c.Want == nil || c.Changed == nil || c.Ready == nil || c.Log == nil {
		return nil, errors.New("making the publisher of devices: a dependency is missing")
	}
	return &Publisher{config: c, wake: make(chan struct{}, 1),
		selector: resource.ResourceSliceSelectorNodeName + "=" + c.Node + "," + resource.ResourceSliceSelectorDriver + "=" + c.Driver}, nil
}

func (p *Publisher) poke() {
	select {
	case p.wake <- struct{}{}:
	default: // it has not looked yet
	}
}

// Run publishes until ctx ends; the slices stay.
func (p *Publisher) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-p.config.Ready:
	}
	var follow error
	done := make(chan struct{})
	started := false
	err := p.config.Client.Subscribe(ctx, api.Nodes.Facts, func(c client.Change) {
		old, _ := c.Old.(*core.Node)
		now, _ := c.New.(*core.Node)
		if now != nil && now.Name == p.config.Node && (old == nil || old.UID != now.UID) {
			p.poke()
		}
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("watching the node: %w", err)
	}
	retry := firstRetry
	for ctx.Err() == nil {
		changed := p.config.Changed()
		want := p.config.Want()
		if len(want) > 0 && !started {
			started = true
			p.cache = client.NewCache(p.config.Client.Transport, map[*api.Facts]client.Scope{api.ResourceSlices.Facts: {FieldSelector: p.selector}})
			go func() { follow = p.follow(ctx); close(done) }()
		}
		var again <-chan time.Time
		if aside := p.config.Aside != nil && p.config.Aside(); !aside && (len(want) > 0 || started || !p.clean) {
			if err := p.sync(ctx, want); err != nil && ctx.Err() == nil {
				p.config.Log.Warn("publishing the node's devices failed", "driver", p.config.Driver, "err", err)
				again, retry = time.After(retry), min(2*retry, maxRetry)
			} else {
				retry = firstRetry
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-p.wake:
		case <-again:
		}
	}
	if started {
		<-done
	}
	return follow
}

// follow keeps the cache of slices, and tells when one changed.
func (p *Publisher) follow(ctx context.Context) error {
	watching := make(chan error, 1)
	go func() {
		watching <- p.cache.Subscribe(ctx, api.ResourceSlices.Facts, func(client.Change) { p.poke() })
	}()
	err := p.cache.Run(ctx)
	if watched := <-watching; watched != nil && ctx.Err() == nil {
		err = errors.Join(err, watched)
	}
	return err
}

// sync brings the API to what is wanted.
func (p *Publisher) sync(ctx context.Context, want []resource.ResourceSliceSpec) error {
	node := client.Cached(p.config.Client, api.Nodes, "", p.config.Node)
	if node == nil {
		return nil // it is registered soon, which wakes us
	}
	have, err := p.have(ctx)
	if err != nil {
		return err
	}
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: new(true)}
	if err := p.do(ctx, For(want, have, owner)); err != nil {
		return err
	}
	p.clean = true
	return nil
}

// have are the slices that there are.
func (p *Publisher) have(ctx context.Context) (out []*resource.ResourceSlice, err error) {
	if p.cache != nil {
		if err := p.cache.WaitSynced(ctx); err != nil {
			return nil, err
		}
		return client.CachedList(p.cache, api.ResourceSlices, "", nil), nil
	}
	list, err := p.config.Client.List(ctx, client.Target{Kind: api.ResourceSlices.Facts}, metav1.ListOptions{FieldSelector: p.selector})
	if err != nil {
		return nil, fmt.Errorf("listing the node's slices: %w", err)
	}
	for _, o := range list.Items {
		if s, ok := o.(*resource.ResourceSlice); ok {
			out = append(out, s)
		}
	}
	return out, nil
}

// do writes, and waits until the cache has seen what was written.
func (p *Publisher) do(ctx context.Context, plan Plan) error {
	last := int64(0)
	note := func(s *resource.ResourceSlice) {
		if n, err := strconv.ParseInt(s.ResourceVersion, 10, 64); err == nil {
			last = max(last, n)
		}
	}
	for _, name := range plan.Delete {
		err := client.Delete(ctx, p.config.Client, api.ResourceSlices, "", name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting slice %s: %w", name, err)
		}
	}
	for _, s := range plan.Update {
		got, err := client.Update(ctx, p.config.Client, api.ResourceSlices, s)
		if err != nil {
			return fmt.Errorf("updating slice %s: %w", s.Name, err)
		}
		note(got)
	}
	for _, s := range plan.Create {
		got, err := client.Create(ctx, p.config.Client, api.ResourceSlices, s)
		if err != nil {
			return fmt.Errorf("creating a slice: %w", err)
		}
		note(got)
	}
	if last == 0 || p.cache == nil {
		return nil
	}
	return p.cache.WaitRevision(ctx, api.ResourceSlices.Facts, last)
}
