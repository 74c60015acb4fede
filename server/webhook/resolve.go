package webhook

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"syscall"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/api/client"
)

// via is the route's transport; a Service is resolved anew for every call, so that an
// endpoint that has gone is not called because a connection to it is left.
func (r *route) via(c *Client) http.RoundTripper {
	if (r.endpoint.Service == Service{}) {
		return r.transport
	}
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		to, err := c.resolve(r.endpoint.Service)
		if err != nil {
			return nil, err
		}
		req = req.Clone(req.Context())
		req.Host, req.URL.Host = req.URL.Host, to
		return r.transport.RoundTrip(req)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// resolve finds the address of a ready endpoint of a Service. This process lives on the
// host, where nobody need serve cluster addresses; and it sees the endpoints anyway.
func (c *Client) resolve(s Service) (string, error) {
	if c.cfg.Cache == nil {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no services are known to find %q among", s.Name))
	}
	svc := client.Cached(c.cfg.Cache, api.Services, s.Namespace, s.Name)
	if svc == nil {
		return "", apierrors.NewNotFound(schema.GroupResource{Resource: "service"}, s.Name) // in the words of upstream's lister
	}
	if svc.Spec.Type == core.ServiceTypeExternalName {
		return net.JoinHostPort(svc.Spec.ExternalName, strconv.Itoa(int(s.port()))), nil
	}
	port := portOf(svc, s.port())
	if port == nil {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", s.port(), s.Name))
	}
	var ready []string
	for _, slice := range client.CachedList(c.cfg.Cache, api.EndpointSlices, s.Namespace, nil) {
		if slice.Labels[discovery.LabelServiceName] == s.Name {
			ready = append(ready, readyAddresses(slice, port.Name)...)
		}
	}
	if len(ready) == 0 {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", s.Name))
	}
	return ready[rand.IntN(len(ready))], nil
}

func portOf(svc *core.Service, number int32) *core.ServicePort {
	for i := range svc.Spec.Ports {
		if svc.Spec.Ports[i].Port == number {
			return &svc.Spec.Ports[i]
		}
	}
	return nil
}

func readyAddresses(slice *discovery.EndpointSlice, name string) (out []string) {
	var port int32
	for _, p := range slice.Ports {
		if p.Port != nil && (p.Name == nil && name == "" || p.Name != nil && *p.Name == name) {
			port = *p.Port
		}
	}
	if port == 0 {
		return nil
	}
	for _, e := range slice.Endpoints {
		if e.Conditions.Ready != nil && !*e.Conditions.Ready {
			continue
		}
		for _, a := range e.Addresses {
			out = append(out, net.JoinHostPort(a, strconv.Itoa(int(port))))
		}
	}
	return out
}

// dialer refuses addresses after names have become addresses, so that no name helps.
func (c *Client) dialer(inside bool) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: dialTime, Control: func(_, address string, _ syscall.RawConn) error { return allowed(address, inside) }}
	if c.cfg.Dial == nil {
		return d.DialContext
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if err := allowed(address, inside); err != nil {
			return nil, err
		}
		return c.cfg.Dial(ctx, network, address)
	}
}

// allowed tells which addresses a webhook may have. A link-local one is where clouds
// tell their secrets. Loopback is the administrator's to name by URL, as upstream; who
// may write a Service or an EndpointSlice has no business with what listens there.
func allowed(address string, inside bool) error {
	host, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("a webhook's address %s is no IP address and port", address)
	}
	switch ip := host.Addr().Unmap(); {
	case ip.IsLinkLocalUnicast(), ip.IsLinkLocalMulticast(), ip.IsInterfaceLocalMulticast(), ip.IsMulticast(), ip.IsUnspecified():
		return fmt.Errorf("webhooks may not be at %s: link-local, multicast and unspecified addresses are refused", ip)
	case inside && ip.IsLoopback():
		return fmt.Errorf("webhooks of a service may not be at %s: loopback addresses are refused", ip)
	}
	return nil
}
