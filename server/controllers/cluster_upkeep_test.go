package controllers_test

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	policy "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orch/api"
	"orch/api/client"
)

func (c *cluster) gone(what string, o any, isNil bool) string {
	if isNil {
		return ""
	}
	return fmt.Sprintf("%s is still there: %+v", what, o)
}

func TestNamespaceGetsItsDefaultsAndIsEmptied(t *testing.T) {
	c := start(t)
	make_(c, api.Namespaces, &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}})
	c.await(func() string {
		if client.Cached(c, api.ServiceAccounts, "team", "default") == nil {
			return "no default service account"
		}
		if cm := client.Cached(c, api.ConfigMaps, "team", api.RootCAConfigMap); cm == nil || cm.Data["ca.crt"] != "PEM" {
			return fmt.Sprintf("root CA: %+v", cm)
		}
		return ""
	})
	if err := client.Delete(c.ctx, c, api.ServiceAccounts, "team", "default", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	edit(c, api.ConfigMaps, "team", api.RootCAConfigMap, func(cm *core.ConfigMap) { cm.Data["ca.crt"] = "forged" })
	c.await(func() string {
		cm := client.Cached(c, api.ConfigMaps, "team", api.RootCAConfigMap)
		if client.Cached(c, api.ServiceAccounts, "team", "default") == nil || cm == nil || cm.Data["ca.crt"] != "PEM" {
			return "what was damaged was not restored"
		}
		return ""
	})

	d := deployment("web", 3)
	d.Namespace = "team"
	make_(c, api.Deployments, d)
	held := &core.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "held", Finalizers: []string{"example.com/hold"}}}
	make_(c, api.Secrets, held)
	c.await(func() string {
		if n := len(client.CachedList(c, api.Pods, "team", nil)); n != 3 {
			return fmt.Sprint(n, " pods")
		}
		return ""
	})
	if err := client.Delete(c.ctx, c, api.Namespaces, "", "team", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.await(func() string {
		ns := client.Cached(c, api.Namespaces, "", "team")
		if ns == nil {
			t.Fatal("the namespace went before its content")
		}
		for _, cond := range ns.Status.Conditions {
			if cond.Type == core.NamespaceFinalizersRemaining && cond.Status == core.ConditionTrue &&
				strings.Contains(cond.Message, "example.com/hold in 1 resource instances") && ns.Status.Phase == core.NamespaceTerminating {
				return ""
			}
		}
		return fmt.Sprintf("%+v", ns.Status)
	})
	edit(c, api.Secrets, "team", "held", func(s *core.Secret) { s.Finalizers = nil })
	c.await(func() string {
		ns := client.Cached(c, api.Namespaces, "", "team")
		return c.gone("namespace", ns, ns == nil)
	})
	if left := client.CachedList(c, api.Pods, "team", nil); len(left) > 0 {
		t.Errorf("%d pods are left", len(left))
	}
}

// node registers a node with a lease.
func (c *cluster) node(name string) {
	c.t.Helper()
	n := make_(c, api.Nodes, &core.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	n = n.DeepCopy()
	n.Status.Conditions = []core.NodeCondition{{Type: core.NodeReady, Status: core.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
	for {
		if _, err := client.UpdateStatus(c.ctx, c, api.Nodes, n); err == nil {
			break
		}
		fresh, err := client.Get(c.ctx, c, api.Nodes, "", name)
		if err != nil {
			c.t.Fatal(err)
		}
		n.ResourceVersion = fresh.ResourceVersion
	}
	if _, err := client.Get(c.ctx, c, api.Namespaces, "", api.NamespaceNodeLease); err != nil {
		make_(c, api.Namespaces, &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: api.NamespaceNodeLease}})
	}
	make_(c, api.Leases, &coordination.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: api.NamespaceNodeLease, Name: name},
		Spec:       coordination.LeaseSpec{HolderIdentity: &name, RenewTime: &metav1.MicroTime{Time: time.Now()}},
	})
}

func (c *cluster) sleep(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

func TestNodesGetRangesAndSilentOnesAreEmptied(t *testing.T) {
	c := start(t)
	for i, name := range []string{"n1", "n2"} {
		c.node(name)
		c.await(func() string {
			if r := client.Cached(c, api.Nodes, "", name).Spec.PodCIDR; r != fmt.Sprintf("10.42.%d.0/24", i) {
				return fmt.Sprintf("%s has the range %q", name, r)
			}
			return ""
		})
	}
	d := deployment("web", 2)
	d.Spec.Template.Spec.Tolerations = []core.Toleration{{Key: core.TaintNodeUnreachable, Operator: core.TolerationOpExists, Effect: core.TaintEffectNoExecute, TolerationSeconds: new(int64(0))}}
	make_(c, api.Deployments, d)
	c.rolledOut("web")
	old := c.pods("web")[0].UID
	c.sleep(time.Minute) // n1 is silent; n2 is heard of after that
	for _, name := range []string{"n2", "n1"} {
		if name == "n2" {
			edit(c, api.Leases, api.NamespaceNodeLease, name, func(l *coordination.Lease) { l.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()} })
			continue
		}
		edit(c, api.Nodes, "", name, func(n *core.Node) { n.Labels = map[string]string{"touched": "yes"} })
	}
	c.await(func() string {
		n := client.Cached(c, api.Nodes, "", "n1")
		taints := map[string]bool{}
		for _, taint := range n.Spec.Taints {
			taints[taint.Key+":"+string(taint.Effect)] = true
		}
		if n.Status.Conditions[0].Reason != "NodeStatusUnknown" || !taints["node.kubernetes.io/unreachable:NoExecute"] || !taints["node.kubernetes.io/unreachable:NoSchedule"] {
			return fmt.Sprintf("conditions %+v, taints %+v", n.Status.Conditions[0], n.Spec.Taints)
		}
		return ""
	})
	c.await(func() string { // evicted, and made anew by its set
		for _, p := range c.pods("web") {
			if p.UID == old {
				return "the pod was not evicted"
			}
		}
		return ""
	})
	c.awaitEvent("TaintManagerEviction", "Marking for deletion Pod default/web-")
	c.await(func() string { // it may have had some until its renewal was seen
		if n := client.Cached(c, api.Nodes, "", "n2"); len(n.Spec.Taints) > 0 {
			return fmt.Sprintf("the living node has taints %+v", n.Spec.Taints)
		}
		return ""
	})
}

// TestTolerationEndsThoughTheTaintHasNoTime: kubectl's taints do not say when they
// were added; the time a pod tolerates them must not start anew at every look.
func TestTolerationEndsThoughTheTaintHasNoTime(t *testing.T) {
	c := start(t)
	c.node("n1")
	d := deployment("web", 1)
	d.Spec.Template.Spec.Tolerations = []core.Toleration{{Key: "test", Operator: core.TolerationOpExists, Effect: core.TaintEffectNoExecute, TolerationSeconds: new(int64(1))}}
	make_(c, api.Deployments, d)
	c.rolledOut("web")
	edit(c, api.Nodes, "", "n1", func(n *core.Node) {
		n.Spec.Taints = append(n.Spec.Taints, core.Taint{Key: "test", Effect: core.TaintEffectNoExecute})
	})
	c.awaitEvent("TaintManagerEviction", "Marking for deletion Pod default/web-")
}

func TestAnIdleClusterIsIdle(t *testing.T) {
	c := start(t)
	c.node("n1")
	make_(c, api.Services, &core.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: core.ServiceSpec{
		ClusterIP: "None", Selector: map[string]string{"app": "web"}, Ports: []core.ServicePort{{Port: 80}}}})
	make_(c, api.Deployments, deployment("web", 3))
	c.rolledOut("web")
	fewest := uint64(math.MaxUint64)
	for range 5 { // what is still to do from before, however slow the machine, ends with the first rounds
		c.settle()
		before := c.runs()
		for i := range 100 { // a thousand seconds of one node's renewals
			edit(c, api.Leases, api.NamespaceNodeLease, "n1", func(l *coordination.Lease) { l.Spec.LeaseTransitions = new(int32(i)) })
		}
		if fewest = min(fewest, c.runs()-before); fewest == 0 {
			return
		}
	}
	t.Errorf("100 renewals of a lease made %d runs of controllers", fewest)
}

func TestBudgetCountsHealthyPods(t *testing.T) {
	c := start(t)
	two := intstr.FromInt32(2)
	make_(c, api.PodDisruptionBudgets, &policy.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:       policy.PodDisruptionBudgetSpec{MaxUnavailable: &two, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	})
	make_(c, api.Deployments, deployment("web", 5))
	c.await(func() string {
		s := client.Cached(c, api.PodDisruptionBudgets, "default", "web").Status
		if s.CurrentHealthy != 5 || s.DesiredHealthy != 3 || s.DisruptionsAllowed != 2 || s.ExpectedPods != 5 {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
}

func TestPodsOfNodesThatAreGoneGo(t *testing.T) {
	c := start(t)
	c.node("n1")
	make_(c, api.Deployments, deployment("web", 1))
	c.rolledOut("web")
	old := c.pods("web")[0]
	if err := client.Delete(c.ctx, c, api.Nodes, "", "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.settle()
	if len(c.pods("web")) != 1 || c.pods("web")[0].UID != old.UID {
		t.Fatal("the pod went at once")
	}
	c.sleep(time.Minute)
	edit(c, api.Pods, "default", old.Name, func(p *core.Pod) { p.Labels["touched"] = "yes" })
	make_(c, api.Nodes, &core.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}) // any node's end starts a look
	if err := client.Delete(c.ctx, c, api.Nodes, "", "n2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.await(func() string {
		for _, p := range c.pods("web") {
			if p.UID == old.UID {
				return "the pod is still there"
			}
		}
		return ""
	})
}

func TestWrittenEndpointsAreMirrored(t *testing.T) {
	c := start(t)
	make_(c, api.Services, &core.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}, Spec: core.ServiceSpec{ClusterIP: "None", Ports: []core.ServicePort{{Name: "sql", Port: 5432}}}})
	make_(c, api.Endpoints, &core.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db", Annotations: map[string]string{
		"example.com/a": "1", core.LastAppliedConfigAnnotation: "{}", core.EndpointsLastChangeTriggerTime: "2026-01-01T00:00:00Z"}}, Subsets: []core.EndpointSubset{{
		Addresses: []core.EndpointAddress{{IP: "192.0.2.1"}}, NotReadyAddresses: []core.EndpointAddress{{IP: "192.0.2.2"}},
		Ports: []core.EndpointPort{{Name: "sql", Port: 5432, Protocol: core.ProtocolTCP}}}}})
	mirrored := func() []*discovery.EndpointSlice {
		return client.CachedList(c, api.EndpointSlices, "default", labels.SelectorFromSet(labels.Set{
			discovery.LabelServiceName: "db", discovery.LabelManagedBy: "endpointslicemirroring-controller.k8s.io"}))
	}
	c.await(func() string {
		s := mirrored()
		if len(s) != 1 || len(s[0].Endpoints) != 2 || *s[0].Ports[0].Port != 5432 || !*s[0].Endpoints[0].Conditions.Ready || *s[0].Endpoints[1].Conditions.Ready {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
	annotated := func(want map[string]string) {
		c.await(func() string {
			if s := mirrored(); len(s) != 1 || !maps.Equal(s[0].Annotations, want) {
				return fmt.Sprintf("%+v", s)
			}
			return ""
		})
	}
	annotated(map[string]string{"example.com/a": "1"})
	edit(c, api.Endpoints, "default", "db", func(e *core.Endpoints) { e.Annotations = map[string]string{"example.com/b": "2"} })
	annotated(map[string]string{"example.com/b": "2"})
	if err := client.Delete(c.ctx, c, api.Endpoints, "default", "db", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.await(func() string { return strings.Join(names(mirrored()), " ") })
}

// TestPodsGoBeforeTheRestOfTheirNamespace: what a pod was started with stays until it has ended.
func TestPodsGoBeforeTheRestOfTheirNamespace(t *testing.T) {
	c := start(t)
	make_(c, api.Namespaces, &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}})
	make_(c, api.ConfigMaps, &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "settings"}})
	make_(c, api.Pods, &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "p", Finalizers: []string{"example.com/hold"}},
		Spec: core.PodSpec{Containers: []core.Container{{Name: "c", Image: "image:1"}}}})
	if err := client.Delete(c.ctx, c, api.Namespaces, "", "team", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.await(func() string {
		p := client.Cached(c, api.Pods, "team", "p")
		ns := client.Cached(c, api.Namespaces, "", "team")
		if p.DeletionTimestamp == nil || len(ns.Status.Conditions) == 0 {
			return "the pod is not on its way out"
		}
		return ""
	})
	if client.Cached(c, api.ConfigMaps, "team", "settings") == nil {
		t.Fatal("the config map went before the pod")
	}
	edit(c, api.Pods, "team", "p", func(p *core.Pod) { p.Finalizers = nil })
	c.await(func() string {
		if client.Cached(c, api.Namespaces, "", "team") != nil {
			return "the namespace is still there"
		}
		return ""
	})
}
