// Package backend finds where a Service really answers and opens connections there,
// for whatever in the server has to call into the cluster: aggregated APIs, webhooks,
// proxies. It needs no service proxy on the host: Services, EndpointSlices and Nodes
// are read from the cache. What runs on a joined node is reached through the node's
// own connection, so that it may stand behind NAT; everything else directly.
//
// It refuses loopback and link-local addresses, which would lead back into the
// server's own host, and knows no HTTP but one upgrade. Start reading at
// Backends.Resolve and Backends.DialContext.
package backend

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/api/client"
)

// Nodes opens connections to the nodes' own API, which speaks HTTP/1.1.
type Nodes interface {
	Dial(ctx context.Context, node string) (net.Conn, error)
}

// Config is not changed after New.
type Config struct {
	// Cache holds Services, EndpointSlices, Pods and Nodes.
	Cache client.Cache
	// Nodes reaches the joined nodes; nil: everything is dialled directly.
	Nodes Nodes
	// Own is the server's own node, which is reached directly.
	Own string
	// Self is where this server's API listens, the backend of the Service kubernetes.
	Self string
	// Direct dials without a node; nil is a dialer with the limits of this package.
	Direct func(ctx context.Context, network, address string) (net.Conn, error)
}

// Backends is safe for many goroutines.
type Backends struct{ cfg Config }

// dialTime bounds the making of one connection.
const dialTime = 10 * time.Second

// ErrAddress is the refusal of an address.
var ErrAddress = errors.New("address not allowed")

// New checks cfg.
func New(cfg Config) (*Backends, error) {
	if cfg.Cache == nil {
		return nil, errors.New("setting up backends: Cache is required")
	}
	if cfg.Direct == nil {
		cfg.Direct = (&net.Dialer{Timeout: dialTime, Control: refuse}).DialContext
	}
	return &Backends{cfg}, nil
}

// refuse stops connections to forbidden addresses at the last moment, when names are
// resolved.
func refuse(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return Allowed(at.Addr())
}

// Allowed refuses addresses that would lead back into the server's own host or to
// nobody in particular.
func Allowed(ip netip.Addr) error {
	ip = ip.Unmap()
	if !ip.IsValid() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return ErrAddress
	}
	return nil
}

// Resolve gives an address and port, or a name and port, where the Service answers on
// one of its ports: one of its ready endpoints, chosen at random. The error is a 503.
func (b *Backends) Resolve(namespace, name string, port int32) (string, error) {
	if namespace == api.NamespaceDefault && name == api.KubernetesService && port == 443 && b.cfg.Self != "" {
		return b.cfg.Self, nil
	}
	s := client.Cached(b.cfg.Cache, api.Services, namespace, name)
	if s == nil {
		return "", apierrors.NewNotFound(schema.GroupResource{Resource: "service"}, name) // in the words of upstream's lister
	}
	if s.Spec.Type == core.ServiceTypeExternalName {
		return net.JoinHostPort(s.Spec.ExternalName, strconv.Itoa(int(port))), nil
	}
	for _, p := range s.Spec.Ports {
		if p.Port == port {
			return b.endpoint(s, p.Name)
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", port, name))
}

// ResolvePort finds a ready endpoint of a Service's port of that name for the proxy
// subresource: one that is a pod, whose address cannot lead anywhere else.
func (b *Backends) ResolvePort(namespace, name, port string) (string, error) {
	var found []string
	for _, slice := range b.Slices(namespace, name) {
		found = append(found, ready(slice, port, b.isPod)...)
	}
	return choose(found, name)
}

// isPod tells whether an endpoint is what its reference says: a pod with this address.
func (b *Backends) isPod(namespace string, e *discovery.Endpoint) bool {
	if e.TargetRef == nil || e.TargetRef.Namespace != namespace {
		return false
	}
	pod := client.Cached(b.cfg.Cache, api.Pods, namespace, e.TargetRef.Name)
	return pod != nil && slices.ContainsFunc(pod.Status.PodIPs, func(ip core.PodIP) bool { return ip.IP == e.Addresses[0] })
}

func (b *Backends) endpoint(s *core.Service, port string) (string, error) {
	var found []string
	for _, slice := range b.Slices(s.Namespace, s.Name) {
		found = append(found, Ready(slice, port)...)
	}
	return choose(found, s.Name)
}

func choose(found []string, service string) (string, error) {
	if len(found) == 0 {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", service))
	}
	return found[rand.IntN(len(found))], nil
}

// Slices lists the EndpointSlices of a Service.
func (b *Backends) Slices(namespace, service string) []*discovery.EndpointSlice {
	return client.CachedList(b.cfg.Cache, api.EndpointSlices, namespace, labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: service}))
}

// Ready lists the addresses with port at which a slice's ready endpoints serve the
// port of that name.
func Ready(slice *discovery.EndpointSlice, port string) []string { return ready(slice, port, nil) }

// ready takes the endpoints that wanted says yes to; nil: all.
func ready(slice *discovery.EndpointSlice, port string, wanted func(namespace string, e *discovery.Endpoint) bool) []string {
	var list []string
	for _, p := range slice.Ports {
		if p.Port == nil || p.Name == nil && port != "" || p.Name != nil && *p.Name != port {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if e.Conditions.Ready != nil && !*e.Conditions.Ready || len(e.Addresses) == 0 || wanted != nil && !wanted(slice.Namespace, e) {
				continue
			}
			list = append(list, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port)))) // the others are the same one
		}
	}
	return list
}
