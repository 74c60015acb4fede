package draplugins

import (
	"context"
	"fmt"
	"time"

	resource "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
)

const (
	firstWipe = time.Second
	maxWipe   = 5 * time.Minute
	// idle is how long nothing is looked at where nothing changes.
	idle = 24 * time.Hour
)

// sweep takes the slices of drivers out of the API that have been away for the grace. Drivers
// that left slices and do not come back when orch starts again are away since then.
//
// Upstream's kubelet takes all slices away when it starts; here drivers have the grace to come
// back, as pods go on meanwhile.
func (p *Plugins) sweep(ctx context.Context) {
	away := map[string]time.Time{everyone: time.Now().Add(p.config.Grace)}
	known, retry := map[string]bool{}, firstWipe
	for {
		changed := p.Changed()
		usable := p.usable()
		for name := range usable {
			known[name] = true
		}
		for name := range known {
			if usable[name] {
				delete(away, name)
			} else if _, ok := away[name]; !ok {
				away[name] = time.Now().Add(p.config.Grace)
			}
		}
		soonest := idle
		for name, at := range away {
			if d := time.Until(at); d > 0 {
				soonest = min(soonest, d)
				continue
			}
			if err := p.wipe(ctx, name, usable); err != nil {
				p.config.Log.Warn("the slices of a DRA driver that is away could not be removed", "driver", name, "err", err, "again", retry)
				away[name] = time.Now().Add(retry)
				soonest, retry = min(soonest, retry), min(2*retry, maxWipe)
				continue
			}
			retry = firstWipe
			delete(away, name)
			delete(known, name)
		}
		next := time.NewTimer(soonest)
		select {
		case <-changed:
		case <-next.C:
		case <-ctx.Done():
		}
		if next.Stop(); ctx.Err() != nil {
			return
		}
	}
}

// everyone stands for all drivers that are not there.
const everyone = ""

func (p *Plugins) wipe(ctx context.Context, driver string, usable map[string]bool) error {
	onNode := resource.ResourceSliceSelectorNodeName + "=" + p.config.Node
	drivers := []string{driver}
	if driver == everyone {
		list, err := p.config.Client.List(ctx, client.Target{Kind: api.ResourceSlices.Facts}, metav1.ListOptions{FieldSelector: onNode})
		if err != nil {
			return fmt.Errorf("listing slices: %w", err)
		}
		drivers = nil
		for _, o := range list.Items {
			if s := o.(*resource.ResourceSlice); !usable[s.Spec.Driver] && s.Spec.Driver != p.config.Own {
				drivers = append(drivers, s.Spec.Driver)
			}
		}
	}
	for _, d := range drivers {
		err := p.config.Client.DeleteCollection(ctx, client.Target{Kind: api.ResourceSlices.Facts}, metav1.DeleteOptions{},
			metav1.ListOptions{FieldSelector: onNode + "," + resource.ResourceSliceSelectorDriver + "=" + d})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("removing the slices of %s: %w", d, err)
		}
		p.config.Log.Info("removed the slices of a DRA driver that is away", "driver", d)
	}
	return nil
}
