// Package server is the control plane as a library: it puts the parts below it
// together, starts them in order and stops them in the reverse one. It decides
// nothing itself. The store is opened by the caller; scheduler and controllers
// come in as Parts.
//
// Start reading at New and parts.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orch/api"
	"orch/api/calls"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/datastore"
	"orch/server/access"
	"orch/server/access/upkeep"
	"orch/server/admission"
	"orch/server/admission/policy"
	"orch/server/admission/quota"
	"orch/server/aggregator"
	"orch/server/allocate"
	"orch/server/audit"
	"orch/server/backend"
	"orch/server/bootstrap"
	"orch/server/crd"
	"orch/server/encryption"
	"orch/server/flow"
	"orch/server/join"
	"orch/server/pki"
	"orch/server/registry"
	"orch/server/rest"
	"orch/server/rest/openapi"
	"orch/server/tunnel"
	"orch/server/webhook"
)

// loopback is whom the server's own parts act as where they need every right.
var loopback = registry.User{Name: api.ServerUser, Groups: []string{api.GroupMasters, api.GroupAuthenticated}}

// Server is a control plane. Make it with New, add Parts, then Run it once.
type Server struct {
	cfg        *resolved
	log        *slog.Logger
	listener   net.Listener
	pki        *pki.PKI
	registry   *registry.Registry
	access     *access.Access
	admit      *admission.List
	webhooks   *webhook.Client
	boot       *bootstrap.Bootstrap
	tunnel     *tunnel.Tunnel
	backends   *backend.Backends
	aggregator *aggregator.Aggregator
	rest       *rest.Server
	flow       *flow.Control
	metrics    *prometheus.Registry
	slis       slis
	crd        *crd.Controller
	upkeep     *reconcile.Loop
	loops      []*reconcile.Loop // whose numbers /metrics shows
	more       []Part

	// stored asks the store whether it answers.
	stored func(context.Context) error

	calls      *calls.Calls // of other servers
	encryption *encryption.Encryption
	audit      *audit.Auditor // nil without a policy
	// serving closes when the control plane itself is up, ready when the added parts are too.
	serving, ready chan struct{}
}

// New checks cfg, makes certificates, takes the port and puts the parts together.
// Nothing runs yet, and nothing is read from the store. Run closes the port.
func New(cfg Config, store datastore.Store, log *slog.Logger) (*Server, error) {
	r, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.Default()
	}
	s := &Server{cfg: r, log: log, serving: make(chan struct{}), ready: make(chan struct{}), metrics: newMetrics(), slis: newSLIs(), calls: calls.New()}
	if s.pki, err = pki.New(s.pkiConfig()); err != nil {
		return nil, err
	}
	s.listener, err = net.Listen("tcp", net.JoinHostPort(r.BindAddress, strconv.Itoa(r.HTTPSPort)))
	if err != nil {
		return nil, fmt.Errorf("taking the API's port: %w; is another server running, or choose --https-listen-port", err)
	}
	if err := s.assemble(store); err != nil {
		return nil, errors.Join(err, s.listener.Close())
	}
	return s, nil
}

func (s *Server) pkiConfig() pki.Config {
	c := pki.Config{
		Dir: filepath.Join(s.cfg.DataDir, "server"), Hostname: s.cfg.NodeName, SANs: s.cfg.TLSSAN,
		ClusterDomain: s.cfg.ClusterDomain, Token: s.cfg.Token, Log: s.log,
	}
	if host, err := os.Hostname(); err == nil {
		c.SANs = append(append([]string{}, c.SANs...), host)
	}
	for _, ip := range append(s.cfg.nodeIPs, s.cfg.advertise, s.cfg.bind, s.cfg.serviceCIDR.Addr().Next()) {
		c.IPs = append(c.IPs, net.IP(ip.AsSlice()))
	}
	return c
}

func sealedSecrets(store datastore.Store) func() (int, error) {
	return func() (int, error) {
		keys, err := registry.Sealed(context.Background(), store, api.Secrets.Facts, 1)
		return len(keys), err
	}
}

// resetSecrets is nil unless the administrator has given up what cannot be read.
func (s *Server) resetSecrets(store datastore.Store) func() error {
	if !s.cfg.ResetSecretsEncryption {
		return nil
	}
	return func() error {
		n, err := registry.GiveUpSealed(context.Background(), store, api.Secrets.Facts)
		if err == nil {
			s.log.Warn("the key of encrypted Secrets is lost: they were deleted, and a new key is made", "deleted", n)
		}
		return err
	}
}

// assemble makes the parts, each from those before it.
func (s *Server) assemble(store datastore.Store) (err error) {
	if s.encryption, err = encryption.New(encryption.Config{
		Dir: filepath.Join(s.cfg.DataDir, "server", "cred"), Off: s.cfg.NoSecretsEncryption, Provider: s.cfg.SecretsProvider,
		File: s.cfg.EncryptionConfig, Sealed: sealedSecrets(store), Reset: s.resetSecrets(store), Log: s.log,
	}); err != nil {
		return err
	}
	if s.registry, err = registry.New(registry.Config{Store: store, Resources: registry.BuiltIn(), Sealer: s.encryption.Sealer, Log: s.log}); err != nil {
		return err
	}
	s.stored = storeAnswers(store)
	s.registry.SetRead(api.ComponentStatuses.Facts, s.componentStatuses)
	self := s.registry.Client(loopback)
	if s.audit, err = audit.New(s.cfg.Audit, s.calls, s.log); err != nil {
		return err
	}
	s.access, err = access.New(access.Config{Keys: s.pki, Cache: self, ClusterDomain: s.cfg.ClusterDomain, URL: s.advertised(), Audited: s.audit != nil, Options: s.cfg.Access,
		Asked: rest.Asked, Calls: s.calls, Log: s.log})
	if err != nil {
		return err
	}
	s.access.Install(s.registry)
	services, err := allocate.New(allocate.Config{ServiceCIDR: s.cfg.serviceCIDR, FirstPort: s.cfg.firstPort, LastPort: s.cfg.lastPort})
	if err != nil {
		return err
	}
	s.webhooks = webhook.New(webhook.Config{Cache: self, Calls: s.calls})
	s.admit, err = admission.New(admission.Config{Cache: self, Access: s.access, Services: services, Registry: s.registry, Webhooks: s.webhooks,
		Enable: s.cfg.EnableAdmissionPlugins, Disable: s.cfg.DisableAdmissionPlugins, ConfigFile: s.cfg.AdmissionConfig, GPUTaint: s.cfg.GPUTaint})
	if err != nil {
		return err
	}
	s.registry.SetAdmission(s.admit)
	s.boot, err = bootstrap.New(bootstrap.Config{
		Client: s.registry.OwnClient(loopback), Address: s.cfg.advertise, Port: int32(s.Port()), ServiceCIDR: s.cfg.serviceCIDR, ServiceIP: services.FirstIP(),
		DNS: s.cfg.dns, NoDNS: s.cfg.without("coredns"), ServerCA: s.pki.ServerCA(), ClientCA: s.pki.ClientCA(), FrontProxyCA: s.pki.FrontProxyCA(), FrontProxy: pki.AuthProxyName,
	})
	if err != nil {
		return err
	}
	if s.tunnel, err = tunnel.New(tunnel.Config{Node: s.nodeOf, Log: s.log}); err != nil {
		return err
	}
	s.flow = flow.New(flow.Config{})
	managing := s.registry.ClientAs(loopback, "kube-controller-manager") // whose work this is, elsewhere
	specs := append(upkeep.Specs(upkeep.Deps{Client: managing, Access: s.access, PKI: s.pki, Now: time.Now}), policy.Spec(managing, s.registry), quota.Spec(quota.Deps{Client: managing, Now: time.Now, Kinds: s.Kinds, Changed: s.KindsChanged}), s.flow.Spec(self))
	if s.upkeep, err = reconcile.New(self, specs...); err != nil {
		return err
	}
	s.Measure(s.upkeep)
	s.backends, err = backend.New(backend.Config{Cache: self, Nodes: s.tunnel, Own: s.cfg.NodeName, Self: strings.TrimPrefix(s.url(), "https://")})
	if err != nil {
		return err
	}
	s.aggregator, err = aggregator.New(aggregator.Config{Client: self, Backends: s.backends, Certificate: s.pki.FrontProxy, Kinds: s.Kinds, Changed: s.KindsChanged, Log: s.log})
	if err != nil {
		return err
	}
	s.Measure(s.aggregator.Loop())
	if err := s.assembleREST(self); err != nil {
		return err
	}
	s.crd, err = crd.New(crd.Config{Registry: s.registry, Client: self, Log: s.log, Webhooks: s.webhooks, Publish: func(name string, d crd.Document) {
		s.rest.Documents().Set(name, openapi.Document(d))
	}})
	if err != nil {
		return err
	}
	s.Measure(s.crd.Loop())
	s.metrics.MustRegister(s.encryption.Collectors()...)
	s.metrics.MustRegister(s.admit.Collectors()...)
	s.metrics.MustRegister(s.access.Collectors()...)
	s.metrics.MustRegister(newCollector(s, store), s.calls, s.slis.now, s.slis.sum, s.rest.Collector(), s.flow.Collector(), s.crd.Collector(), s.aggregator.Collector())
	if s.audit != nil {
		s.metrics.MustRegister(s.audit.Collector())
	}
	return nil
}

func (s *Server) assembleREST(self *client.Client) error {
	own := s.cfg.NodeName
	if s.cfg.DisableAgent {
		own = ""
	}
	joins, err := join.New(join.Config{
		Authority: s.pki, Accepts: s.joinsWith, Node: s.nodeOf, Client: self, Log: s.log, Own: own,
		Cluster: join.Cluster{
			ClusterCIDR: s.cfg.clusterCIDR.String(), ServiceCIDR: s.cfg.serviceCIDR.String(), ClusterDNS: s.cfg.dns.String(),
			ClusterDomain: s.cfg.ClusterDomain, NodePortRange: fmt.Sprintf("%d-%d", s.cfg.firstPort, s.cfg.lastPort),
		},
	})
	if err != nil {
		return err
	}
	s.rest, err = rest.New(rest.Config{
		Registry: s.registry, Authenticator: s.access, Authorizer: s.access, Nodes: s.tunnel, Backends: s.backends, Aggregator: s.aggregator,
		Audit: s.audit,
		Handlers: map[string]http.Handler{
			api.PathCACerts: http.HandlerFunc(joins.CACerts), api.PathJoin: joins, api.PathTunnel: s.tunnel,
		},
		Protected: s.pages(),
		Checks:    s.checks(), Checked: s.slis.checked,
		Flow:     s.flow,
		Listener: s.listener, TLS: s.pki.TLSConfig(),
		Version: s.cfg.Version, Commit: s.cfg.Commit, BuildDate: s.cfg.BuildDate, Log: s.log,
	})
	return err
}

// joinsWith takes the server's own token and bootstrap tokens.
func (s *Server) joinsWith(user, secret string) bool {
	if s.pki.Token().Accepts(user, secret) {
		return true
	}
	id, rest, ok := strings.Cut(secret, ".")
	return ok && s.access.JoinsWith(id, rest)
}

// nodeOf tells whose tunnel a request wants to be.
func (s *Server) nodeOf(r *http.Request) (string, error) {
	u, _, err := s.access.Authenticate(r)
	if err != nil {
		return "", err
	}
	node, ok := access.NodeOf(u)
	if !ok {
		return "", fmt.Errorf("user %q is no node", u.Name)
	}
	return node, nil
}

// Add puts parts behind those of the server: scheduler, controllers. Call it
// before Run.
func (s *Server) Add(p ...Part) { s.more = append(s.more, p...) }

// Measure shows the numbers of further controllers on /metrics. Call it before Run.
func (s *Server) Measure(l *reconcile.Loop) { s.loops = append(s.loops, l) }

// Run starts the parts in order and serves until ctx ends or a part fails.
func (s *Server) Run(ctx context.Context) error {
	defer s.listener.Close()
	defer s.webhooks.Close()
	if err := s.writeKubeconfig(); err != nil {
		return err
	}
	return runInOrder(ctx, append(s.parts(), s.more...), func() { close(s.ready) })
}

// parts is the order of the start; the stop is its mirror.
func (s *Server) parts() []Part {
	return []Part{
		{Name: "audit", Run: s.runAudit},
		{Name: "registry", Run: s.registry.Run, Ready: s.registry.Ready()},
		{Name: "encryption", Run: func(ctx context.Context) error { return s.encryption.Run(ctx, s.registry) }},
		{Name: "certificates", Run: s.pki.Run},
		{Name: "access", Run: s.access.Run, Ready: s.access.Ready()},
		{Name: "admission", Run: s.admit.Run, Ready: s.admit.Ready()},
		{Name: "system objects", Run: s.boot.Run, Ready: s.boot.Ready()},
		{Name: "custom resources", Run: s.crd.Run, Ready: s.crd.Ready()},
		{Name: "tunnel", Run: s.tunnel.Run},
		{Name: "API", Run: s.rest.Run},
		{Name: "aggregation", Run: s.aggregator.Run},
		{Name: "upkeep", Run: s.upkeep.Run, Ready: s.flow.Synced()},
		{Name: "legacy tokens", Run: s.trackLegacy},
		{Name: "readiness", Run: s.serve, Ready: s.serving},
	}
}

// trackLegacy notes which tokens without an end are in use.
func (s *Server) trackLegacy(ctx context.Context) error {
	return upkeep.TrackLegacy(ctx, upkeep.Deps{Client: s.registry.Client(loopback), Access: s.access, Now: time.Now}, s.log)
}

// runAudit lasts beyond everything that is recorded.
func (s *Server) runAudit(ctx context.Context) error {
	if s.audit == nil {
		<-ctx.Done()
		return nil
	}
	return s.audit.Run(ctx)
}

// serve marks the place in the order of parts from which /readyz says yes. What
// comes after, such as the local node, has conditions of its own to show.
func (s *Server) serve(ctx context.Context) error {
	close(s.serving)
	for _, c := range s.checks() { // /metrics/slis says something before the first probe comes
		s.slis.checked("healthz", c.Name, c.Check(ctx))
	}
	<-ctx.Done()
	return nil
}

// Ready closes once every part is ready, the added ones included.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Client acts in this process as a user, without authorization.
func (s *Server) Client(user string, groups ...string) *client.Client {
	return s.registry.Client(registry.User{Name: user, Groups: append(groups, api.GroupAuthenticated)})
}

// Tunnel reaches the nodes; the local node registers its handler there.
func (s *Server) Tunnel() *tunnel.Tunnel { return s.tunnel }

// Access decides about requests to the node's own HTTPS endpoints too.
func (s *Server) Access() *access.Access { return s.access }

// PKI has the authorities, for the local node's certificates.
func (s *Server) PKI() *pki.PKI { return s.pki }

// Port is the one that the API listens on.
func (s *Server) Port() int { return s.listener.Addr().(*net.TCPAddr).Port }

// Resolved is the configuration with everything that was left open filled in.
func (s *Server) Resolved() Config {
	c := s.cfg.Config
	c.AdvertiseAddress = s.cfg.advertise.String()
	c.NodeIP = nil
	for _, ip := range s.cfg.nodeIPs {
		c.NodeIP = append(c.NodeIP, ip.String())
	}
	return c
}

// url is how this host's own clients reach the API.
func (s *Server) url() string {
	host := s.cfg.BindAddress
	switch {
	case s.cfg.bind.IsUnspecified() && s.cfg.bind.Is6():
		host = "::1"
	case s.cfg.bind.IsUnspecified():
		host = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(s.Port()))
}

// advertised is the address of the API as pods and other hosts see it.
func (s *Server) advertised() string {
	return "https://" + net.JoinHostPort(s.cfg.advertise.String(), strconv.Itoa(s.Port()))
}

// KubeconfigPath is where Run writes the administrator's kubeconfig; empty if nowhere.
func (s *Server) KubeconfigPath() string { return s.cfg.WriteKubeconfig }

// Kubeconfig is its content.
func (s *Server) Kubeconfig() ([]byte, error) { return s.pki.Kubeconfig(s.url()) }

func (s *Server) writeKubeconfig() error {
	if s.cfg.WriteKubeconfig == "" {
		return nil
	}
	b, err := s.Kubeconfig()
	if err != nil {
		return err
	}
	path, group := s.cfg.WriteKubeconfig, s.cfg.kubeconfigGroup
	if old, err := os.ReadFile(path); err != nil || string(old) != string(b) {
		if err := pki.WriteFile(path, b, 0o600); err != nil {
			return err
		}
	}
	if group >= 0 {
		if err := os.Chown(path, -1, group); err != nil {
			return fmt.Errorf("giving %s to its group: %w", path, err)
		}
	}
	return os.Chmod(path, s.cfg.kubeconfigMode) // after its group: never open to another one
}
