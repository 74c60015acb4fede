package endpoints

import (
	"cmp"
	"maps"
	"slices"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/server/controllers/workpod"
)

const (
	managedByLabel = "endpoints.kubernetes.io/managed-by"
	managedByUs    = "endpoint-controller"
	// capacity is how many addresses one object holds, as upstream.
	capacity = 1000
)

func managed(e *core.Endpoints) bool { return e.Labels[managedByLabel] == managedByUs }

// desired is the Endpoints object of a service with those pods.
func desired(s *core.Service, pods []*core.Pod) *core.Endpoints {
	e := &core.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name, Labels: maps.Clone(s.Labels)}}
	if e.Labels == nil {
		e.Labels = map[string]string{}
	}
	delete(e.Labels, core.IsHeadlessService)
	e.Labels[managedByLabel] = managedByUs
	if workpod.Headless(s) {
		e.Labels[core.IsHeadlessService] = ""
	}
	pods, cut := truncate(candidates(s, pods), s)
	if cut {
		e.Annotations = map[string]string{core.EndpointsOverCapacity: "truncated"}
	}
	for _, p := range pods {
		add(e, ports(s, p), address(s, p), isReady(s, p))
	}
	sort(e)
	return e
}

// candidates are the pods that have an address and are not on their way out.
func candidates(s *core.Service, pods []*core.Pod) []*core.Pod {
	return slices.DeleteFunc(slices.Clone(pods), func(p *core.Pod) bool {
		return !workpod.HasAddress(p) || (p.DeletionTimestamp != nil && !s.Spec.PublishNotReadyAddresses)
	})
}

func isReady(s *core.Service, p *core.Pod) bool {
	return s.Spec.PublishNotReadyAddresses || workpod.Ready(p)
}

// truncate keeps the ready pods first.
func truncate(pods []*core.Pod, s *core.Service) ([]*core.Pod, bool) {
	if len(pods) <= capacity {
		return pods, false
	}
	slices.SortStableFunc(pods, func(a, b *core.Pod) int {
		switch ra, rb := isReady(s, a), isReady(s, b); {
		case ra == rb:
			return 0
		case ra:
			return -1
		}
		return 1
	})
	return pods[:capacity], true
}

func address(s *core.Service, p *core.Pod) core.EndpointAddress {
	a := core.EndpointAddress{IP: workpod.Addresses(p)[0], TargetRef: workpod.TargetRef(p), Hostname: workpod.HostnameFor(p, s)}
	if p.Spec.NodeName != "" {
		a.NodeName = new(p.Spec.NodeName)
	}
	return a
}

func ports(s *core.Service, p *core.Pod) []core.EndpointPort {
	var out []core.EndpointPort
	for i := range s.Spec.Ports {
		sp := &s.Spec.Ports[i]
		if n, ok := workpod.TargetPort(p, sp); ok {
			out = append(out, core.EndpointPort{Name: sp.Name, Port: n, Protocol: sp.Protocol, AppProtocol: sp.AppProtocol})
		}
	}
	return out
}

// add puts the address into the subset with the same ports.
func add(e *core.Endpoints, ports []core.EndpointPort, a core.EndpointAddress, ready bool) {
	i := slices.IndexFunc(e.Subsets, func(s core.EndpointSubset) bool { return equality.Semantic.DeepEqual(s.Ports, ports) })
	if i < 0 {
		e.Subsets = append(e.Subsets, core.EndpointSubset{Ports: ports})
		i = len(e.Subsets) - 1
	}
	if s := &e.Subsets[i]; ready {
		s.Addresses = append(s.Addresses, a)
	} else {
		s.NotReadyAddresses = append(s.NotReadyAddresses, a)
	}
}

// sort makes equal content equal: addresses by IP, subsets by their first port.
func sort(e *core.Endpoints) {
	byIP := func(a, b core.EndpointAddress) int { return cmp.Compare(a.IP, b.IP) }
	for i := range e.Subsets {
		slices.SortFunc(e.Subsets[i].Addresses, byIP)
		slices.SortFunc(e.Subsets[i].NotReadyAddresses, byIP)
	}
	slices.SortStableFunc(e.Subsets, func(a, b core.EndpointSubset) int {
		return slices.CompareFunc(a.Ports, b.Ports, func(x, y core.EndpointPort) int {
			return cmp.Or(cmp.Compare(x.Port, y.Port), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Protocol, y.Protocol))
		})
	})
}
