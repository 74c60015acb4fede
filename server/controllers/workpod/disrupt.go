package workpod

import (
	"context"
	"fmt"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
)

// MarkDisrupted writes why a pod is going to be deleted by no fault of its own,
// so that a Job can tell this from a failure. why gives reason and message.
func MarkDisrupted(ctx context.Context, c client.Transport, p *core.Pod, why core.PodCondition, now time.Time) error {
	if d := Condition(p, core.DisruptionTarget); d != nil && d.Status == core.ConditionTrue {
		return nil
	}
	next := p.DeepCopy()
	why.Type, why.Status, why.LastTransitionTime = core.DisruptionTarget, core.ConditionTrue, metav1.NewTime(now.Truncate(time.Second))
	SetCondition(next, why)
	if _, err := client.UpdateStatus(ctx, c, api.Pods, next); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("marking pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}

// SetCondition puts the condition in the place of the one of its type.
func SetCondition(p *core.Pod, c core.PodCondition) {
	if was := Condition(p, c.Type); was != nil {
		*was = c
		return
	}
	p.Status.Conditions = append(p.Status.Conditions, c)
}
