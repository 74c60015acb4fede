package flow

import (
	"slices"

	flowcontrol "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
)

// The objects that every cluster has, as upstream has them: mandatory ones are always as
// here, suggested ones are a beginning that administrators may change.

const (
	byUser      = flowcontrol.FlowDistinguisherMethodByUserType
	byNamespace = flowcontrol.FlowDistinguisherMethodByNamespaceType
	everything  = "*"

	groupNodes           = "system:nodes"
	groupAuthenticated   = "system:authenticated"
	groupUnauthenticated = "system:unauthenticated"
	groupServiceAccounts = "system:serviceaccounts"
	controllerManager    = "system:kube-controller-manager"
	scheduler            = "system:kube-scheduler"
)

func mandatoryLevels() []*flowcontrol.PriorityLevelConfiguration {
	exempt := levelObject(flowcontrol.PriorityLevelConfigurationNameExempt)
	exempt.Spec = flowcontrol.PriorityLevelConfigurationSpec{
		Type:   flowcontrol.PriorityLevelEnablementExempt,
		Exempt: &flowcontrol.ExemptPriorityLevelConfiguration{NominalConcurrencyShares: new(int32(0)), LendablePercent: new(int32(0))},
	}
	rest := limited(flowcontrol.PriorityLevelConfigurationNameCatchAll, 5, 0, nil)
	return []*flowcontrol.PriorityLevelConfiguration{exempt, rest}
}

func suggestedLevels() []*flowcontrol.PriorityLevelConfiguration {
	return []*flowcontrol.PriorityLevelConfiguration{
		limited("system", 30, 33, queues(64, 6)),
		limited("node-high", 40, 25, queues(64, 6)),
		limited("leader-election", 10, 0, queues(16, 4)),
		limited("workload-high", 40, 50, queues(128, 6)),
		limited("workload-low", 100, 90, queues(128, 6)),
		limited("global-default", 20, 50, queues(128, 6)),
	}
}

func mandatorySchemas() []*flowcontrol.FlowSchema {
	return []*flowcontrol.FlowSchema{
		flowSchema("exempt", "exempt", 1, "", anything(groups(api.GroupMasters))),
		flowSchema("catch-all", "catch-all", 10000, byUser, anything(everybody())),
	}
}

func suggestedSchemas() []*flowcontrol.FlowSchema {
	probes := flowcontrol.PolicyRulesWithSubjects{Subjects: everybody(), NonResourceRules: []flowcontrol.NonResourcePolicyRule{
		{Verbs: []string{"get"}, NonResourceURLs: []string{"/healthz", "/readyz", "/livez"}}}}
	leases := func(verbs ...string) flowcontrol.ResourcePolicyRule {
		return flowcontrol.ResourcePolicyRule{Verbs: verbs, APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Namespaces: []string{everything}}
	}
	nodes := flowcontrol.ResourcePolicyRule{Verbs: []string{everything}, APIGroups: []string{""}, Resources: []string{"nodes", "nodes/status"},
		Namespaces: []string{everything}, ClusterScope: true}
	only := func(who []flowcontrol.Subject, rules ...flowcontrol.ResourcePolicyRule) flowcontrol.PolicyRulesWithSubjects {
		return flowcontrol.PolicyRulesWithSubjects{Subjects: who, ResourceRules: rules}
	}
	return []*flowcontrol.FlowSchema{
		flowSchema("system-nodes", "system", 500, byUser, anything(groups(groupNodes))),
		flowSchema("system-node-high", "node-high", 400, byUser, only(groups(groupNodes), nodes, leases(everything))),
		flowSchema("probes", "exempt", 2, "", probes),
		flowSchema("system-leader-election", "leader-election", 100, byUser,
			only(slices.Concat(users(controllerManager, scheduler), systemAccounts()), leases("get", "create", "update"))),
		flowSchema("kube-controller-manager", "workload-high", 800, byNamespace, anything(users(controllerManager))),
		flowSchema("kube-scheduler", "workload-high", 800, byNamespace, anything(users(scheduler))),
		flowSchema("kube-system-service-accounts", "workload-high", 900, byNamespace, anything(systemAccounts())),
		flowSchema("service-accounts", "workload-low", 9000, byUser, anything(groups(groupServiceAccounts))),
		flowSchema("global-default", "global-default", 9900, byUser, anything(everybody())),
	}
}

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Annotations: map[string]string{flowcontrol.AutoUpdateAnnotationKey: "true"}}
}

func levelObject(name string) *flowcontrol.PriorityLevelConfiguration {
	return &flowcontrol.PriorityLevelConfiguration{ObjectMeta: meta(name)}
}

func limited(name string, shares, lendable int32, q *flowcontrol.QueuingConfiguration) *flowcontrol.PriorityLevelConfiguration {
	o := levelObject(name)
	response := flowcontrol.LimitResponse{Type: flowcontrol.LimitResponseTypeReject}
	if q != nil {
		response = flowcontrol.LimitResponse{Type: flowcontrol.LimitResponseTypeQueue, Queuing: q}
	}
	o.Spec = flowcontrol.PriorityLevelConfigurationSpec{
		Type:    flowcontrol.PriorityLevelEnablementLimited,
		Limited: &flowcontrol.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &shares, LendablePercent: &lendable, LimitResponse: response},
	}
	return o
}

func queues(n, hand int32) *flowcontrol.QueuingConfiguration {
	return &flowcontrol.QueuingConfiguration{Queues: n, HandSize: hand, QueueLengthLimit: 50}
}

func flowSchema(name, level string, precedence int32, tell flowcontrol.FlowDistinguisherMethodType, rules flowcontrol.PolicyRulesWithSubjects) *flowcontrol.FlowSchema {
	o := &flowcontrol.FlowSchema{ObjectMeta: meta(name)}
	o.Spec = flowcontrol.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrol.PriorityLevelConfigurationReference{Name: level},
		MatchingPrecedence:         precedence, Rules: []flowcontrol.PolicyRulesWithSubjects{rules},
	}
	if tell != "" {
		o.Spec.DistinguisherMethod = &flowcontrol.FlowDistinguisherMethod{Type: tell}
	}
	return o
}

// anything matches every request of some people, for resources and for other paths.
func anything(who []flowcontrol.Subject) flowcontrol.PolicyRulesWithSubjects {
	all := func() []string { return []string{everything} }
	return flowcontrol.PolicyRulesWithSubjects{
		Subjects:         who,
		ResourceRules:    []flowcontrol.ResourcePolicyRule{{Verbs: all(), APIGroups: all(), Resources: all(), Namespaces: all(), ClusterScope: true}},
		NonResourceRules: []flowcontrol.NonResourcePolicyRule{{Verbs: all(), NonResourceURLs: all()}},
	}
}

func everybody() []flowcontrol.Subject { return groups(groupUnauthenticated, groupAuthenticated) }

func groups(names ...string) (out []flowcontrol.Subject) {
	for _, n := range names {
		out = append(out, flowcontrol.Subject{Kind: flowcontrol.SubjectKindGroup, Group: &flowcontrol.GroupSubject{Name: n}})
	}
	return out
}

func users(names ...string) (out []flowcontrol.Subject) {
	for _, n := range names {
		out = append(out, flowcontrol.Subject{Kind: flowcontrol.SubjectKindUser, User: &flowcontrol.UserSubject{Name: n}})
	}
	return out
}

func systemAccounts() []flowcontrol.Subject {
	return []flowcontrol.Subject{{Kind: flowcontrol.SubjectKindServiceAccount,
		ServiceAccount: &flowcontrol.ServiceAccountSubject{Namespace: api.NamespaceSystem, Name: everything}}}
}
