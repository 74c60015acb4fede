package spec

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"

	"orch/api"
)

// serviceVars are the variables for services: KUBERNETES_* always, those of the
// pod's namespace unless enableServiceLinks is false.
func serviceVars(in Input) *Vars {
	vars := &Vars{}
	links := in.Pod.Spec.EnableServiceLinks == nil || *in.Pod.Spec.EnableServiceLinks
	services := slices.Clone(in.Services)
	slices.SortFunc(services, func(a, b *core.Service) int { return strings.Compare(a.Name, b.Name) })
	own := map[string]bool{}
	for _, s := range services {
		own[s.Name] = own[s.Name] || links && s.Namespace == in.Pod.Namespace
	}
	for _, s := range services {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == core.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		// A service of that name in the pod's namespace goes before the cluster's own.
		master := s.Namespace == api.NamespaceDefault && s.Name == api.KubernetesService && !own[s.Name]
		if master || links && s.Namespace == in.Pod.Namespace {
			addService(vars, s)
		}
	}
	return vars
}

func addService(vars *Vars, s *core.Service) {
	prefix := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
	ip := s.Spec.ClusterIP
	port := func(p core.ServicePort) string { return strconv.Itoa(int(p.Port)) }
	vars.set(prefix+"_SERVICE_HOST", ip)
	vars.set(prefix+"_SERVICE_PORT", port(s.Spec.Ports[0]))
	for _, p := range s.Spec.Ports {
		if p.Name != "" {
			vars.set(prefix+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_")), port(p))
		}
	}
	for i, p := range s.Spec.Ports {
		proto := string(p.Protocol)
		if proto == "" {
			proto = string(core.ProtocolTCP)
		}
		url := fmt.Sprintf("%s://%s", strings.ToLower(proto), net.JoinHostPort(ip, port(p)))
		if i == 0 {
			vars.set(prefix+"_PORT", url)
		}
		each := fmt.Sprintf("%s_PORT_%s_%s", prefix, port(p), proto)
		vars.set(each, url)
		vars.set(each+"_PROTO", strings.ToLower(proto))
		vars.set(each+"_PORT", port(p))
		vars.set(each+"_ADDR", ip)
	}
}
