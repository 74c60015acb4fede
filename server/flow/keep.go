package flow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sync/errgroup"
	flowcontrol "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// Field managers of what is written here: upstream's.
const (
	producer = "api-priority-and-fairness-config-producer-v1"
	consumer = "api-priority-and-fairness-config-consumer-v1"
)

// Spec is the controller: it keeps the objects that every cluster has, puts all objects
// in force and says in their conditions which schemas dangle.
func (c *Control) Spec(cl *client.Client) reconcile.Spec {
	all := reconcile.Key{Name: "configuration"}
	one := func(client.Change) []reconcile.Key { return []reconcile.Key{all} }
	return reconcile.Spec{
		Name: "priority-and-fairness",
		Watches: []reconcile.Watch{
			{Kind: api.FlowSchemas.Facts, Keys: one},
			{Kind: api.PriorityLevelConfigurations.Facts, Keys: one},
		},
		Source: func(ctx context.Context, add func(...reconcile.Key)) error {
			for {
				add(all)
				select {
				case <-c.poke:
				case <-ctx.Done():
					return nil
				}
			}
		},
		Do: func(ctx context.Context, _ reconcile.Key) (reconcile.Result, error) {
			return reconcile.Result{}, c.sync(ctx, cl)
		},
	}
}

func (c *Control) sync(ctx context.Context, cl *client.Client) error {
	levels := client.CachedList(cl, api.PriorityLevelConfigurations, "", nil)
	schemas := client.CachedList(cl, api.FlowSchemas, "", nil)
	c.digest(levels, schemas)
	changes := keep(levels, suggestedLevels(), mandatoryLevels(), levelSpec)
	changes = append(changes, keep(schemas, suggestedSchemas(), mandatorySchemas(), schemaSpec)...)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for _, w := range changes {
		g.Go(func() error { return w.do(gctx, cl) })
	}
	for _, s := range schemas {
		if cond := c.dangling(s, levels); cond != nil {
			g.Go(func() error { return setCondition(gctx, cl, s.Name, *cond) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if len(changes) == 0 {
		c.once.Do(func() { close(c.synced) })
	}
	return nil
}

// change is one write that brings the objects to what they should be.
type change struct {
	facts          *api.Facts
	create, update api.Object
	remove         string
}

// kept is what keep must know of a kind: its facts, and the spec.
type kept[T any] struct {
	facts   *api.Facts
	same    func(a, b *T) bool
	replace func(into, from *T)
}

var (
	levelSpec = kept[flowcontrol.PriorityLevelConfiguration]{api.PriorityLevelConfigurations.Facts,
		func(a, b *flowcontrol.PriorityLevelConfiguration) bool {
			return equality.Semantic.DeepEqual(a.Spec, b.Spec)
		},
		func(into, from *flowcontrol.PriorityLevelConfiguration) { from.Spec.DeepCopyInto(&into.Spec) }}
	schemaSpec = kept[flowcontrol.FlowSchema]{api.FlowSchemas.Facts,
		func(a, b *flowcontrol.FlowSchema) bool { return equality.Semantic.DeepEqual(a.Spec, b.Spec) },
		func(into, from *flowcontrol.FlowSchema) { from.Spec.DeepCopyInto(&into.Spec) }}
)

// keep lists what has to be written: missing objects are made, those that nobody changed
// follow the release, mandatory ones always; what an older release left and nobody
// changed goes.
func keep[T any, P interface {
	client.PtrTo[T]
	DeepCopy() *T
}](have []*T, suggested, mandatory []*T, k kept[T]) (out []change) {
	there := map[string]P{}
	for _, o := range have {
		there[P(o).GetName()] = o
	}
	wanted := map[string]bool{}
	for i, w := range append(suggested, mandatory...) {
		name := P(w).GetName()
		wanted[name] = true
		o := there[name]
		if o == nil {
			out = append(out, change{facts: k.facts, create: P(w)})
			continue
		}
		auto := i >= len(suggested) || follows(o)
		next := P(o.DeepCopy())
		if value, is := marked(o); !is || value != auto {
			mark(next, auto)
		} else if !auto || k.same(o, w) {
			continue
		}
		if auto {
			k.replace(next, w)
		}
		out = append(out, change{facts: k.facts, update: next})
	}
	for name, o := range there {
		if auto, is := marked(o); !wanted[name] && is && auto {
			out = append(out, change{facts: k.facts, remove: name})
		}
	}
	return out
}

// marked reads the annotation that says whether an object follows the release.
func marked(o api.Object) (value, is bool) {
	value, err := strconv.ParseBool(o.GetAnnotations()[flowcontrol.AutoUpdateAnnotationKey])
	return value, err == nil
}

// follows tells whether a suggested object follows the release: as its annotation says,
// or, without one, if its spec is as it was made.
func follows(o api.Object) bool {
	if value, is := marked(o); is {
		return value
	}
	return o.GetGeneration() == 1
}

func mark(o api.Object, auto bool) {
	a := o.GetAnnotations()
	if a == nil {
		a = map[string]string{}
	}
	a[flowcontrol.AutoUpdateAnnotationKey] = strconv.FormatBool(auto)
	o.SetAnnotations(a)
}

func (w change) do(ctx context.Context, cl *client.Client) (err error) {
	t := client.Target{Kind: w.facts}
	switch {
	case w.create != nil:
		if _, err = cl.Create(ctx, t, w.create, metav1.CreateOptions{FieldManager: producer}); apierrors.IsAlreadyExists(err) {
			return nil // its event brings us back
		}
	case w.update != nil:
		t.Name = w.update.GetName()
		if _, err = cl.Update(ctx, t, w.update, metav1.UpdateOptions{FieldManager: producer}); apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return nil
		}
	default:
		t.Name = w.remove
		if _, err = cl.Delete(ctx, t, metav1.DeleteOptions{}); apierrors.IsNotFound(err) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("keeping a %s: %w", w.facts.SingularName(), err)
	}
	return nil
}

// dangling is the condition that a schema shall have; nil if it has it.
func (c *Control) dangling(s *flowcontrol.FlowSchema, levels []*flowcontrol.PriorityLevelConfiguration) *flowcontrol.FlowSchemaCondition {
	name := s.Spec.PriorityLevelConfiguration.Name
	want := flowcontrol.FlowSchemaCondition{Type: flowcontrol.FlowSchemaConditionDangling, Status: flowcontrol.ConditionTrue, Reason: "NotFound",
		Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q but there is no such object", name)}
	for _, l := range levels {
		if l.Name == name && sound(l) {
			want.Status, want.Reason = flowcontrol.ConditionFalse, "Found"
			want.Message = fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", name)
		}
	}
	for _, have := range s.Status.Conditions {
		if have.Type == want.Type && have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message {
			return nil
		}
	}
	want.LastTransitionTime = metav1.NewTime(c.now())
	return &want
}

// setCondition applies the status, so that what others say there stays.
func setCondition(ctx context.Context, cl *client.Client, name string, cond flowcontrol.FlowSchemaCondition) error {
	patch, err := json.Marshal(map[string]any{
		"apiVersion": flowcontrol.SchemeGroupVersion.String(), "kind": api.FlowSchemas.Kind, "metadata": map[string]any{"name": name},
		"status": flowcontrol.FlowSchemaStatus{Conditions: []flowcontrol.FlowSchemaCondition{cond}},
	})
	if err != nil {
		return errors.New("a condition cannot be encoded: " + err.Error())
	}
	t := client.Target{Kind: api.FlowSchemas.Facts, Name: name, Subresource: "status"}
	_, err = cl.Patch(ctx, t, types.ApplyPatchType, patch, metav1.PatchOptions{FieldManager: consumer, Force: new(true)})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
