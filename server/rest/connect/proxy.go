package connect

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"

	"orch/api"
	"orch/server/backend"
	"orch/server/registry"
)

// Proxy hands a request on to a pod, a service's endpoint or a node. tail is the
// path behind the subresource, as the client escaped it.
func (c *Connector) Proxy(w http.ResponseWriter, r *http.Request, call registry.Request, tail string) error {
	ctx := r.Context()
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(call.Name)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q", call.Kind.SingularName(), call.Name))
	}
	call.Name = name
	to := target{scheme: scheme, path: "/" + tail, query: r.URL.Query(), name: name, open: true}
	via := c.direct
	var err error
	var options runtime.Object
	switch call.Kind {
	case api.Pods.Facts:
		options = &core.PodProxyOptions{Path: tail}
		to.host, err = c.podAddress(ctx, call, port)
	case api.Services.Facts:
		options = &core.ServiceProxyOptions{Path: tail}
		to.host, err = c.serviceAddress(ctx, call, port)
	case api.Nodes.Facts:
		options = &core.NodeProxyOptions{Path: tail}
		if to.host, err = c.nodeAddress(ctx, call, port); to.host == name {
			via, to.scheme = c.nodes, "http"
		}
	default:
		err = apierrors.NewMethodNotSupported(call.Kind.GroupResource(), "proxy")
	}
	if err != nil {
		return err
	}
	if _, err := c.admit(ctx, call, options); err != nil {
		return err
	}
	if tail == "" && redirect(w, r) {
		return nil
	}
	if r.Header.Get("Upgrade") == "" {
		via = rewriting(via, r, tail)
	}
	return c.forward(w, r, via, to, withoutCORS)
}

// rewriting makes links and redirects in answers lead through the proxy again.
func rewriting(via http.RoundTripper, r *http.Request, tail string) http.RoundTripper {
	before := strings.TrimSuffix(r.URL.EscapedPath(), "/"+tail)
	return &proxy.Transport{Scheme: r.URL.Scheme, Host: r.URL.Host, PathPrepend: before, RoundTripper: via}
}

// withoutCORS drops what a backend allows to other sites: it speaks for itself, not for
// the API server.
func withoutCORS(resp *http.Response) {
	for _, name := range []string{"Credentials", "Headers", "Methods", "Origin"} {
		resp.Header.Del("Access-Control-Allow-" + name)
	}
}

func (c *Connector) podAddress(ctx context.Context, call registry.Request, port string) (string, error) {
	pod, err := c.pod(ctx, call)
	if err != nil {
		return "", err
	}
	if port == "" {
		for _, container := range pod.Spec.Containers {
			if len(container.Ports) > 0 {
				port = strconv.Itoa(int(container.Ports[0].ContainerPort))
				break
			}
		}
	}
	if err := proxyable(pod.Status.PodIP); err != nil {
		return "", err
	}
	if port == "" {
		return strings.TrimSuffix(net.JoinHostPort(pod.Status.PodIP, ""), ":"), nil
	}
	return net.JoinHostPort(pod.Status.PodIP, port), nil
}

// proxyable refuses addresses that would lead back into the server's own host.
func proxyable(address string) error {
	ip, err := netip.ParseAddr(address)
	if err != nil || backend.Allowed(ip) != nil {
		return apierrors.NewBadRequest("address not allowed")
	}
	return nil
}

func (c *Connector) serviceAddress(ctx context.Context, call registry.Request, port string) (string, error) {
	if c.backends == nil {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", call.Name))
	}
	if number, err := strconv.ParseInt(port, 10, 64); err == nil {
		service, err := lookUp(ctx, c.registry, api.Services, call)
		if err != nil {
			return "", err
		}
		name, ok := servicePort(service, number)
		if !ok {
			return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, service.Name))
		}
		port = name
	}
	return c.backends.ResolvePort(call.Namespace, call.Name, port)
}

// servicePort finds the name of the port with a number.
func servicePort(service *core.Service, number int64) (string, bool) {
	for _, p := range service.Spec.Ports {
		if int64(p.Port) == number {
			return p.Name, true
		}
	}
	return "", false
}

// kubeletPort is what clients know as the port of a node's own API. Our nodes are reached without any, and name none.
const kubeletPort = 10250

// nodeAddress is the node's name where its own API is meant, and its address where
// another port is.
func (c *Connector) nodeAddress(ctx context.Context, call registry.Request, port string) (string, error) {
	node, err := lookUp(ctx, c.registry, api.Nodes, call)
	if err != nil {
		return "", err
	}
	if own := cmp.Or(int(node.Status.DaemonEndpoints.KubeletEndpoint.Port), kubeletPort); port == "" || port == strconv.Itoa(own) {
		return node.Name, nil
	}
	for _, a := range node.Status.Addresses {
		if a.Type == core.NodeInternalIP {
			return net.JoinHostPort(a.Address, port), proxyable(a.Address)
		}
	}
	return "", apierrors.NewBadRequest("address not allowed")
}
