package storagemigration

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// contents are the objects of one resource, here or in another server.
type contents struct {
	facts *api.Facts
	// revision is that of everything that has been written by now.
	revision func(context.Context) (string, error)
	// each walks the objects of a state that is not older than the revision.
	each  func(ctx context.Context, revision string, see func(metav1.Object)) error
	patch func(ctx context.Context, at types.NamespacedName, body []byte) error
}

// version is an object as it was read.
type version struct {
	at       types.NamespacedName
	revision string
}

// contents finds the resource; nil if nobody serves it.
func (c controller) contents(ctx context.Context, key reconcile.Key) (*contents, error) {
	for _, f := range slices.Concat(c.Kinds(), api.All()) { // the latter for those that hold no objects
		if f.Group == key.Namespace && f.Plural == key.Name {
			return c.own(f), nil
		}
	}
	if c.Others == nil {
		return nil, nil
	}
	list, failed, _ := c.Others.Collectable(ctx)
	for _, f := range list {
		if f.Group == key.Namespace && f.Plural == key.Name {
			return c.elsewhere(f), nil
		}
	}
	for _, gv := range failed {
		if gv.Group == key.Namespace {
			return nil, fmt.Errorf("the server of %s cannot be asked", gv)
		}
	}
	return nil, nil
}

func (c controller) own(f *api.Facts) *contents {
	t := client.Target{Kind: f}
	return &contents{
		facts: f,
		revision: func(ctx context.Context) (string, error) {
			l, err := c.Client.List(ctx, t, metav1.ListOptions{Limit: 1})
			return l.ResourceVersion, err
		},
		each: func(ctx context.Context, revision string, see func(metav1.Object)) error {
			n, err := strconv.ParseInt(revision, 10, 64)
			if err != nil {
				return fmt.Errorf("the revision %q is no number", revision)
			}
			if err := c.Client.WaitRevision(ctx, f, n); err != nil {
				return err
			}
			c.Client.Each(f, "", func(o api.Object) bool {
				see(o)
				return true
			})
			return nil
		},
		patch: func(ctx context.Context, at types.NamespacedName, body []byte) error {
			t := client.Target{Kind: f, Namespace: at.Namespace, Name: at.Name}
			_, err := c.Client.Patch(ctx, t, types.MergePatchType, body, metav1.PatchOptions{FieldManager: manager})
			return err
		},
	}
}

func (c controller) elsewhere(f *api.Facts) *contents {
	return &contents{
		facts: f,
		revision: func(ctx context.Context) (string, error) {
			return c.Others.Each(ctx, f.GVR(), func(*metav1.PartialObjectMetadata) {})
		},
		each: func(ctx context.Context, _ string, see func(metav1.Object)) error {
			_, err := c.Others.Each(ctx, f.GVR(), func(o *metav1.PartialObjectMetadata) { see(o) })
			return err
		},
		patch: func(ctx context.Context, at types.NamespacedName, body []byte) error {
			return c.Others.Patch(ctx, f.GVR(), at, body)
		},
	}
}

// olderThan lists the objects that have not been written since the mark, and counts all.
func (s *contents) olderThan(ctx context.Context, mark string) (old []version, all int, err error) {
	var odd error
	err = s.each(ctx, mark, func(o metav1.Object) {
		all++
		order, err := resourceversion.CompareResourceVersion(o.GetResourceVersion(), mark)
		switch {
		case err != nil:
			odd = err
		case order <= 0:
			old = append(old, version{types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}, o.GetResourceVersion()})
		}
	})
	if err == nil {
		err = odd
	}
	return old, all, err
}

// rewrite writes the object as it is: a patch that names nothing but the version it is for.
func (s *contents) rewrite(ctx context.Context, o version) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": s.facts.GroupVersion().String(), "kind": s.facts.Kind, "metadata": map[string]string{"resourceVersion": o.revision},
	})
	if err != nil {
		return err
	}
	return s.patch(ctx, o.at, body)
}

// overtaken tells that somebody else wrote or deleted the object, which is as good.
func overtaken(err error) bool { return apierrors.IsConflict(err) || apierrors.IsNotFound(err) }

// transient tells whether it is worth trying again. What is no answer of a server is a
// broken connection.
func transient(err error) bool {
	switch {
	case apierrors.IsServerTimeout(err), apierrors.IsTooManyRequests(err), apierrors.IsServiceUnavailable(err), apierrors.IsInternalError(err), apierrors.IsTimeout(err):
		return true
	}
	return apierrors.ReasonForError(err) == metav1.StatusReasonUnknown
}
