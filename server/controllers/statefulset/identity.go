package statefulset

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/server/controllers/workpod"
)

// split reads set and ordinal from the name of a pod; false if it has no such name.
func split(name string) (set string, ordinal int, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 || i+1 == len(name) || strings.Trim(name[i+1:], "0123456789") != "" {
		return "", -1, false
	}
	n, err := strconv.ParseInt(name[i+1:], 10, 32)
	if err != nil {
		return "", -1, false
	}
	return name[:i], int(n), true
}

// ordinal of a pod; -1 if it has none.
func ordinal(p *core.Pod) int {
	_, n, ok := split(p.Name)
	if !ok {
		return -1
	}
	return n
}

func memberOf(s *apps.StatefulSet, p *core.Pod) bool {
	set, _, ok := split(p.Name)
	return ok && set == s.Name
}

func size(s *apps.StatefulSet) int {
	if s.Spec.Replicas == nil {
		return 1
	}
	return int(*s.Spec.Replicas)
}

func first(s *apps.StatefulSet) int {
	if s.Spec.Ordinals == nil {
		return 0
	}
	return int(s.Spec.Ordinals.Start)
}

func inRange(s *apps.StatefulSet, p *core.Pod) bool {
	n := ordinal(p)
	return n >= first(s) && n < first(s)+size(s)
}

func podName(s *apps.StatefulSet, n int) string { return fmt.Sprintf("%s-%d", s.Name, n) }

func claimName(s *apps.StatefulSet, template *core.PersistentVolumeClaim, n int) string {
	return fmt.Sprintf("%s-%s-%d", template.Name, s.Name, n)
}

// claimsOf makes the claims of the pod with that ordinal from the set's templates.
func claimsOf(s *apps.StatefulSet, n int) []*core.PersistentVolumeClaim {
	var out []*core.PersistentVolumeClaim
	for i := range s.Spec.VolumeClaimTemplates {
		c := s.Spec.VolumeClaimTemplates[i].DeepCopy()
		c.Name, c.Namespace = claimName(s, c, n), s.Namespace
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		maps.Copy(c.Labels, s.Spec.Selector.MatchLabels)
		out = append(out, c)
	}
	return out
}

// newPod makes the pod with that ordinal of a template and marks it with its revision.
func newPod(s *apps.StatefulSet, t *core.PodTemplateSpec, revision string, n int) *core.Pod {
	p := workpod.FromTemplate(t, api.StatefulSets.Facts, s)
	p.GenerateName = ""
	p.Name = podName(s, n)
	identify(s, p)
	p.Labels[apps.StatefulSetRevisionLabel] = revision
	p.Spec.Hostname, p.Spec.Subdomain = p.Name, s.Spec.ServiceName
	mount(s, p)
	return p
}

// identify puts the labels on a pod that tell it from its siblings.
func identify(s *apps.StatefulSet, p *core.Pod) {
	p.Namespace = s.Namespace
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[apps.StatefulSetPodNameLabel] = p.Name
	p.Labels[apps.PodIndexLabel] = strconv.Itoa(ordinal(p))
}

func identified(p *core.Pod) bool { return p.Labels[apps.StatefulSetPodNameLabel] == p.Name }

// mount gives the pod a volume for each claim, in place of one of the same name.
func mount(s *apps.StatefulSet, p *core.Pod) {
	var volumes []core.Volume
	ours := map[string]bool{}
	for i := range s.Spec.VolumeClaimTemplates {
		t := &s.Spec.VolumeClaimTemplates[i]
		ours[t.Name] = true
		volumes = append(volumes, core.Volume{Name: t.Name, VolumeSource: core.VolumeSource{
			PersistentVolumeClaim: &core.PersistentVolumeClaimVolumeSource{ClaimName: claimName(s, t, ordinal(p))}}})
	}
	for _, v := range p.Spec.Volumes {
		if !ours[v.Name] {
			volumes = append(volumes, v)
		}
	}
	p.Spec.Volumes = volumes
}

func mounted(s *apps.StatefulSet, p *core.Pod) bool {
	for i := range s.Spec.VolumeClaimTemplates {
		t := &s.Spec.VolumeClaimTemplates[i]
		if !slices.ContainsFunc(p.Spec.Volumes, func(v core.Volume) bool {
			return v.Name == t.Name && v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claimName(s, t, ordinal(p))
		}) {
			return false
		}
	}
	return true
}
