package validate

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificates "k8s.io/api/certificates/v1"
	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	node "k8s.io/api/node/v1"
	policy "k8s.io/api/policy/v1"
	scheduling "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/podspec"
	"orch/server/validate/rule"
)

// PodDisruptionBudget wants one bound.
func PodDisruptionBudget(o *policy.PodDisruptionBudget) Errors {
	var e rule.Errors
	s := &o.Spec
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		e.Invalid(specPath, *s, "minAvailable and maxUnavailable cannot be both set")
	}
	numberOrPercent(&e, s.MinAvailable, specPath.Child("minAvailable"))
	atMostAll(&e, s.MinAvailable, specPath.Child("minAvailable"))
	numberOrPercent(&e, s.MaxUnavailable, specPath.Child("maxUnavailable"))
	atMostAll(&e, s.MaxUnavailable, specPath.Child("maxUnavailable"))
	e.Selector(specPath.Child("selector"), s.Selector)
	if s.UnhealthyPodEvictionPolicy != nil {
		rule.Among(&e, specPath.Child("unhealthyPodEvictionPolicy"), *s.UnhealthyPodEvictionPolicy, policy.IfHealthyBudget, policy.AlwaysAllow)
	}
	return e.List()
}
func PodDisruptionBudgetUpdate(o, _ *policy.PodDisruptionBudget) Errors {
	return PodDisruptionBudget(o)
}

// PodDisruptionBudgetStatus checks the counts.
func PodDisruptionBudgetStatus(o, _ *policy.PodDisruptionBudget) Errors {
	var e rule.Errors
	for _, c := range []count{{"podDisruptionsAllowed", o.Status.DisruptionsAllowed}, {"currentHealthy", o.Status.CurrentHealthy},
		{"desiredHealthy", o.Status.DesiredHealthy}, {"expectedPods", o.Status.ExpectedPods}} {
		e.NotNegative(statusPath.Child(c.name), int64(c.value))
	}
	return e.List()
}

// Lease checks times and strategy.
func Lease(o *coordination.Lease) Errors {
	var e rule.Errors
	s := &o.Spec
	if d := s.LeaseDurationSeconds; d != nil && *d <= 0 {
		e.Invalid(specPath.Child("leaseDurationSeconds"), *d, "must be greater than 0")
	}
	if n := s.LeaseTransitions; n != nil && *n < 0 {
		e.Invalid(specPath.Child("leaseTransitions"), *n, rule.NotNegative)
	}
	if s.Strategy != nil && !strings.Contains(string(*s.Strategy), "/") {
		rule.Among(&e, specPath.Child("strategy"), *s.Strategy, coordination.OldestEmulationVersion)
	}
	if s.PreferredHolder != nil && *s.PreferredHolder != "" && (s.Strategy == nil || *s.Strategy == "") {
		e.Forbidden(specPath.Child("preferredHolder"), "may only be specified if `strategy` is defined")
	}
	return e.List()
}
func LeaseUpdate(o, _ *coordination.Lease) Errors { return Lease(o) }

// Event checks that the event lies where its object does.
func Event(o *core.Event) Errors {
	var e rule.Errors
	switch at, of := field.NewPath("involvedObject", "namespace"), o.InvolvedObject.Namespace; {
	case of == "":
		if o.Namespace != "" && o.Namespace != core.NamespaceDefault && o.Namespace != "kube-system" {
			e.Invalid(at, of, "does not match event.namespace")
		}
	case of != o.Namespace:
		e.Invalid(at, of, "does not match event.namespace")
	}
	e.DNSSubdomain(metaPath.Child("namespace"), o.Namespace)
	return e.List()
}
func EventUpdate(o, _ *core.Event) Errors { return Event(o) }

const (
	longestController = 128
	longestNote       = 1024
)

// EventV1 checks an event that comes by its own group, which has more rules.
func EventV1(o *core.Event) Errors {
	var e rule.Errors
	e.Join(Event(o))
	if o.EventTime.IsZero() {
		e.Required(field.NewPath("eventTime"), "")
	}
	if p := field.NewPath("reportingController"); o.ReportingController == "" {
		e.Required(p, "")
	} else {
		e.Qualified(p, o.ReportingController)
	}
	named := func(name, value string, longest int) {
		p := field.NewPath(name)
		if value == "" {
			e.Required(p, "")
		}
		if len(value) > longest {
			e.Invalid(p, "", fmt.Sprintf("can have at most %d characters", longest))
		}
	}
	named("reportingInstance", o.ReportingInstance, longestController)
	named("action", o.Action, longestController)
	named("reason", o.Reason, longestController)
	if len(o.Message) > longestNote {
		e.Invalid(field.NewPath("message"), "", fmt.Sprintf("can have at most %d characters", longestNote))
	}
	rule.OneOf(&e, field.NewPath("type"), o.Type, core.EventTypeNormal, core.EventTypeWarning)
	return e.List()
}

// Priorities that users may give, and the two that the system has.
const (
	highestUserPriority  = 1_000_000_000
	systemPriorityPrefix = "system-"
)

func systemPriority(o *scheduling.PriorityClass) error {
	known := map[string]int32{"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
	value, ok := known[o.Name]
	switch {
	case !ok:
		return fmt.Errorf("%v is not a known system priority class", o.Name)
	case o.Value != value:
		return fmt.Errorf("value of %v PriorityClass must be %v", o.Name, value)
	case o.GlobalDefault:
		return fmt.Errorf("globalDefault of %v PriorityClass must be false", o.Name)
	}
	return nil
}

// PriorityClass checks value and name.
func PriorityClass(o *scheduling.PriorityClass) Errors {
	var e rule.Errors
	if strings.HasPrefix(o.Name, systemPriorityPrefix) {
		if err := systemPriority(o); err != nil {
			e.Forbidden(metaPath.Child("name"), "priority class names with '"+systemPriorityPrefix+"' prefix are reserved for system use only. error: "+err.Error())
		}
	} else if o.Value > highestUserPriority {
		e.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", highestUserPriority))
	}
	if o.PreemptionPolicy != nil {
		rule.OneOf(&e, field.NewPath("preemptionPolicy"), *o.PreemptionPolicy, core.PreemptLowerPriority, core.PreemptNever)
	}
	return e.List()
}

// PriorityClassUpdate keeps value and policy.
func PriorityClassUpdate(o, old *scheduling.PriorityClass) Errors {
	var e rule.Errors
	if o.Value != old.Value {
		e.Forbidden(field.NewPath("value"), "may not be changed in an update.")
	}
	e.Unchanged(field.NewPath("preemptionPolicy"), o.PreemptionPolicy, old.PreemptionPolicy)
	return e.List()
}

// RuntimeClass checks handler, overhead and scheduling.
func RuntimeClass(o *node.RuntimeClass) Errors {
	var e rule.Errors
	e.DNSLabel(field.NewPath("handler"), o.Handler)
	if o.Overhead != nil {
		e.Join(podspec.Resources(&core.ResourceRequirements{Limits: o.Overhead.PodFixed}, field.NewPath("overhead", "podFixed")))
	}
	if s, p := o.Scheduling, field.NewPath("scheduling"); s != nil {
		e.Labels(p.Child("nodeSelector"), s.NodeSelector)
		e.Join(rule.Tolerations(p.Child("tolerations"), s.Tolerations))
		for i := range s.Tolerations {
			for j := range i {
				if equality.Semantic.DeepEqual(s.Tolerations[i], s.Tolerations[j]) {
					e.Duplicate(p.Child("tolerations").Index(i), s.Tolerations[i])
				}
			}
		}
	}
	return e.List()
}

// RuntimeClassUpdate also keeps the handler.
func RuntimeClassUpdate(o, old *node.RuntimeClass) Errors {
	var e rule.Errors
	e.Unchanged(field.NewPath("handler"), o.Handler, old.Handler)
	e.Join(RuntimeClass(o))
	return e.List()
}

const shortestCertificate int32 = 600

// CertificateSigningRequest checks request, usages and signer.
func CertificateSigningRequest(o *certificates.CertificateSigningRequest) Errors {
	var e rule.Errors
	s := &o.Spec
	if err := parseRequest(s.Request); err != nil {
		e.Invalid(specPath.Child("request"), s.Request, err.Error())
	}
	usages := specPath.Child("usages")
	if len(s.Usages) == 0 {
		e.Required(usages, "")
	}
	seen := rule.Unique{}
	for i, u := range s.Usages {
		if !knownUsages[u] {
			e.Add(field.NotSupported(usages.Index(i), u, sortedUsages()))
		}
		if seen.Again(string(u)) {
			e.Duplicate(usages.Index(i), u)
		}
	}
	e.Signer(specPath.Child("signerName"), s.SignerName)
	if d := s.ExpirationSeconds; d != nil && *d < shortestCertificate {
		e.Invalid(specPath.Child("expirationSeconds"), *d, "may not specify a duration less than 600 seconds (10 minutes)")
	}
	decisions(&e, o.Status.Conditions)
	return e.List()
}

func parseRequest(b []byte) error {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return fmt.Errorf("PEM block type must be CERTIFICATE REQUEST")
	}
	_, err := x509.ParseCertificateRequest(block.Bytes)
	return err
}

var knownUsages = map[certificates.KeyUsage]bool{
	certificates.UsageSigning: true, certificates.UsageDigitalSignature: true, certificates.UsageContentCommitment: true, certificates.UsageKeyEncipherment: true,
	certificates.UsageKeyAgreement: true, certificates.UsageDataEncipherment: true, certificates.UsageCertSign: true, certificates.UsageCRLSign: true,
	certificates.UsageEncipherOnly: true, certificates.UsageDecipherOnly: true, certificates.UsageAny: true, certificates.UsageServerAuth: true,
	certificates.UsageClientAuth: true, certificates.UsageCodeSigning: true, certificates.UsageEmailProtection: true, certificates.UsageSMIME: true,
	certificates.UsageIPsecEndSystem: true, certificates.UsageIPsecTunnel: true, certificates.UsageIPsecUser: true, certificates.UsageTimestamping: true,
	certificates.UsageOCSPSigning: true, certificates.UsageMicrosoftSGC: true, certificates.UsageNetscapeSGC: true,
}

func sortedUsages() []string {
	m := map[string]bool{}
	for u := range knownUsages {
		m[string(u)] = true
	}
	return sortedKeys(m)
}

func decisions(e *rule.Errors, list []certificates.CertificateSigningRequestCondition) {
	p, seen := statusPath.Child("conditions"), rule.Unique{}
	for i, c := range list {
		at := p.Index(i)
		switch {
		case c.Type == "":
			e.Required(at.Child("type"), "")
		case seen.Again(string(c.Type)):
			e.Duplicate(at.Child("type"), c.Type)
		}
		switch c.Type {
		case certificates.CertificateApproved, certificates.CertificateDenied, certificates.CertificateFailed:
			if c.Status != core.ConditionTrue {
				e.Add(field.NotSupported(at.Child("status"), c.Status, []core.ConditionStatus{core.ConditionTrue}))
			}
		default:
			rule.OneOf(e, at.Child("status"), c.Status, core.ConditionFalse, core.ConditionTrue, core.ConditionUnknown)
		}
	}
	if seen[string(certificates.CertificateApproved)] && seen[string(certificates.CertificateDenied)] {
		e.Invalid(p, certificates.CertificateDenied, "Approved and Denied conditions are mutually exclusive")
	}
}

// CertificateSigningRequestUpdate, Status and Approval check the decision.
func CertificateSigningRequestUpdate(o, _ *certificates.CertificateSigningRequest) Errors {
	return CertificateSigningRequest(o)
}

// CertificateSigningRequestStatus also keeps a certificate once it is issued.
func CertificateSigningRequestStatus(o, old *certificates.CertificateSigningRequest) Errors {
	var e rule.Errors
	e.Join(CertificateSigningRequest(o))
	at := statusPath.Child("certificate")
	if was := old.Status.Certificate; len(was) > 0 && string(was) != string(o.Status.Certificate) {
		e.Forbidden(at, "updates may not set or modify certificate content of a signed request")
	}
	if len(o.Status.Certificate) > 0 && len(old.Status.Certificate) == 0 {
		block, _ := pem.Decode(o.Status.Certificate)
		if block == nil || block.Type != "CERTIFICATE" {
			e.Invalid(at, "<certificate data>", "must contain at least one CERTIFICATE PEM block")
		} else if _, err := x509.ParseCertificates(block.Bytes); err != nil {
			e.Invalid(at, "<certificate data>", err.Error())
		}
	}
	return e.List()
}

// CertificateSigningRequestApproval keeps decisions once they are made.
func CertificateSigningRequestApproval(o, old *certificates.CertificateSigningRequest) Errors {
	var e rule.Errors
	e.Join(CertificateSigningRequest(o))
	now := rule.Unique{}
	for _, c := range o.Status.Conditions {
		now[string(c.Type)] = true
	}
	for _, c := range old.Status.Conditions {
		if !now[string(c.Type)] {
			e.Forbidden(statusPath.Child("conditions"), fmt.Sprintf("updates may not remove a condition of type %q", c.Type))
		}
	}
	return e.List()
}
