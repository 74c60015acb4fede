package aggregator

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"orch/api"
)

// Metadata alone is asked for; servers that cannot cut it out send whole objects, of
// which only the metadata is kept.
const (
	acceptMetadata     = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
	acceptMetadataList = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
	pageSize           = 500
	// watchSeconds is the least time that a watch is asked to last, as upstream's
	// reflector does; at most it is twice as long.
	watchSeconds = 300
)

// Collectable lists the kinds of other servers whose objects can be read, watched and
// deleted, each in its foremost version. failed are the versions that cannot be asked
// now; the channel closes when the answer changes.
func (c *Contents) Collectable(ctx context.Context) (list []*api.Facts, failed []schema.GroupVersion, changed <-chan struct{}) {
	c.a.Refresh(ctx)
	versions, changed := c.a.Versions()
	slices.SortStableFunc(versions, func(x, y Version) int { return cmp.Compare(y.Priority.Version, x.Priority.Version) })
	seen := map[schema.GroupResource]bool{}
	for _, v := range versions {
		switch {
		case v.Local:
			continue
		case v.Stale:
			failed = append(failed, v.GroupVersion)
		}
		for _, r := range v.Resources {
			has := func(verb string) bool { return slices.Contains(r.Verbs, verb) }
			at := schema.GroupResource{Group: v.Group, Resource: r.Resource}
			if r.ResponseKind == nil || r.ResponseKind.Kind == "" || seen[at] || !has("get") || !has("list") || !has("watch") || !has("delete") {
				continue
			}
			seen[at] = true
			list = append(list, &api.Facts{Group: v.Group, Version: v.Version, Kind: r.ResponseKind.Kind, Plural: r.Resource, Singular: r.SingularResource, Cluster: r.Scope == apidiscovery.ScopeCluster, Dynamic: true})
		}
	}
	return list, failed, changed
}

// Each lists the metadata of all objects of a resource, a page at a time, and gives the
// revision that the list is of.
func (c *Contents) Each(ctx context.Context, r schema.GroupVersionResource, see func(*metav1.PartialObjectMetadata)) (revision string, err error) {
	for next := ""; ; {
		query := url.Values{"limit": {strconv.Itoa(pageSize)}}
		if next != "" {
			query.Set("continue", next)
		}
		body, err := c.ask(ctx, http.MethodGet, place{GroupVersionResource: r}, sent{accept: acceptMetadataList, query: query})
		if err != nil {
			return "", err
		}
		var list metav1.PartialObjectMetadataList
		if err := json.Unmarshal(body, &list); err != nil {
			return "", fmt.Errorf("reading a list of %s: %w", r.GroupResource(), err)
		}
		for i := range list.Items {
			see(&list.Items[i])
		}
		if next = list.Continue; next == "" {
			return list.ResourceVersion, nil
		}
	}
}

// Watch tells what becomes of the objects of a resource after a revision, until the
// server ends the watch, something fails, or ctx ends.
func (c *Contents) Watch(ctx context.Context, r schema.GroupVersionResource, revision string, tell func(watch.EventType, *metav1.PartialObjectMetadata)) error {
	resp, err := c.send(ctx, http.MethodGet, place{GroupVersionResource: r}, sent{accept: acceptMetadata, query: url.Values{
		"watch": {"true"}, "resourceVersion": {revision}, "allowWatchBookmarks": {"true"}, "timeoutSeconds": {strconv.Itoa(watchSeconds + rand.IntN(watchSeconds))}}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	in := json.NewDecoder(resp.Body)
	for {
		var e struct {
			Type   watch.EventType `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := in.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("watching %s: %w", r.GroupResource(), err)
		}
		if e.Type == watch.Error {
			s := metav1.Status{}
			if err := json.Unmarshal(e.Object, &s); err != nil {
				return fmt.Errorf("watching %s: %w", r.GroupResource(), err)
			}
			return &apierrors.StatusError{ErrStatus: s}
		}
		o := &metav1.PartialObjectMetadata{}
		if err := json.Unmarshal(e.Object, o); err != nil {
			return fmt.Errorf("watching %s: %w", r.GroupResource(), err)
		}
		tell(e.Type, o)
	}
}

// Patch merges a patch into an object.
func (c *Contents) Patch(ctx context.Context, r schema.GroupVersionResource, at types.NamespacedName, patch []byte) error {
	_, err := c.ask(ctx, http.MethodPatch, place{r, at.Namespace, at.Name}, sent{contentType: string(types.MergePatchType), body: patch})
	return err
}

// Delete deletes one object.
func (c *Contents) Delete(ctx context.Context, r schema.GroupVersionResource, at types.NamespacedName, o metav1.DeleteOptions) error {
	o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}
	body, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encoding options: %w", err)
	}
	_, err = c.ask(ctx, http.MethodDelete, place{r, at.Namespace, at.Name}, sent{body: body})
	return err
}
