package allocate

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/api/client"
)

// Config names the ranges. It is not changed after New.
type Config struct {
	// ServiceCIDR is where cluster IPs come from, beside the ready ServiceCIDR objects; its
	// first and, for IPv4, last address are never handed out.
	ServiceCIDR netip.Prefix
	// FirstPort and LastPort bound node ports, both included.
	FirstPort, LastPort int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Services completes Services with what they need from the pools.
type Services struct {
	cfg    Config
	family core.IPFamily
	ips    *Pool[netip.Addr]
	ports  *Pool[int]
	block  block // of cfg.ServiceCIDR
	ranges ranges
}

// New checks cfg.
func New(cfg Config) (*Services, error) {
	if !cfg.ServiceCIDR.IsValid() {
		return nil, errors.New("setting up service addresses: no service CIDR given")
	}
	if cfg.FirstPort < 1 || cfg.LastPort > 65535 || cfg.FirstPort > cfg.LastPort {
		return nil, fmt.Errorf("setting up node ports: the range %d-%d is not one", cfg.FirstPort, cfg.LastPort)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.ServiceCIDR = cfg.ServiceCIDR.Masked()
	s := &Services{cfg: cfg, family: core.IPv4Protocol}
	if cfg.ServiceCIDR.Addr().Is6() {
		s.family = core.IPv6Protocol
	}
	if s.block = blockOf(cfg.ServiceCIDR); s.block.size < 1 {
		return nil, fmt.Errorf("setting up service addresses: %s has no room; use at least a /30", cfg.ServiceCIDR)
	}
	s.ips, s.ports = NewPool[netip.Addr](cfg.Now), NewPool[int](cfg.Now)
	return s, nil
}

// band is the part of a range that upstream keeps for static assignment: a
// sixteenth, at least 16 and at most 256.
func band(size int) int {
	if size < 16 {
		return 0
	}
	return min(max(16, size/16), 256)
}

// portBand is the same for node ports: at most 128, none in small ranges.
func portBand(size int) int {
	if size < 32 {
		return 0
	}
	return min(max(16, size/32), 128)
}

// FirstIP is that of the kubernetes Service.
func (s *Services) FirstIP() netip.Addr { return s.block.at(0) }

// portSpan is the node ports.
func (s *Services) portSpan() span[int] {
	n := s.cfg.LastPort - s.cfg.FirstPort + 1
	return span[int]{n, portBand(n), func(n int) int { return n + s.cfg.FirstPort }}
}

// Apply follows the cache of Services.
func (s *Services) Apply(c client.Change) {
	was, _ := c.Old.(*core.Service)
	is, _ := c.New.(*core.Service)
	follow(s.ips, was, is, clusterIPs)
	follow(s.ports, was, is, s.nodePorts)
}

// follow notes in a pool what a stored Service has, and had.
func follow[K comparable](p *Pool[K], was, is *core.Service, all func(*core.Service) []K) {
	var keep []K
	if is != nil {
		keep = all(is)
	}
	if was != nil {
		for _, n := range all(was) {
			if !slices.Contains(keep, n) {
				p.Release(n, owner(was))
			}
		}
	}
	for _, n := range keep {
		p.Stored(n, owner(is))
	}
}

func owner(o *core.Service) string { return o.Namespace + "/" + o.Name }

func clusterIPs(o *core.Service) (out []netip.Addr) {
	for _, text := range o.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil {
			out = append(out, ip)
		}
	}
	return out
}

func (s *Services) nodePorts(o *core.Service) (out []int) {
	for _, p := range append(portNumbers(o), int(o.Spec.HealthCheckNodePort)) {
		if p >= s.cfg.FirstPort && p <= s.cfg.LastPort {
			out = append(out, p)
		}
	}
	return out
}

func portNumbers(o *core.Service) []int {
	var out []int
	for _, p := range o.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, int(p.NodePort))
		}
	}
	return out
}

// Complete fills in families, addresses and ports of o; old is nil on create. It
// takes what it fills in, unless dry.
func (s *Services) Complete(o, old *core.Service, dry bool) error {
	normalizeIPs(o, old)
	if old != nil {
		keepAllocated(o, old)
		dropUnneeded(o, old)
	}
	if err := s.completeFamilies(o, old); err != nil {
		return err
	}
	if err := s.completeIP(o, dry); err != nil {
		return err
	}
	if err := s.completePorts(o, dry); err != nil {
		return err
	}
	return s.completeHealthPort(o, dry)
}

func invalid(o *core.Service, errs ...*field.Error) error {
	return apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, o.Name, errs)
}

func (s *Services) completeFamilies(o, old *core.Service) error {
	if o.Spec.Type == core.ServiceTypeExternalName {
		return nil
	}
	families := field.NewPath("spec", "ipFamilies")
	for i, f := range o.Spec.IPFamilies {
		if f != s.family && !(headless(o) && len(o.Spec.Selector) == 0) {
			return invalid(o, field.Invalid(families.Index(i), f, "not configured on this cluster"))
		}
	}
	if headless(o) && len(o.Spec.Selector) == 0 {
		// Nothing is known of what is behind it: upstream shows both families.
		if o.Spec.IPFamilyPolicy == nil {
			o.Spec.IPFamilyPolicy = new(core.IPFamilyPolicyRequireDualStack)
		}
		if len(o.Spec.IPFamilies) == 0 {
			o.Spec.IPFamilies = []core.IPFamily{s.family}
		}
		if *o.Spec.IPFamilyPolicy != core.IPFamilyPolicySingleStack && len(o.Spec.IPFamilies) == 1 {
			o.Spec.IPFamilies = append(o.Spec.IPFamilies, otherFamily(o.Spec.IPFamilies[0]))
		}
		return nil
	}
	if o.Spec.IPFamilyPolicy == nil {
		o.Spec.IPFamilyPolicy = new(core.IPFamilyPolicySingleStack)
	}
	if *o.Spec.IPFamilyPolicy == core.IPFamilyPolicyRequireDualStack && (old == nil || old.Spec.IPFamilyPolicy == nil || *old.Spec.IPFamilyPolicy != core.IPFamilyPolicyRequireDualStack) {
		return invalid(o, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), *o.Spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	if len(o.Spec.IPFamilies) == 0 {
		o.Spec.IPFamilies = []core.IPFamily{s.family}
	}
	return nil
}

func otherFamily(f core.IPFamily) core.IPFamily {
	if f == core.IPv4Protocol {
		return core.IPv6Protocol
	}
	return core.IPv4Protocol
}

func (s *Services) completeIP(o *core.Service, dry bool) error {
	if !needsIP(o) {
		return nil
	}
	if o.Spec.ClusterIP == "" {
		ip, err := s.nextIP(owner(o), dry)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: %w", err))
		}
		o.Spec.ClusterIP = ip.String()
		o.Spec.ClusterIPs = []string{o.Spec.ClusterIP}
		return nil
	}
	path := field.NewPath("spec", "clusterIPs")
	for _, text := range o.Spec.ClusterIPs {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return nil // validation says so, with the better words
		}
		if s.ips.Has(ip, owner(o)) {
			continue // wherever it came from
		}
		if !s.inRange(ip) {
			return invalid(o, field.Invalid(path, o.Spec.ClusterIPs, fmt.Sprintf(
				"failed to allocate IP %s: the provided IP (%s) is not in the valid range. The range of valid IPs is %s", ip, ip, s.rangesText())))
		}
		if err := take(s.ips, ip, o, dry); err != nil {
			return invalid(o, field.Invalid(path, o.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: provided IP is already allocated", ip)))
		}
	}
	return nil
}

func take[K comparable](p *Pool[K], n K, o *core.Service, dry bool) error {
	if dry {
		return p.Check(n, owner(o))
	}
	return p.Reserve(n, owner(o))
}

func (s *Services) completePorts(o *core.Service, dry bool) error {
	if !mayHavePorts(o) {
		return nil
	}
	// First what is asked for, so that a free choice cannot take it away.
	for i := range o.Spec.Ports {
		if p := o.Spec.Ports[i].NodePort; p != 0 {
			if err := s.takePort(o, p, field.NewPath("spec", "ports").Index(i).Child("nodePort"), dry); err != nil {
				return err
			}
		}
	}
	if !needsPorts(o) {
		return nil
	}
	for i := range o.Spec.Ports {
		p := &o.Spec.Ports[i]
		if p.NodePort != 0 {
			continue
		}
		if twin := twinPort(o.Spec.Ports[:i], *p); twin != 0 {
			p.NodePort = twin
			continue
		}
		n, err := s.ports.Next(owner(o), s.portSpan(), dry)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
		}
		p.NodePort = int32(n)
	}
	return nil
}

// twinPort: TCP and UDP of one port number share a node port, as upstream does.
func twinPort(before []core.ServicePort, p core.ServicePort) int32 {
	for _, b := range before {
		if b.Port == p.Port && b.Protocol != p.Protocol {
			taken := slices.ContainsFunc(before, func(x core.ServicePort) bool { return x.NodePort == b.NodePort && x.Protocol == p.Protocol })
			if !taken {
				return b.NodePort
			}
		}
	}
	return 0
}

func (s *Services) takePort(o *core.Service, port int32, path *field.Path, dry bool) error {
	if int(port) < s.cfg.FirstPort || int(port) > s.cfg.LastPort {
		return invalid(o, field.Invalid(path, port, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", s.cfg.FirstPort, s.cfg.LastPort)))
	}
	if err := take(s.ports, int(port), o, dry); err != nil {
		return invalid(o, field.Invalid(path, port, "provided port is already allocated"))
	}
	return nil
}

func (s *Services) completeHealthPort(o *core.Service, dry bool) error {
	if !needsHealthPort(o) {
		return nil
	}
	if p := o.Spec.HealthCheckNodePort; p != 0 {
		return s.takePort(o, p, field.NewPath("spec", "healthCheckNodePort"), dry)
	}
	n, err := s.ports.Next(owner(o), s.portSpan(), dry)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a HealthCheck NodePort: %w", err))
	}
	o.Spec.HealthCheckNodePort = int32(n)
	return nil
}
