package spec

import (
	"fmt"
	"path/filepath"
	"strings"

	core "k8s.io/api/core/v1"

	"orch/agent/pods/plan"
	"orch/runtime/engine"
)

// security merges the pod's and the container's security context; the
// container's fields win.
func security(in Input) (engine.Security, engine.User, error) {
	pod, c := in.Pod.Spec.SecurityContext, in.Container.SecurityContext
	if pod == nil {
		pod = &core.PodSecurityContext{}
	}
	if c == nil {
		c = &core.SecurityContext{}
	}
	user := engine.User{
		UID: or(c.RunAsUser, pod.RunAsUser), GID: or(c.RunAsGroup, pod.RunAsGroup),
		StrictGroups: pod.SupplementalGroupsPolicy != nil && *pod.SupplementalGroupsPolicy == core.SupplementalGroupsPolicyStrict,
	}
	user.Groups = append(user.Groups, pod.SupplementalGroups...)
	if pod.FSGroup != nil {
		user.Groups = append(user.Groups, *pod.FSGroup)
	}
	if err := nonRoot(in, or(c.RunAsNonRoot, pod.RunAsNonRoot), user.UID); err != nil {
		return engine.Security{}, user, err
	}
	s := engine.Security{
		Privileged:      isTrue(c.Privileged),
		NoNewPrivileges: c.AllowPrivilegeEscalation != nil && !*c.AllowPrivilegeEscalation,
		ReadOnlyRoot:    isTrue(c.ReadOnlyRootFilesystem),
		Unmasked:        c.ProcMount != nil && *c.ProcMount == core.UnmaskedProcMount,
		Seccomp:         seccomp(or(c.SeccompProfile, pod.SeccompProfile), in.SeccompDir),
		AppArmor:        appArmor(or(c.AppArmorProfile, pod.AppArmorProfile)),
		SELinux:         seLinux(or(c.SELinuxOptions, pod.SELinuxOptions)),
	}
	if s.Privileged {
		s.Seccomp = "Unconfined"
	}
	if c.Capabilities != nil {
		s.AddCaps, s.DropCaps = capabilities(c.Capabilities.Add), capabilities(c.Capabilities.Drop)
	}
	return s, user, nil
}

// or is a unless it is nil.
func or[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

func isTrue(b *bool) bool { return b != nil && *b }

func capabilities(list []core.Capability) []string {
	var out []string
	for _, c := range list {
		out = append(out, strings.TrimPrefix(string(c), "CAP_"))
	}
	return out
}

// nonRoot is upstream's verifyRunAsNonRoot.
func nonRoot(in Input, want *bool, uid *int64) error {
	if !isTrue(want) {
		return nil
	}
	who := fmt.Sprintf("(pod: %q, container: %s)", plan.Format(in.Pod), in.Container.Name)
	switch {
	case uid != nil && *uid == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy %s", who)
	case uid != nil:
		return nil
	case in.Image.UID == nil && in.Image.Username != "":
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", in.Image.Username, who)
	case in.Image.UID == nil || *in.Image.UID == 0:
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", who)
	}
	return nil
}

func seccomp(p *core.SeccompProfile, dir string) string {
	switch {
	case p == nil || p.Type == core.SeccompProfileTypeUnconfined:
		return "Unconfined"
	case p.Type == core.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil:
		return filepath.Join(dir, *p.LocalhostProfile)
	}
	return "RuntimeDefault"
}

func appArmor(p *core.AppArmorProfile) string {
	switch {
	case p == nil || p.Type == core.AppArmorProfileTypeRuntimeDefault:
		return ""
	case p.Type == core.AppArmorProfileTypeLocalhost && p.LocalhostProfile != nil:
		return *p.LocalhostProfile
	}
	return "unconfined"
}

func seLinux(o *core.SELinuxOptions) string {
	if o == nil || *o == (core.SELinuxOptions{}) {
		return ""
	}
	part := func(s, or string) string {
		if s == "" {
			return or
		}
		return s
	}
	return strings.Join([]string{part(o.User, "system_u"), part(o.Role, "system_r"), part(o.Type, "container_t"), part(o.Level, "s0")}, ":")
}
