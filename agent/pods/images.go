package pods

import (
	"context"
	"errors"
	"fmt"
	"time"

	core "k8s.io/api/core/v1"

	"orch/agent/host"
	"orch/agent/image"
	"orch/agent/pods/plan"
	"orch/agent/pods/spec"
	"orch/agent/pods/status"
	"orch/runtime/engine"
)

// image makes sure that an image is there. A failure without a reason means that ctx ended.
func (s *starting) image(ctx context.Context, ref string, policy core.PullPolicy, tell func(eventType, reason, message string)) (engine.Image, *failure) {
	img, err := s.p.Puller.Ensure(ctx, image.Request{
		Image: ref, Policy: policy, Event: tell,
		Auths: func(ctx context.Context, ref string) []engine.Auth { return s.p.auths(ctx, s.pod, ref) },
	})
	switch {
	case err == nil:
		return img, nil
	case ctx.Err() != nil:
		return engine.Image{}, &failure{}
	}
	var e *image.Error
	if !errors.As(err, &e) {
		e = &image.Error{Reason: image.ErrImagePull, Err: err}
	}
	s.event(core.EventTypeWarning, "Failed", "Error: "+e.Reason)
	return engine.Image{}, &failure{reason: e.Reason, message: e.Err.Error(), image: ref}
}

// ImagesCame lets containers that wait for their next pull look at once.
func (p *Pods) ImagesCame() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.workers {
		w.box.post(func() {
			for _, c := range w.containers {
				if c.Busy == plan.Idle && (isPull(c.Waiting.Reason) || c.Waiting.Reason == status.ImagePullBackOff) {
					c.NotBefore, c.PullDelay = time.Time{}, 0
				}
			}
		})
	}
}

// imageVolumes makes sure that the images are there which the container mounts. What
// happens to them is told of the pod: they belong to no container.
func (s *starting) imageVolumes(ctx context.Context) *failure {
	s.volumes = map[string]engine.Image{}
	tell := func(t, reason, message string) { s.p.Events.EventAt(s.p.reference(s.pod, ""), t, reason, message) }
	for _, v := range s.pod.Spec.Volumes {
		if v.Image == nil || !mountedBy(s.named.Container, v.Name) {
			continue
		}
		img, f := s.image(ctx, v.Image.Reference, v.Image.PullPolicy, tell)
		if f != nil {
			return f
		}
		s.volumes[v.Name] = img
	}
	return nil
}

func mountedBy(c *core.Container, volume string) bool {
	for _, m := range c.VolumeMounts {
		if m.Name == volume {
			return true
		}
	}
	return false
}

// mountFailure is of a volume that cannot be mounted as it is, not of how it is asked for.
type mountFailure struct{ error }

// placeVolumes asks for the images and the parts of volumes that the container mounts.
func (s *starting) placeVolumes(ctx context.Context, in *spec.Input) error {
	for i, m := range in.Container.VolumeMounts {
		part := m.SubPath
		if m.SubPathExpr != "" {
			vars, err := spec.Env(*in)
			if err != nil {
				return err
			}
			part = spec.Expand(m.SubPathExpr, vars.Lookup)
		}
		if img, ok := s.volumes[m.Name]; ok {
			at, err := s.p.Volumes.Image(ctx, host.ImageVolume{Pod: s.pod.UID, Volume: m.Name, Image: img.ID, Path: part})
			if err != nil {
				return mountFailure{err}
			}
			in.Volumes[m.Name], in.SubPaths[i] = at, at.Path
			continue
		}
		v, ok := in.Volumes[m.Name]
		if part == "" || !ok {
			continue
		}
		path, err := s.p.Volumes.SubPath(ctx, host.SubPath{
			Pod: s.pod.UID, Volume: m.Name, Container: in.Container.Name, Index: i, Path: part, Host: v,
		})
		if err != nil {
			return fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", m.Name, in.Container.Name, err)
		}
		in.SubPaths[i] = path
	}
	return nil
}
