package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/api"
	"orch/server/access"
	"orch/server/registry"
)

// The steps in this file are off unless they are asked for, as upstream's plugins are.

// chosen are the steps that run: the usual ones, those that are switched on, without those
// that are switched off.
func chosen(all []step, on, off []string) ([]step, error) {
	known := func(flag, name string) error {
		if !slices.ContainsFunc(all, func(s step) bool { return s.name == name && !s.internal }) {
			return fmt.Errorf("%s plugin %q is unknown", flag, name)
		}
		return nil
	}
	for _, n := range on {
		if slices.Contains(off, n) {
			return nil, fmt.Errorf("%s in enable-admission-plugins and disable-admission-plugins overlapped", n)
		}
		if err := known("enable-admission-plugins", n); err != nil {
			return nil, err
		}
	}
	for _, n := range off {
		if err := known("disable-admission-plugins", n); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(all, func(s step) bool {
		return slices.Contains(off, s.name) || s.optional && !slices.Contains(on, s.name)
	}), nil
}

// alwaysPull makes nodes ask the registry about images that they have: who may use an image is
// decided there.
func (l *List) alwaysPull(_ context.Context, a *registry.Attributes) error {
	p, ok := object[core.Pod](a)
	if !ok || a.Operation != registry.Create && a.Operation != registry.Update || sameImages(a, p) {
		return nil
	}
	eachImage(p, func(policy *core.PullPolicy, _ *field.Path) { *policy = core.PullAlways })
	return nil
}

func (l *List) alwaysPullCheck(_ context.Context, a *registry.Attributes) error {
	p, ok := object[core.Pod](a)
	if !ok || a.Operation != registry.Create && a.Operation != registry.Update || sameImages(a, p) {
		return nil
	}
	var errs []error
	eachImage(p, func(policy *core.PullPolicy, at *field.Path) {
		if *policy != core.PullAlways {
			errs = append(errs, forbidden(a, field.NotSupported(at, *policy, []core.PullPolicy{core.PullAlways})))
		}
	})
	if len(errs) == 1 {
		return errs[0]
	}
	return utilerrors.NewAggregate(errs)
}

func eachImage(p *core.Pod, visit func(*core.PullPolicy, *field.Path)) {
	spec := field.NewPath("spec")
	for i := range p.Spec.InitContainers {
		visit(&p.Spec.InitContainers[i].ImagePullPolicy, spec.Child("initContainers").Index(i).Child("imagePullPolicy"))
	}
	for i := range p.Spec.Containers {
		visit(&p.Spec.Containers[i].ImagePullPolicy, spec.Child("containers").Index(i).Child("imagePullPolicy"))
	}
	for i := range p.Spec.EphemeralContainers {
		visit(&p.Spec.EphemeralContainers[i].ImagePullPolicy, spec.Child("ephemeralContainers").Index(i).Child("imagePullPolicy"))
	}
	for i := range p.Spec.Volumes {
		if v := p.Spec.Volumes[i].Image; v != nil {
			visit(&v.PullPolicy, spec.Child("volumes").Index(i).Child("image", "pullPolicy"))
		}
	}
}

// sameImages: an update that brings no image changes nothing.
func sameImages(a *registry.Attributes, p *core.Pod) bool {
	o := old[core.Pod](a)
	if o == nil {
		return false
	}
	images := func(p *core.Pod) (out []string) {
		for _, list := range [][]core.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for _, c := range list {
				out = append(out, c.Image)
			}
		}
		for _, c := range p.Spec.EphemeralContainers {
			out = append(out, c.Image)
		}
		return out
	}
	return slices.Equal(images(p), images(o))
}

// denyExternalIPs: external addresses of Services may go but not come.
func (l *List) denyExternalIPs(_ context.Context, a *registry.Attributes) error {
	s, ok := object[core.Service](a)
	if !ok || a.Operation != registry.Create && a.Operation != registry.Update {
		return nil
	}
	var had []string
	if o := old[core.Service](a); o != nil {
		had = o.Spec.ExternalIPs
	}
	if slices.ContainsFunc(s.Spec.ExternalIPs, func(ip string) bool { return !slices.Contains(had, ip) }) {
		return forbid(a, "Use of external IPs is denied by admission control.")
	}
	return nil
}

// tolerating is upstream's name of the step.
const tolerating = "ExtendedResourceToleration"

// tolerateExtended lets a pod onto nodes that are tainted with the name of a resource that it asks for.
func (l *List) tolerateExtended(_ context.Context, a *registry.Attributes) error {
	p, ok := object[core.Pod](a)
	if !ok || a.Operation != registry.Create && a.Operation != registry.Update {
		return nil
	}
	var names []string
	for _, c := range slices.Concat(p.Spec.Containers, p.Spec.InitContainers) {
		for n := range c.Resources.Requests {
			if s := string(n); strings.Contains(s, "/") && !strings.Contains(s, "kubernetes.io/") && !strings.HasPrefix(s, "requests.") {
				names = append(names, s)
			}
		}
	}
	// A node that is tainted for its GPUs has them under several names.
	if l.cfg.GPUTaint && slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "nvidia.com/") }) {
		names = append(names, api.GPUTaintKey)
	}
	slices.Sort(names)
	for _, n := range slices.Compact(names) {
		t := core.Toleration{Key: n, Operator: core.TolerationOpExists, Effect: core.TaintEffectNoSchedule}
		if !slices.ContainsFunc(p.Spec.Tolerations, func(have core.Toleration) bool { return have.MatchToleration(&t) }) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, t)
		}
	}
	return nil
}

// ownerPermission: who gives an object an owner must be able to delete it, and who makes it hold
// up its owner's deletion must be able to set the owner's finalizers.
func (l *List) ownerPermission(ctx context.Context, a *registry.Attributes) error {
	n, ok := a.Object.(api.Object)
	if !ok || a.Resource.Computed || a.Operation != registry.Create && a.Operation != registry.Update || a.Resource.Facts == api.Pods.Facts && a.Subresource == "status" {
		return nil
	}
	var had []metav1.OwnerReference
	if o, ok := a.Old.(api.Object); ok && a.Old != nil {
		had = o.GetOwnerReferences()
	}
	if equality.Semantic.DeepEqual(n.GetOwnerReferences(), had) {
		return nil
	}
	may := func(at access.Attributes) (bool, string) {
		at.User = a.User
		ok, reason, _ := l.cfg.Access.Authorize(ctx, at)
		return ok, reason
	}
	if a.Operation != registry.Create { // one's own new object one may give away
		ok, why := may(access.Attributes{Verb: "delete", Namespace: a.Namespace, Group: a.Resource.Group, Version: a.Resource.Version, Resource: a.Resource.Plural, Name: a.Name})
		if !ok {
			return forbid(a, "cannot set an ownerRef on a resource you can't delete: %v, %v", why, nil)
		}
	}
	blocks := func(r metav1.OwnerReference) bool { return r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion }
	for _, r := range n.GetOwnerReferences() {
		if !blocks(r) || slices.ContainsFunc(had, func(o metav1.OwnerReference) bool { return o.UID == r.UID && blocks(o) }) {
			continue
		}
		at := access.Attributes{Verb: "update", Subresource: "finalizers", Name: r.Name}
		for _, row := range l.cfg.Registry.Resources() {
			if row.GroupVersion().String() == r.APIVersion && row.Facts.Kind == r.Kind {
				at.Group, at.Version, at.Resource = row.Group, row.Version, row.Plural
				if !row.Cluster {
					at.Namespace = a.Namespace
				}
			}
		}
		if at.Resource == "" {
			return forbid(a, "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %v Kind %v", r.APIVersion, r.Kind)
		}
		if ok, why := may(at); !ok {
			return forbid(a, "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: %v, %v", why, nil)
		}
	}
	return nil
}
