// Package admission decides about writes beyond the object itself: what depends
// on other objects, on who writes, or on what is shared. It is one ordered list of
// steps, under the names that upstream gives its plugins; each step says for which
// kinds it stands. It stores nothing. What a single object must look like is
// server/validate's.
//
// Start reading at steps: the list. A mutating step completes the object, a
// validating step sees it as it will be stored.
package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"orch/api"
	"orch/api/client"
	"orch/server/access"
	"orch/server/admission/policy"
	"orch/server/admission/quota"
	"orch/server/admission/settings"
	"orch/server/admission/webhooks"
	"orch/server/allocate"
	"orch/server/registry"
	"orch/server/webhook"
)

// Config is not changed after New.
type Config struct {
	// Cache is the registry's.
	Cache client.Cache
	// Access answers what a step must know of the user's rights.
	Access *access.Access
	// Services hands out addresses and node ports.
	Services *allocate.Services
	// Registry converts objects for webhooks; Webhooks calls these.
	Registry *registry.Registry
	Webhooks *webhook.Client
	// Enable names steps that are off by default, Disable steps to leave out.
	Enable, Disable []string
	// GPUTaint: nodes with GPUs are tainted, so pods that ask for some are let onto them.
	GPUTaint bool
	// ConfigFile is an AdmissionConfiguration; empty for none.
	ConfigFile string
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// step is one plugin. Kinds nil stands for all kinds. Admit may change the
// object, Validate may not; either may be nil.
type step struct {
	name  string
	kinds []*api.Facts
	// optional: off unless switched on. internal: the server's own, cannot be switched off.
	optional, internal bool
	admit              func(context.Context, *registry.Attributes) error
	validate           func(context.Context, *registry.Attributes) error
	// defined marks steps that do what users define: not for the server's own writes.
	defined bool
	// users marks the last step that does to objects what users define: behind it the
	// mutating steps begin again, once, where that was asked for.
	users bool
	times *times
}

// List is the admission of the server.
type List struct {
	cfg      Config
	cache    client.Cache
	accounts *signal
	security *podSecurity
	quota    *quota.Guard
	events   eventLimits
	webhooks *webhooks.Webhooks
	policies *policy.Policies
	ready    chan struct{}

	// byKind has, in order, the steps of each built-in kind; others has those for all.
	byKind map[*api.Facts][]step
	others []step
	// timed has the times of every step in order, overall those of all together.
	timed   []timed
	overall *times
}

var _ registry.Admission = (*List)(nil)

// New checks cfg.
func New(cfg Config) (*List, error) {
	if cfg.Cache == nil || cfg.Access == nil || cfg.Services == nil || cfg.Registry == nil || cfg.Webhooks == nil {
		return nil, errors.New("setting up admission: Cache, Access, Services, Registry and Webhooks are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	set, err := settings.Load(cfg.ConfigFile)
	if err != nil {
		return nil, fmt.Errorf("setting up admission: %w", err)
	}
	if len(set.Events) == 0 && slices.Contains(cfg.Enable, eventRateLimit) {
		return nil, fmt.Errorf("setting up admission: %s needs limits: give them in --admission-control-config-file", eventRateLimit)
	}
	security, err := newPodSecurity(set.Security)
	if err != nil {
		return nil, err
	}
	l := &List{
		cfg: cfg, cache: cfg.Cache, accounts: newSignal(), security: security,
		quota: quota.NewGuard(cfg.Cache, cfg.Now, set.Limited), events: newEventLimits(set.Events, cfg.Now), ready: make(chan struct{}), overall: newTimes(),
		webhooks: webhooks.New(webhooks.Config{Cache: cfg.Cache, Registry: cfg.Registry, Client: cfg.Webhooks, Authorizer: rights{cfg.Access}, Mutating: set.Mutating, Validating: set.Validating}),
		policies: policy.New(policy.Config{Cache: cfg.Cache, Registry: cfg.Registry, Authorizer: rights{cfg.Access}}),
		byKind:   map[*api.Facts][]step{},
	}
	on := cfg.Enable
	if cfg.GPUTaint && !slices.Contains(cfg.Disable, tolerating) {
		on = append(slices.Clone(on), tolerating)
	}
	steps, err := chosen(l.steps(), on, cfg.Disable)
	if err != nil {
		return nil, fmt.Errorf("setting up admission: %w", err)
	}
	for _, s := range steps {
		s.times = newTimes()
		l.timed = append(l.timed, timed{s.name, s.times})
		if s.kinds == nil {
			l.others = append(l.others, s)
		}
		for _, f := range api.All() {
			if s.kinds == nil || contains(s.kinds, f) {
				l.byKind[f] = append(l.byKind[f], s)
			}
		}
	}
	return l, nil
}

func contains(kinds []*api.Facts, f *api.Facts) bool {
	for _, k := range kinds {
		if k == f {
			return true
		}
	}
	return false
}

// eventRateLimit is upstream's name of the step.
const eventRateLimit = "EventRateLimit"

// steps is the order of admission.
func (l *List) steps() []step {
	var (
		pods     = []*api.Facts{api.Pods.Facts}
		nodes    = []*api.Facts{api.Nodes.Facts}
		services = []*api.Facts{api.Services.Facts}
		claims   = []*api.Facts{api.PersistentVolumeClaims.Facts}
		volumes  = []*api.Facts{api.PersistentVolumeClaims.Facts, api.PersistentVolumes.Facts, api.VolumeAttributesClasses.Facts}
		requests = []*api.Facts{api.CertificateSigningRequests.Facts}
		rbac     = []*api.Facts{api.Roles.Facts, api.ClusterRoles.Facts, api.RoleBindings.Facts, api.ClusterRoleBindings.Facts}
		byNodes  = []*api.Facts{
			api.Pods.Facts, api.Nodes.Facts, api.ServiceAccounts.Facts, api.Leases.Facts, api.CSINodes.Facts,
			api.PersistentVolumeClaims.Facts, api.CertificateSigningRequests.Facts, api.ResourceSlices.Facts, api.PodCertificateRequests.Facts, api.ResourceClaims.Facts,
		}
		devices = []*api.Facts{api.ResourceClaims.Facts, api.ResourceClaimTemplates.Facts, api.ResourceSlices.Facts, api.DeviceTaintRules.Facts}
	)
	return []step{
		{name: "NamespaceLifecycle", admit: l.namespaceLifecycle},
		{name: "RBACEscalation", internal: true, kinds: rbac, validate: l.rbacEscalation},
		{name: "LimitRanger", kinds: []*api.Facts{api.Pods.Facts, api.PersistentVolumeClaims.Facts}, admit: l.limitDefaults, validate: l.limitCheck},
		{name: "AlwaysPullImages", optional: true, kinds: pods, admit: l.alwaysPull, validate: l.alwaysPullCheck},
		{name: "ServiceAccount", kinds: pods, admit: l.serviceAccount, validate: l.serviceAccountCheck},
		{name: "NodeRestriction", kinds: byNodes, validate: l.nodeRestriction},
		{name: "TaintNodesByCondition", kinds: nodes, admit: l.taintNewNode},
		{name: "PodSecurity", kinds: l.securityKinds(), validate: l.podSecurity},
		{name: "PodTopologyLabels", kinds: []*api.Facts{api.Pods.Facts, api.Bindings.Facts}, admit: l.podTopology},
		{name: "Priority", kinds: []*api.Facts{api.Pods.Facts, api.PriorityClasses.Facts}, admit: l.priority, validate: l.priorityClass},
		{name: "DefaultTolerationSeconds", kinds: pods, admit: l.defaultTolerations},
		{name: "StorageObjectInUseProtection", kinds: volumes, admit: l.inUseProtection},
		{name: "GPUShares", kinds: pods, admit: l.gpuShares, validate: l.gpuSharesCheck},
		{name: tolerating, optional: true, kinds: pods, admit: l.tolerateExtended},
		{name: "OwnerReferencesPermissionEnforcement", optional: true, validate: l.ownerPermission},
		{name: "DefaultStorageClass", kinds: claims, admit: l.defaultStorageClass},
		{name: "PersistentVolumeClaimResize", kinds: claims, validate: l.claimResize},
		{name: "PodResizeValidator", kinds: pods, validate: l.podResize},
		{name: "RuntimeClass", kinds: pods, admit: l.runtimeClass, validate: l.runtimeClassCheck},
		{name: "CertificateRequester", internal: true, kinds: requests, admit: l.certificateRequester},
		{name: "CertificateApproval", kinds: requests, validate: l.certificateApproval},
		{name: "CertificateSigning", kinds: requests, validate: l.certificateSigning},
		{name: "CertificateSubjectRestriction", kinds: requests, validate: l.certificateSubject},
		{name: "ClusterTrustBundleAttest", kinds: []*api.Facts{api.ClusterTrustBundles.Facts}, validate: l.attest},
		{name: "DeviceAdminAccess", internal: true, kinds: devices, admit: l.deviceTaints, validate: l.deviceAccess},
		{name: "DeviceStatusAccess", internal: true, kinds: []*api.Facts{api.ResourceClaims.Facts}, validate: l.deviceStatus},
		{name: "DefaultIngressClass", kinds: []*api.Facts{api.Ingresses.Facts}, admit: l.defaultIngressClass},
		{name: eventRateLimit, optional: true, kinds: []*api.Facts{api.Events.Facts, api.EventsV1.Facts}, validate: l.eventRate},
		{name: "DenyServiceExternalIPs", optional: true, kinds: services, validate: l.denyExternalIPs},
		// What users define comes here, after everything of ours that completes an
		// object; validating ones before the two that take something.
		{name: policy.MutatingStep, admit: l.policies.Admit, defined: true},
		{name: webhooks.Step, admit: l.webhooks.Admit, defined: true, users: true},
		{name: policy.Step, validate: l.policies.Validate, defined: true},
		{name: "ValidatingAdmissionWebhook", validate: l.webhooks.Validate, defined: true},
		{name: "ServiceAllocation", internal: true, kinds: services, admit: l.serviceAllocation},
		{name: "ResourceQuota", validate: l.resourceQuota},
	}
}

// Run follows what the steps wait for until ctx ends.
func (l *List) Run(ctx context.Context) error {
	err := l.cache.Subscribe(ctx, api.ServiceAccounts.Facts, func(client.Change) { l.accounts.raise() })
	if err == nil {
		err = l.cache.Subscribe(ctx, api.Services.Facts, l.cfg.Services.Apply)
	}
	if err == nil {
		err = l.cache.Subscribe(ctx, api.ServiceCIDRs.Facts, l.cfg.Services.ApplyRange)
	}
	if err == nil {
		err = l.cache.Subscribe(ctx, api.IPAddresses.Facts, l.cfg.Services.ApplyReserved)
	}
	if err == nil {
		err = l.webhooks.Follow(ctx)
	}
	if err == nil {
		err = l.policies.Follow(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	close(l.ready)
	<-ctx.Done()
	return nil
}

// Ready closes once Services that are stored have their addresses back.
func (l *List) Ready() <-chan struct{} { return l.ready }

// Admit runs the mutating steps of the request's kind in order. The steps up to the
// users' last one run a second time when one of the users' asks for it, as upstream.
func (l *List) Admit(ctx context.Context, a *registry.Attributes) (err error) {
	steps, began := l.of(a), time.Now()
	last := began
	defer func() { l.overall.observe(admitting, a.Operation, err, time.Since(began)) }()
	for i := 0; i < len(steps); i++ {
		if steps[i].admit == nil || steps[i].defined && a.Own {
			continue
		}
		err = steps[i].admit(ctx, a)
		last = steps[i].took(admitting, a.Operation, err, last)
		if err != nil {
			return err
		}
		if steps[i].users && a.Mutation.Again && !a.Mutation.Second {
			a.Mutation.Second = true
			i = -1
		}
	}
	return nil
}

// Validate runs the validating steps of the request's kind in order.
func (l *List) Validate(ctx context.Context, a *registry.Attributes) (err error) {
	began := time.Now()
	last := began
	defer func() { l.overall.observe(validating, a.Operation, err, time.Since(began)) }()
	for _, s := range l.of(a) {
		if s.validate == nil || s.defined && a.Own {
			continue
		}
		err = s.validate(ctx, a)
		last = s.took(validating, a.Operation, err, last)
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *List) of(a *registry.Attributes) []step {
	if s, ok := l.byKind[a.Resource.Facts]; ok {
		return s
	}
	return l.others
}
