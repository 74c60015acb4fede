package connect

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

// Proxy hands a request on to a pod, a service's endpoint or a node. tail is the
// path behind the subresource, as the client escaped it.
func (c *Connector) Proxy(w http.ResponseWriter, r *http.Request, call registry.Request, tail string) error {
	ctx := r.Context()
	scheme, name, port := splitProxyName(call.Name)
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
		via, to.scheme, to.host = c.nodes, "http", name
		_, err = lookUp(ctx, c.registry, api.Nodes, call)
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
	return c.forward(w, r, via, to, nil)
}

// splitProxyName takes apart [scheme:]name[:port].
func splitProxyName(id string) (scheme, name, port string) {
	switch parts := strings.Split(id, ":"); len(parts) {
	case 2:
		return "", parts[0], parts[1]
	case 3:
		if parts[0] == "http" || parts[0] == "https" {
			return parts[0], parts[1], parts[2]
		}
	}
	return "", id, ""
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
		port = "80"
	}
	return net.JoinHostPort(pod.Status.PodIP, port), nil
}

// proxyable refuses addresses that would lead back into the server's own host.
func proxyable(address string) error {
	ip := net.ParseIP(address)
	if ip == nil || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return apierrors.NewBadRequest("address not allowed")
	}
	return nil
}

func (c *Connector) serviceAddress(ctx context.Context, call registry.Request, port string) (string, error) {
	service, err := lookUp(ctx, c.registry, api.Services, call)
	if err != nil {
		return "", err
	}
	portName, ok := servicePort(service, port)
	if !ok {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %q found for service %q", port, service.Name))
	}
	call.Target = client.Target{Kind: api.EndpointSlices.Facts, Namespace: service.Namespace}
	list, err := c.registry.List(ctx, call, metav1.ListOptions{LabelSelector: labels.Set{discovery.LabelServiceName: service.Name}.String()})
	if err != nil {
		return "", err
	}
	var found []string
	for _, item := range list.Items {
		found = append(found, ready(item.Object().(*discovery.EndpointSlice), portName)...)
	}
	if len(found) == 0 {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", service.Name))
	}
	address := found[rand.IntN(len(found))]
	host, _, err := net.SplitHostPort(address)
	if err == nil {
		err = proxyable(host)
	}
	return address, err
}

// servicePort finds the name of the port that a client calls by name or number, or of the only one.
func servicePort(service *core.Service, port string) (string, bool) {
	for _, p := range service.Spec.Ports {
		if port == "" && len(service.Spec.Ports) == 1 || port != "" && (p.Name == port || strconv.Itoa(int(p.Port)) == port) {
			return p.Name, true
		}
	}
	return "", false
}

// ready lists the addresses of a slice that serve the named port.
func ready(slice *discovery.EndpointSlice, portName string) []string {
	var list []string
	for _, p := range slice.Ports {
		if p.Port == nil || p.Name == nil && portName != "" || p.Name != nil && *p.Name != portName {
			continue
		}
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, a := range e.Addresses {
				list = append(list, net.JoinHostPort(a, strconv.Itoa(int(*p.Port))))
			}
		}
	}
	return list
}
