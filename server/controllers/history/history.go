// Package history keeps the ControllerRevisions in which DaemonSets and StatefulSets
// save their pod templates: what one holds, whether it is a template's, how they are
// numbered, and which go when there are too many. Reading and choosing is pure; Keeper writes.
// Start reading at Data and Keeper.
package history

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
)

// Data is what a revision saves: a patch that puts the template back, in the form
// that upstream has, so that revisions of a cluster's data taken over still match.
func Data(t *core.PodTemplateSpec) ([]byte, error) {
	raw, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("encoding template: %w", err)
	}
	var template map[string]any
	if err := json.Unmarshal(raw, &template); err != nil {
		return nil, fmt.Errorf("decoding template: %w", err)
	}
	template["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": template}})
}

// Template is the pod template that a revision has saved.
func Template(r *apps.ControllerRevision) (*core.PodTemplateSpec, error) {
	var saved struct {
		Spec struct{ Template core.PodTemplateSpec }
	}
	if err := json.Unmarshal(r.Data.Raw, &saved); err != nil {
		return nil, fmt.Errorf("reading revision %s: %w", r.Name, err)
	}
	return &saved.Spec.Template, nil
}

// Matches tells whether a revision holds the template, whose Data is given: byte for byte, or in
// meaning where the revision was written by another version.
func Matches(r *apps.ControllerRevision, t *core.PodTemplateSpec, data []byte) bool {
	if bytes.Equal(r.Data.Raw, data) {
		return true
	}
	saved, err := Template(r)
	return err == nil && equality.Semantic.DeepEqual(saved, t)
}

// Sort puts the oldest revision first.
func Sort(all []*apps.ControllerRevision) {
	slices.SortStableFunc(all, func(a, b *apps.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
}

// Newest is the highest number among the revisions; 0 if there are none.
func Newest(all []*apps.ControllerRevision) int64 {
	most := int64(0)
	for _, r := range all {
		most = max(most, r.Revision)
	}
	return most
}

// Surplus are the revisions beyond the limit that are not in use, the oldest.
func Surplus(old []*apps.ControllerRevision, limit int, inUse func(*apps.ControllerRevision) bool) []*apps.ControllerRevision {
	sorted := slices.Clone(old)
	Sort(sorted)
	sorted = slices.DeleteFunc(sorted, inUse)
	return sorted[:max(len(sorted)-max(limit, 0), 0)]
}

// Keeper writes revisions.
type Keeper struct{ Client client.Transport }

// Create makes a revision. Where the name is taken by one of the same owner with the same data, that one is
// returned; taken by another, collision is true.
func (k Keeper) Create(ctx context.Context, r *apps.ControllerRevision) (made *apps.ControllerRevision, collision bool, err error) {
	made, err = client.Create(ctx, k.Client, api.ControllerRevisions, r)
	if !apierrors.IsAlreadyExists(err) {
		if err != nil {
			return nil, false, fmt.Errorf("creating revision %s: %w", r.Name, err)
		}
		return made, false, nil
	}
	there, err := client.Get(ctx, k.Client, api.ControllerRevisions, r.Namespace, r.Name)
	if err != nil {
		return nil, false, fmt.Errorf("reading revision of the same name: %w", err)
	}
	mine, theirs := metav1.GetControllerOfNoCopy(r), metav1.GetControllerOfNoCopy(there)
	if mine != nil && theirs != nil && mine.UID == theirs.UID && bytes.Equal(there.Data.Raw, r.Data.Raw) {
		return there, false, nil
	}
	return nil, true, nil
}

// Renumber gives a revision another number.
func (k Keeper) Renumber(ctx context.Context, r *apps.ControllerRevision, number int64) (*apps.ControllerRevision, error) {
	if r.Revision == number {
		return r, nil
	}
	next := r.DeepCopy()
	next.Revision = number
	made, err := client.Update(ctx, k.Client, api.ControllerRevisions, next)
	if err != nil {
		return nil, fmt.Errorf("renumbering revision %s: %w", r.Name, err)
	}
	return made, nil
}

// Delete removes revisions; one that is gone already is fine.
func (k Keeper) Delete(ctx context.Context, all []*apps.ControllerRevision) error {
	for _, r := range all {
		uid := r.UID
		err := client.Delete(ctx, k.Client, api.ControllerRevisions, r.Namespace, r.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("removing revision %s: %w", r.Name, err)
		}
	}
	return nil
}
