package aggregator

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/transport"

	"orch/api"
)

// Contents reads and deletes what other servers hold, for controllers that look after
// all objects.
type Contents struct {
	a *Aggregator
	// user is whom the other servers see.
	user   string
	groups []string
}

// ContentsAs acts as a controller's service account, whose rights the other servers ask for.
func (a *Aggregator) ContentsAs(controller string) *Contents {
	return &Contents{a, "system:serviceaccount:" + api.NamespaceSystem + ":" + controller,
		[]string{"system:serviceaccounts", "system:serviceaccounts:" + api.NamespaceSystem, api.GroupAuthenticated}}
}

// Namespaced lists the resources of other servers whose objects lie in namespaces and
// can be listed and deleted. failed are the versions that cannot be asked now.
func (c *Contents) Namespaced(ctx context.Context) (list []schema.GroupVersionResource, failed []schema.GroupVersion) {
	c.a.Refresh(ctx)
	versions, _ := c.a.Versions()
	for _, v := range versions {
		if v.Local {
			continue
		}
		if v.Stale {
			failed = append(failed, v.GroupVersion)
			continue
		}
		for _, r := range v.Resources {
			if r.Scope == apidiscovery.ScopeNamespace && slices.Contains(r.Verbs, "delete") && slices.Contains(r.Verbs, "list") {
				list = append(list, v.WithResource(r.Resource))
			}
		}
	}
	return list, failed
}

// List gives the metadata of a resource's objects in a namespace.
func (c *Contents) List(ctx context.Context, r schema.GroupVersionResource, namespace string) ([]metav1.PartialObjectMetadata, error) {
	body, err := c.ask(ctx, http.MethodGet, place{r, namespace, ""}, sent{})
	if err != nil {
		return nil, err
	}
	var list metav1.PartialObjectMetadataList
	err = json.Unmarshal(body, &list)
	return list.Items, err
}

// DeleteAll deletes a resource's objects in a namespace: at once where the server can,
// else one after the other.
func (c *Contents) DeleteAll(ctx context.Context, r schema.GroupVersionResource, namespace string) error {
	background := metav1.DeletePropagationBackground
	how, err := json.Marshal(metav1.DeleteOptions{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}, PropagationPolicy: &background})
	if err != nil {
		return err
	}
	_, err = c.ask(ctx, http.MethodDelete, place{r, namespace, ""}, sent{body: how})
	if !apierrors.IsMethodNotSupported(err) && !apierrors.IsNotFound(err) {
		return err
	}
	items, err := c.List(ctx, r, namespace)
	if err != nil {
		return err
	}
	for _, o := range items {
		if _, err := c.ask(ctx, http.MethodDelete, place{r, namespace, o.Name}, sent{body: how}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// Get gives the metadata of one object.
func (c *Contents) Get(ctx context.Context, r schema.GroupVersionResource, namespace, name string) (*metav1.PartialObjectMetadata, error) {
	body, err := c.ask(ctx, http.MethodGet, place{r, namespace, name}, sent{})
	if err != nil {
		return nil, err
	}
	o := &metav1.PartialObjectMetadata{}
	return o, json.Unmarshal(body, o)
}

// place is an object, or a resource's objects in a namespace.
type place struct {
	schema.GroupVersionResource
	namespace, name string
}

// path is where the objects are below the version's root.
func (r place) path(root string) string {
	if r.namespace != "" {
		root += "/namespaces/" + url.PathEscape(r.namespace)
	}
	root += "/" + r.Resource
	if r.name != "" {
		root += "/" + url.PathEscape(r.name)
	}
	return root
}

// sent is what goes with a request: JSON is meant where nothing else is said.
type sent struct {
	accept, contentType string
	query               url.Values
	body                []byte
}

// ask sends one request; what is no success comes back as a Status.
func (c *Contents) ask(ctx context.Context, method string, r place, with sent) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	resp, err := c.send(ctx, method, r, with)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, maxDocument))
}

// send opens one request's answer, which is a success.
func (c *Contents) send(ctx context.Context, method string, r place, with sent) (*http.Response, error) {
	t := c.a.Find(r.Group, r.Version)
	if t == nil || !t.r.available.Load() {
		return nil, apierrors.NewServiceUnavailable("service unavailable")
	}
	req, err := c.a.request(ctx, t.r, r.path(t.r.root()))
	if err != nil {
		return nil, err
	}
	req.Method, req.URL.RawQuery = method, with.query.Encode()
	req.Header.Set("Accept", cmp.Or(with.accept, jsonType))
	if with.body != nil {
		req.Header.Set("Content-Type", cmp.Or(with.contentType, jsonType))
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(with.body)), int64(len(with.body))
	}
	transport.SetAuthProxyHeaders(req, c.user, "", c.groups, nil)
	resp, err := t.r.client().Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the server of %s: %w", t.r.name, err)
	}
	if resp.StatusCode < http.StatusMultipleChoices {
		return resp, nil
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		return nil, fmt.Errorf("asking the server of %s: %w", t.r.name, err)
	}
	return nil, refusal(resp.StatusCode, method, r, data)
}

// maxRefusal bounds how much of an error is read.
const maxRefusal = 64 << 10

const jsonType = "application/json"

// refusal is the Status that the server sent, or one of its code.
func refusal(code int, method string, r place, data []byte) error {
	s := metav1.Status{}
	if json.Unmarshal(data, &s) == nil && s.Kind == "Status" && s.Status == metav1.StatusFailure {
		return &apierrors.StatusError{ErrStatus: s}
	}
	return apierrors.NewGenericServerResponse(code, method, r.GroupResource(), r.name, strings.TrimSpace(string(data)), 0, true)
}
