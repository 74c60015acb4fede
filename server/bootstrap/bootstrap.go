// Package bootstrap puts the objects into the store that every cluster has: system
// namespaces, RBAC's default roles, priority classes, the kubernetes and kube-dns
// Services, and what tells clients where the API is. It does so at each start,
// writes only what differs, and keeps it true while the server runs. It decides
// nothing about users' objects.
//
// Start reading at Config.wanted: the list of everything; roles.go has RBAC.
package bootstrap

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// Config says what the objects shall say. It is not changed after New.
type Config struct {
	Client *client.Client
	// Address and Port are where clients reach the API from pods and nodes.
	Address netip.Addr
	Port    int32
	// ServiceIP is the first address of ServiceCIDR; DNS that of kube-dns.
	ServiceCIDR    netip.Prefix
	ServiceIP, DNS netip.Addr
	// NoDNS leaves the kube-dns Service out.
	NoDNS bool
	// ServerCA, ClientCA and FrontProxyCA as PEM.
	ServerCA, ClientCA, FrontProxyCA []byte
	// FrontProxy is the name in the API's certificate as a front proxy.
	FrontProxy string
}

// Bootstrap is made by New and does its work in Run.
type Bootstrap struct {
	cfg    Config
	wanted map[reconcile.Key]wanted
	order  []reconcile.Key
	ready  chan struct{}
}

// wanted is one object and how to mend what is there.
type wanted struct {
	facts  *api.Facts
	object api.Object
	// mend returns what have should be, nil if it is good. nil: being there is enough.
	mend func(have api.Object) api.Object
}

// New checks cfg.
func New(cfg Config) (*Bootstrap, error) {
	if cfg.Client == nil || !cfg.Address.IsValid() || !cfg.ServiceIP.IsValid() || !cfg.DNS.IsValid() || cfg.Port <= 0 {
		return nil, errors.New("setting up system objects: client, addresses and port are required")
	}
	b := &Bootstrap{cfg: cfg, wanted: map[reconcile.Key]wanted{}, ready: make(chan struct{})}
	for _, w := range cfg.wanted() {
		k := keyOf(w.facts, w.object)
		b.wanted[k] = w
		b.order = append(b.order, k)
	}
	return b, nil
}

// keyOf makes the loop's key, which has no kind, unique over kinds.
func keyOf(f *api.Facts, o api.Object) reconcile.Key {
	return reconcile.Key{Namespace: o.GetNamespace(), Name: f.Plural + "/" + o.GetName()}
}

// wanted lists everything, namespaces first.
func (c Config) wanted() []wanted {
	var out []wanted
	add := func(f *api.Facts, o api.Object, mend func(api.Object) api.Object) {
		out = append(out, wanted{f, o, mend})
	}
	for _, o := range namespaces() {
		add(api.Namespaces.Facts, o, nil)
	}
	for _, o := range clusterRoles() {
		add(api.ClusterRoles.Facts, o, mendClusterRole(o))
	}
	for _, o := range clusterRoleBindings() {
		add(api.ClusterRoleBindings.Facts, o, mendClusterRoleBinding(o))
	}
	for _, o := range roles() {
		add(api.Roles.Facts, o, mendRole(o))
	}
	for _, o := range roleBindings() {
		add(api.RoleBindings.Facts, o, mendRoleBinding(o))
	}
	for _, o := range priorityClasses() {
		add(api.PriorityClasses.Facts, o, nil)
	}
	for _, o := range runtimeClasses() {
		add(api.RuntimeClasses.Facts, o, nil)
	}
	for _, o := range c.configMaps() {
		add(api.ConfigMaps.Facts, o, mendConfigMap(o))
	}
	add(api.ServiceCIDRs.Facts, c.serviceCIDR(), nil)
	add(api.Services.Facts, c.kubernetesService(), mendService(c.kubernetesService()))
	if !c.NoDNS {
		add(api.Services.Facts, c.dnsService(), mendService(c.dnsService()))
	}
	if c.Address.IsLoopback() {
		return out // a host without any network: nobody else could use the address, and endpoints may not have it
	}
	add(api.Endpoints.Facts, c.endpoints(), mendEndpoints(c.endpoints()))
	add(api.EndpointSlices.Facts, c.endpointSlice(), mendEndpointSlice(c.endpointSlice()))
	return out
}

// Run makes everything true, then closes Ready and keeps it true until ctx ends.
func (b *Bootstrap) Run(ctx context.Context) error {
	if err := b.all(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	close(b.ready)
	return reconcile.Run(ctx, b.cfg.Client, b.spec())
}

// Ready closes once every object is there.
func (b *Bootstrap) Ready() <-chan struct{} { return b.ready }

// all ensures everything once. The writes wait together, so that the store needs
// few syncs for them.
func (b *Bootstrap) all(ctx context.Context) error {
	rest := b.order
	for len(rest) > 0 {
		// Namespaces come first and must be there before what lies in them.
		n := 0
		for n < len(rest) && (b.wanted[rest[n]].facts == api.Namespaces.Facts) == (b.wanted[rest[0]].facts == api.Namespaces.Facts) {
			n++
		}
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(64)
		for _, k := range rest[:n] {
			g.Go(func() error { return b.ensure(gctx, b.wanted[k]) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func (b *Bootstrap) ensure(ctx context.Context, w wanted) error {
	c, ns, name := b.cfg.Client, w.object.GetNamespace(), w.object.GetName()
	have := c.Lookup(w.facts, ns, name)
	t := client.Target{Kind: w.facts, Namespace: ns}
	if have == nil {
		_, err := c.Create(ctx, t, w.object.DeepCopyObject(), metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("creating %s %s: %w", w.facts.SingularName(), name, err)
		}
		return nil
	}
	if w.mend == nil {
		return nil
	}
	next := w.mend(have)
	if next == nil {
		return nil
	}
	t.Name = name
	if next.GetUID() == "" {
		// What cannot be changed in place (a binding's role) is replaced.
		if _, err := c.Delete(ctx, t, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("replacing %s %s: %w", w.facts.SingularName(), name, err)
		}
		t.Name = ""
		_, err := c.Create(ctx, t, next, metav1.CreateOptions{})
		return err
	}
	if _, err := c.Update(ctx, t, next, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("mending %s %s: %w", w.facts.SingularName(), name, err)
	}
	return nil
}

// spec keeps what other parts of the cluster lean on; roles are left to their
// owners until the next start, as upstream does.
func (b *Bootstrap) spec() reconcile.Spec {
	s := reconcile.Spec{Name: "system-objects", Do: func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
		return reconcile.Result{}, b.ensure(ctx, b.wanted[k])
	}}
	for _, f := range []*api.Facts{api.Namespaces.Facts, api.Services.Facts, api.Endpoints.Facts, api.EndpointSlices.Facts, api.PriorityClasses.Facts, api.ConfigMaps.Facts} {
		s.Watches = append(s.Watches, reconcile.Watch{Kind: f, Keys: func(c client.Change) []reconcile.Key {
			o := c.New
			if o == nil {
				o = c.Old
			}
			if o == nil {
				return nil
			}
			k := keyOf(f, o)
			if _, ours := b.wanted[k]; !ours {
				return nil
			}
			return []reconcile.Key{k}
		}})
	}
	return s
}

func base64Text(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
