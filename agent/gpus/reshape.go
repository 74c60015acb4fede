package gpus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/gpu/mig"
)

// Planner is how cards are partitioned for pods that wait, where no label wishes a layout.
type Planner struct {
	// Demand lists the pods that wait for this node; not on: nobody wants cards changed. Nil is never on.
	Demand func() (list []api.MIGDemand, on bool)
	// Potential tells what the node could offer; nil takes back what was told.
	Potential func(ctx context.Context, potential map[string]int) error
	// PodEvent tells of the pod that waits.
	PodEvent func(d api.MIGDemand, reason, message string)
}

// young is how long a card that was partitioned for a pod is left to it.
const young = time.Minute

// demanded partitions idle cards for pods that wait.
func (p *partitioner) demanded(ctx context.Context) (retry bool, err error) {
	if p.Planner.Demand == nil {
		return false, nil
	}
	list, on := p.Planner.Demand()
	if !on {
		return false, p.potential(ctx, nil)
	}
	var demands []mig.Demand
	for _, d := range list {
		demands = append(demands, mig.Demand{Pod: d.Namespace + "/" + d.Pod, Resource: d.Resource, Count: d.Count})
	}
	for range maxRounds {
		r := mig.Reshape(p.config.Look().Machine, demands, p.idle())
		retry = len(r.Short) > 0
		if len(r.Plans) == 0 {
			break
		}
		for _, plan := range r.Plans {
			done, bad := p.reshape(ctx, plan, r.For[plan.Card], list)
			retry, err = retry || !done, errors.Join(err, bad)
		}
		if retry || err != nil {
			break
		}
	}
	if err != nil {
		p.Event(core.EventTypeWarning, "MIGReshapeFailed", err.Error())
	}
	return retry, errors.Join(err, p.potential(ctx, mig.Potential(p.config.Look().Machine, p.idle())))
}

func (p *partitioner) idle() mig.Idle {
	v := p.config.Look()
	usable := v.Allocatable
	if usable == nil {
		usable = func(string) bool { return false }
	}
	return mig.Idle{Held: p.held(), Usable: usable, Young: func(card string) bool { return p.now().Sub(p.shaped[card]) < young }}
}

// reshape does one card's plan. It is not done if somebody took a part of the card, or a
// process uses it.
func (p *partitioner) reshape(ctx context.Context, plan mig.Plan, pods []string, list []api.MIGDemand) (done bool, err error) {
	release, _ := p.Reserve(plan.Parts)
	if release == nil {
		return false, nil
	}
	why, err := p.steps(ctx, plan)
	err = errors.Join(err, p.Refresh(ctx)) // as in card: it counts once it is known
	release()
	if err != nil || why.text != "" {
		if why.text != "" {
			p.config.Log.Info("a GPU cannot be partitioned for pods that wait", "pods", pods, "why", why.text)
		}
		return false, err
	}
	var steps []string
	final := false
	for _, s := range plan.Steps {
		steps = append(steps, s.String())
		final = final || s.Op == mig.Create || s.Op == mig.Disable
	}
	if final {
		if p.shaped == nil {
			p.shaped = map[string]time.Time{}
		}
		p.shaped[plan.Card] = p.now()
	}
	message := fmt.Sprintf("GPU %s is partitioned for pod %s: %s", plan.Card, strings.Join(pods, ", "), strings.Join(steps, ", "))
	p.Event(core.EventTypeNormal, "MIGReshaped", message)
	for _, d := range list {
		for _, pod := range pods {
			if final && pod == d.Namespace+"/"+d.Pod {
				p.Planner.PodEvent(d, "MIGReshaped", message)
			}
		}
	}
	return true, nil
}

// potential tells what the node could offer, if that is new.
func (p *partitioner) potential(ctx context.Context, now map[string]int) error {
	if p.toldPotential && maps.Equal(p.told, now) && (p.told == nil) == (now == nil) {
		return nil
	}
	if err := p.Planner.Potential(ctx, now); err != nil {
		return fmt.Errorf("telling how the node's GPUs could be partitioned: %w", err)
	}
	p.told, p.toldPotential = now, true
	return nil
}
