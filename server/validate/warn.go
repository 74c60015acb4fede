package validate

import (
	"fmt"
	"slices"
	"strings"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	node "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Warnings that a client gets beside an answer, as upstream gives them
// (pkg/api/pod/warnings.go and the strategies' WarningsOnCreate and OnUpdate).

// oldNodeLabels are labels of nodes that have a successor.
var oldNodeLabels = []struct{ label, hint string }{
	{"beta.kubernetes.io/arch", `deprecated since v1.14; use "kubernetes.io/arch" instead`},
	{"beta.kubernetes.io/os", `deprecated since v1.14; use "kubernetes.io/os" instead`},
	{"failure-domain.beta.kubernetes.io/region", `deprecated since v1.17; use "topology.kubernetes.io/region" instead`},
	{"failure-domain.beta.kubernetes.io/zone", `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`},
	{"beta.kubernetes.io/instance-type", `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`},
}

func oldNodeLabel(label string) string {
	for _, l := range oldNodeLabels {
		if l.label == label {
			return l.hint
		}
	}
	return ""
}

// PodWarnings is about the whole pod.
func PodWarnings(o, old *core.Pod) []string {
	if old != nil && old.Generation == o.Generation && old.Generation != 0 {
		return nil // nothing in the spec is new
	}
	return podWarnings(&o.Spec, o.Annotations, nil)
}

// warner collects sentences.
type warner struct{ list []string }

func (w *warner) add(format string, args ...any) {
	w.list = append(w.list, fmt.Sprintf(format, args...))
}

func podWarnings(s *core.PodSpec, notes map[string]string, p *field.Path) []string {
	w := &warner{}
	spec := p.Child("spec")
	w.placement(s, spec)
	w.addresses(s, spec)
	w.volumes(s.Volumes, spec.Child("volumes"))
	if s.TerminationGracePeriodSeconds != nil && *s.TerminationGracePeriodSeconds < 0 {
		w.add("%s: must be >= 0; negative values are invalid and will be treated as 1", spec.Child("terminationGracePeriodSeconds"))
	}
	w.doubles(s, spec)
	w.overhead(s, spec)
	for _, list := range []struct {
		name       string
		containers []core.Container
	}{{"initContainers", s.InitContainers}, {"containers", s.Containers}} {
		for i := range list.containers {
			w.container(&list.containers[i], spec.Child(list.name).Index(i))
		}
	}
	for _, key := range sortedKeys(notes) {
		switch {
		case key == "seccomp.security.alpha.kubernetes.io/pod":
			w.add(`%s: non-functional in v1.27+; use the "seccompProfile" field instead`, p.Child("metadata", "annotations").Key(key))
		case strings.HasPrefix(key, "container.seccomp.security.alpha.kubernetes.io/"):
			w.add(`%s: non-functional in v1.27+; use the "seccompProfile" field instead`, p.Child("metadata", "annotations").Key(key))
		case strings.HasPrefix(key, "container.apparmor.security.beta.kubernetes.io/"):
			w.add(`%s: deprecated since v1.30; use the "appArmorProfile" field instead`, p.Child("metadata", "annotations").Key(key))
		case key == "scheduler.alpha.kubernetes.io/critical-pod":
			w.add(`%s: non-functional in v1.16+; use the "priorityClassName" field instead`, p.Child("metadata", "annotations").Key(key))
		}
	}
	return w.list
}

func (w *warner) placement(s *core.PodSpec, p *field.Path) {
	for _, key := range sortedKeys(s.NodeSelector) {
		if hint := oldNodeLabel(key); hint != "" {
			w.add("%s: %s", p.Child("nodeSelector").Key(key), hint)
		}
	}
	if s.Affinity != nil && s.Affinity.NodeAffinity != nil {
		a, at := s.Affinity.NodeAffinity, p.Child("affinity", "nodeAffinity")
		if r := a.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			for i := range r.NodeSelectorTerms {
				w.term(&r.NodeSelectorTerms[i], at.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms").Index(i))
			}
		}
		for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			w.term(&a.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference, at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("preference"))
		}
	}
	for i, c := range s.TopologySpreadConstraints {
		if hint := oldNodeLabel(c.TopologyKey); hint != "" {
			w.add("%s: %s is %s", p.Child("topologySpreadConstraints").Index(i).Child("topologyKey"), c.TopologyKey, hint)
		}
		if c.LabelSelector == nil {
			w.add("%s: a null labelSelector results in matching no pod", p.Child("topologySpreadConstraints").Index(i).Child("labelSelector"))
		}
	}
}

func (w *warner) term(t *core.NodeSelectorTerm, p *field.Path) {
	for i, r := range t.MatchExpressions {
		if hint := oldNodeLabel(r.Key); hint != "" {
			w.add("%s: %s is %s", p.Child("matchExpressions").Index(i).Child("key"), r.Key, hint)
		}
	}
}

func (w *warner) addresses(s *core.PodSpec, p *field.Path) {
	seen := map[string]bool{}
	for i, alias := range s.HostAliases {
		if seen[alias.IP] {
			w.add("%s: duplicate ip %q", p.Child("hostAliases").Index(i).Child("ip"), alias.IP)
		}
		seen[alias.IP] = true
		w.list = append(w.list, validation.GetWarningsForIP(p.Child("hostAliases").Index(i).Child("ip"), alias.IP)...)
	}
	names := map[string]bool{}
	for i, ref := range s.ImagePullSecrets {
		switch {
		case ref.Name == "":
			w.add("%s: invalid empty name %q", p.Child("imagePullSecrets").Index(i).Child("name"), ref.Name)
		case names[ref.Name]:
			w.add("%s: duplicate name %q", p.Child("imagePullSecrets").Index(i).Child("name"), ref.Name)
		}
		names[ref.Name] = true
	}
	if s.DNSConfig != nil {
		for i, ip := range s.DNSConfig.Nameservers {
			w.list = append(w.list, validation.GetWarningsForIP(p.Child("dnsConfig", "nameservers").Index(i), ip)...)
		}
	}
}

func (w *warner) volumes(list []core.Volume, p *field.Path) {
	for i := range list {
		v, at := &list[i], p.Index(i)
		switch {
		case v.PhotonPersistentDisk != nil:
			w.add("%s: deprecated in v1.11, non-functional in v1.16+", at.Child("photonPersistentDisk"))
		case v.GitRepo != nil:
			w.add("%s: deprecated in v1.11, and disabled by default in v1.33+", at.Child("gitRepo"))
		case v.ScaleIO != nil:
			w.add("%s: deprecated in v1.16, non-functional in v1.22+", at.Child("scaleIO"))
		case v.Flocker != nil:
			w.add("%s: deprecated in v1.22, non-functional in v1.25+", at.Child("flocker"))
		case v.StorageOS != nil:
			w.add("%s: deprecated in v1.22, non-functional in v1.25+", at.Child("storageOS"))
		case v.Quobyte != nil:
			w.add("%s: deprecated in v1.22, non-functional in v1.25+", at.Child("quobyte"))
		case v.Glusterfs != nil:
			w.add("%s: deprecated in v1.25, non-functional in v1.26+", at.Child("glusterfs"))
		case v.CephFS != nil:
			w.add("%s: deprecated in v1.28, non-functional in v1.31+", at.Child("cephfs"))
		case v.RBD != nil:
			w.add("%s: deprecated in v1.28, non-functional in v1.31+", at.Child("rbd"))
		}
	}
}

// doubles warns of names that stand twice where the last one wins.
func (w *warner) doubles(s *core.PodSpec, p *field.Path) {
	for _, list := range []struct {
		name       string
		containers []core.Container
	}{{"initContainers", s.InitContainers}, {"containers", s.Containers}} {
		for i := range list.containers {
			c, at := &list.containers[i], p.Child(list.name).Index(i)
			seen := map[string]bool{}
			for j, v := range c.Env {
				// $(NAME) of itself adds to the former value: that is meant.
				if seen[v.Name] && !strings.Contains(v.Value, "$("+v.Name+")") {
					w.add("%s: hides previous definition of %q, which may be dropped when using apply", at.Child("env").Index(j), v.Name)
				}
				seen[v.Name] = true
			}
			ports := map[string]bool{}
			for j, port := range c.Ports {
				key := fmt.Sprint(port.ContainerPort, port.Protocol, port.HostIP, port.HostPort)
				if ports[key] {
					w.add("%s: duplicate port definition with %s", at.Child("ports").Index(j), at.Child("ports"))
				}
				ports[key] = true
			}
		}
	}
}

func (w *warner) overhead(s *core.PodSpec, p *field.Path) {
	for n, q := range s.Overhead {
		w.fraction(n, q.MilliValue(), q.String(), p.Child("overhead"))
	}
}

// fraction warns of memory in parts of a byte.
func (w *warner) fraction(n core.ResourceName, milli int64, text string, p *field.Path) {
	if (n == core.ResourceMemory || n == core.ResourceEphemeralStorage) && milli%1000 != 0 {
		w.add("%s: fractional byte value %q is invalid, must be an integer", p.Key(string(n)), text)
	}
}

func (w *warner) container(c *core.Container, p *field.Path) {
	for _, list := range []struct {
		name string
		of   core.ResourceList
	}{{"requests", c.Resources.Requests}, {"limits", c.Resources.Limits}} {
		names := make([]core.ResourceName, 0, len(list.of))
		for n := range list.of {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			q := list.of[n]
			w.fraction(n, q.MilliValue(), q.String(), p.Child("resources", list.name))
		}
	}
}

// Warnings of kinds with a pod template.
func DeploymentWarnings(o, _ *apps.Deployment) []string {
	return podWarnings(&o.Spec.Template.Spec, o.Spec.Template.Annotations, specPath.Child("template"))
}
func ReplicaSetWarnings(o, _ *apps.ReplicaSet) []string {
	return podWarnings(&o.Spec.Template.Spec, o.Spec.Template.Annotations, specPath.Child("template"))
}
func DaemonSetWarnings(o, _ *apps.DaemonSet) []string {
	return podWarnings(&o.Spec.Template.Spec, o.Spec.Template.Annotations, specPath.Child("template"))
}
func PodTemplateWarnings(o, _ *core.PodTemplate) []string {
	return podWarnings(&o.Template.Spec, o.Template.Annotations, field.NewPath("template"))
}

// StatefulSetWarnings also warns of a history that cannot be kept.
func StatefulSetWarnings(o, _ *apps.StatefulSet) []string {
	list := podWarnings(&o.Spec.Template.Spec, o.Spec.Template.Annotations, specPath.Child("template"))
	if n := o.Spec.RevisionHistoryLimit; n != nil && *n < 0 {
		list = append(list, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return list
}

// ReplicationControllerWarnings is about its template.
func ReplicationControllerWarnings(o, _ *core.ReplicationController) []string {
	if o.Spec.Template == nil {
		return nil
	}
	return podWarnings(&o.Spec.Template.Spec, o.Spec.Template.Annotations, specPath.Child("template"))
}

// JobWarnings also warns of an indexed job too large to keep track of.
func JobWarnings(o, _ *batch.Job) []string {
	list := podWarnings(&o.Spec.Template.Spec, o.Spec.Template.Annotations, specPath.Child("template"))
	if c, p := o.Spec.Completions, o.Spec.Parallelism; c != nil && p != nil && *c > mostParallelIndexed && *p > 10_000 {
		list = append(list, "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail")
	}
	return list
}

// CronJobWarnings is about its template and a time zone in the schedule.
func CronJobWarnings(o, _ *batch.CronJob) []string {
	s := &o.Spec.JobTemplate.Spec.Template
	list := podWarnings(&s.Spec, s.Annotations, specPath.Child("jobTemplate", "spec", "template"))
	if len(validation.IsDNS1123Label(o.Name)) > 0 {
		list = append([]string{"metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: " +
			fmt.Sprint(validation.IsDNS1123Label(o.Name))}, list...)
	}
	return list
}

// ServiceWarnings is about addresses in odd forms and fields that do nothing.
func ServiceWarnings(o, _ *core.Service) []string {
	w := &warner{}
	if _, has := o.Annotations[core.DeprecatedAnnotationTopologyAwareHints]; has {
		w.add("annotation %s is deprecated, please use %s instead", core.DeprecatedAnnotationTopologyAwareHints, core.AnnotationTopologyMode)
	}
	if len(o.Spec.ClusterIPs) == 1 && o.Spec.ClusterIPs[0] == core.ClusterIPNone {
		if o.Spec.LoadBalancerIP != "" {
			w.add("spec.loadBalancerIP is ignored when spec.clusterIP is %q", "None")
		}
		if len(o.Spec.ExternalIPs) > 0 {
			w.add("spec.externalIPs is ignored when spec.clusterIP is %q", "None")
		}
		if o.Spec.SessionAffinity != core.ServiceAffinityNone {
			w.add("spec.SessionAffinity is ignored when spec.clusterIP is %q", "None")
		}
	}
	for i, ip := range o.Spec.ClusterIPs {
		if ip != core.ClusterIPNone {
			w.list = append(w.list, validation.GetWarningsForIP(specPath.Child("clusterIPs").Index(i), ip)...)
		}
	}
	for i, ip := range o.Spec.ExternalIPs {
		w.list = append(w.list, validation.GetWarningsForIP(specPath.Child("externalIPs").Index(i), ip)...)
	}
	if o.Spec.LoadBalancerIP != "" {
		w.list = append(w.list, validation.GetWarningsForIP(specPath.Child("loadBalancerIP"), o.Spec.LoadBalancerIP)...)
	}
	for i, cidr := range o.Spec.LoadBalancerSourceRanges {
		w.list = append(w.list, validation.GetWarningsForCIDR(specPath.Child("loadBalancerSourceRanges").Index(i), cidr)...)
	}
	if o.Spec.Type == core.ServiceTypeExternalName && o.Spec.SessionAffinity != core.ServiceAffinityNone {
		w.add("spec.SessionAffinity is ignored when spec.type is %q", core.ServiceTypeExternalName)
	}
	return w.list
}

// IngressWarnings says that the annotation is old.
func IngressWarnings(o, _ *networking.Ingress) []string {
	if _, has := o.Annotations[ingressClassNote]; has {
		return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", ingressClassNote)}
	}
	return nil
}

// RuntimeClassWarnings is about old node labels.
func RuntimeClassWarnings(o, _ *node.RuntimeClass) []string {
	w := &warner{}
	if o.Scheduling != nil {
		for _, key := range sortedKeys(o.Scheduling.NodeSelector) {
			if hint := oldNodeLabel(key); hint != "" {
				w.add("%s: %s", field.NewPath("scheduling", "nodeSelector").Key(key), hint)
			}
		}
	}
	return w.list
}

// NodeWarnings is about a field that does nothing any more.
func NodeWarnings(o, _ *core.Node) []string {
	w := &warner{}
	if o.Spec.ConfigSource != nil {
		w.add("spec.configSource: the feature is removed")
	}
	if o.Spec.DoNotUseExternalID != "" {
		w.add("spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	return w.list
}

// PersistentVolumeWarnings is about old annotations and policies.
func PersistentVolumeWarnings(o, _ *core.PersistentVolume) []string {
	w := &warner{}
	if _, has := o.Annotations[core.BetaStorageClassAnnotation]; has {
		w.add("%s: deprecated since v1.8; use \"storageClassName\" attribute instead", metaPath.Child("annotations").Key(core.BetaStorageClassAnnotation))
	}
	if o.Spec.PersistentVolumeReclaimPolicy == core.PersistentVolumeReclaimRecycle {
		w.add("%s: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.", specPath.Child("persistentVolumeReclaimPolicy"))
	}
	return w.list
}

// PersistentVolumeClaimWarnings is about old annotations and odd amounts.
func PersistentVolumeClaimWarnings(o, _ *core.PersistentVolumeClaim) []string {
	w := &warner{}
	if _, has := o.Annotations[core.BetaStorageClassAnnotation]; has {
		w.add("%s: deprecated since v1.8; use \"storageClassName\" attribute instead", metaPath.Child("annotations").Key(core.BetaStorageClassAnnotation))
	}
	if q, has := o.Spec.Resources.Requests[core.ResourceStorage]; has && q.MilliValue()%1000 != 0 {
		w.add("%s: fractional byte value %q is invalid, must be an integer", specPath.Child("resources", "requests").Key("storage"), q.String())
	}
	return w.list
}
