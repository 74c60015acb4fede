package podspec

import (
	"fmt"
	"regexp"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

func (c *spec) checkPodSecurity(p *field.Path) {
	e, s, at := &c.Errors, c.SecurityContext, p.Child("securityContext")
	if !c.hostUsers {
		const why = "when `pod.Spec.HostUsers` is false"
		for _, f := range []struct {
			name string
			on   bool
		}{{"hostNetwork", c.HostNetwork}, {"HostPID", c.HostPID}, {"HostIPC", c.HostIPC}} {
			if f.on {
				e.Forbidden(p.Child(f.name), why)
			}
		}
	}
	if c.ShareProcessNamespace != nil && *c.ShareProcessNamespace && c.HostPID {
		e.Invalid(at.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	if s == nil {
		return
	}
	c.ids(s.RunAsUser, s.RunAsGroup, at)
	if s.FSGroup != nil {
		e.Each(at.Child("fsGroup"), *s.FSGroup, validation.IsValidGroupID(*s.FSGroup))
	}
	for i, gid := range s.SupplementalGroups {
		e.Each(at.Child("supplementalGroups").Index(i), gid, validation.IsValidGroupID(gid))
	}
	c.sysctls(s.Sysctls, at.Child("sysctls"))
	if s.FSGroupChangePolicy != nil {
		rule.Among(e, at.Child("fsGroupChangePolicy"), *s.FSGroupChangePolicy, core.FSGroupChangeOnRootMismatch, core.FSGroupChangeAlways)
	}
	if s.SupplementalGroupsPolicy != nil {
		rule.Among(e, at.Child("supplementalGroupsPolicy"), *s.SupplementalGroupsPolicy, core.SupplementalGroupsPolicyMerge, core.SupplementalGroupsPolicyStrict)
	}
	if s.SELinuxChangePolicy != nil {
		rule.Among(e, at.Child("seLinuxChangePolicy"), *s.SELinuxChangePolicy, core.SELinuxChangePolicyMountOption, core.SELinuxChangePolicyRecursive)
	}
	c.seccomp(s.SeccompProfile, at.Child("seccompProfile"))
	c.appArmor(s.AppArmorProfile, at.Child("appArmorProfile"))
}

func (c *spec) ids(user, group *int64, p *field.Path) {
	if user != nil {
		c.Each(p.Child("runAsUser"), *user, validation.IsValidUserID(*user))
	}
	if group != nil {
		c.Each(p.Child("runAsGroup"), *group, validation.IsValidGroupID(*group))
	}
}

func (c *spec) security(s *core.SecurityContext, p *field.Path) {
	if s == nil {
		return
	}
	e := &c.Errors
	c.ids(s.RunAsUser, s.RunAsGroup, p)
	if m := s.ProcMount; m != nil {
		rule.Among(e, p.Child("procMount"), *m, core.DefaultProcMount, core.UnmaskedProcMount)
		if c.hostUsers && *m == core.UnmaskedProcMount {
			e.Invalid(p.Child("procMount"), *m, "`hostUsers` must be false to use `Unmasked`")
		}
	}
	c.seccomp(s.SeccompProfile, p.Child("seccompProfile"))
	if s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation {
		if s.Privileged != nil && *s.Privileged {
			e.Invalid(p, s, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
		}
		if s.Capabilities != nil {
			for _, added := range s.Capabilities.Add {
				if added == "CAP_SYS_ADMIN" {
					e.Invalid(p, s, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
				}
			}
		}
	}
	c.appArmor(s.AppArmorProfile, p.Child("appArmorProfile"))
}

func (c *spec) seccomp(s *core.SeccompProfile, p *field.Path) {
	if s == nil {
		return
	}
	e := &c.Errors
	kinds := []core.SeccompProfileType{core.SeccompProfileTypeLocalhost, core.SeccompProfileTypeRuntimeDefault, core.SeccompProfileTypeUnconfined}
	switch s.Type {
	case kinds[0], kinds[1], kinds[2]:
	case "":
		e.Required(p.Child("type"), "type is required when seccompProfile is set")
	default:
		e.Add(field.NotSupported(p.Child("type"), s.Type, kinds))
	}
	switch local := p.Child("localhostProfile"); {
	case s.Type != core.SeccompProfileTypeLocalhost:
		if s.LocalhostProfile != nil {
			e.Invalid(local, s, "can only be set when seccomp type is Localhost")
		}
	case s.LocalhostProfile == nil:
		e.Required(local, "must be set when seccomp type is Localhost")
	default:
		c.descendingPath(*s.LocalhostProfile, local)
	}
}

func (c *spec) appArmor(a *core.AppArmorProfile, p *field.Path) {
	if a == nil {
		return
	}
	const pathMax = 4095
	e, local := &c.Errors, p.Child("localhostProfile")
	kinds := []core.AppArmorProfileType{core.AppArmorProfileTypeLocalhost, core.AppArmorProfileTypeRuntimeDefault, core.AppArmorProfileTypeUnconfined}
	switch a.Type {
	case core.AppArmorProfileTypeLocalhost:
		switch {
		case a.LocalhostProfile == nil || *a.LocalhostProfile == "":
			e.Required(local, "must be set when AppArmor type is Localhost")
		case strings.TrimSpace(*a.LocalhostProfile) != *a.LocalhostProfile:
			e.Invalid(local, *a.LocalhostProfile, "must not be padded with whitespace")
		case len(*a.LocalhostProfile) > pathMax:
			e.Add(field.TooLong(local, "", pathMax))
		}
	case core.AppArmorProfileTypeRuntimeDefault, core.AppArmorProfileTypeUnconfined:
		if a.LocalhostProfile != nil {
			e.Invalid(local, a.LocalhostProfile, "can only be set when AppArmor type is Localhost")
		}
	case "":
		e.Required(p.Child("type"), "type is required when appArmorProfile is set")
	default:
		e.Add(field.NotSupported(p.Child("type"), a.Type, kinds))
	}
}

const sysctlLength = 253

var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

func (c *spec) sysctls(list []core.Sysctl, p *field.Path) {
	e := &c.Errors
	seen := rule.Unique{}
	for i, s := range list {
		at := p.Index(i).Child("name")
		switch again := seen.Again(s.Name); {
		case s.Name == "":
			e.Required(at, "")
		case len(s.Name) > sysctlLength || !sysctlName.MatchString(s.Name):
			e.Invalid(at, s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", sysctlLength, sysctlName))
		case again:
			e.Duplicate(at, s.Name)
		}
		dotted := strings.ReplaceAll(s.Name, "/", ".")
		ipc := strings.HasPrefix(dotted, "kernel.shm") || strings.HasPrefix(dotted, "kernel.msg") || dotted == "kernel.sem" || strings.HasPrefix(dotted, "fs.mqueue.")
		switch {
		case c.HostNetwork && strings.HasPrefix(dotted, "net."):
			e.Invalid(at, s.Name, "may not be specified when 'hostNetwork' is true")
		case c.HostIPC && ipc:
			e.Invalid(at, s.Name, "may not be specified when 'hostIPC' is true")
		}
	}
}

// checkOS refuses what the operating system that the pod names does not have.
func (c *spec) checkOS(p *field.Path) {
	if c.OS == nil {
		return
	}
	e := &c.Errors
	switch c.OS.Name {
	case core.Linux:
		c.noWindowsOptions(p)
	case core.Windows:
		c.noLinuxOptions(p)
	case "":
		e.Required(p.Child("os", "name"), "cannot be empty")
	default:
		e.Add(field.NotSupported(p.Child("os"), c.OS.Name, []core.OSName{core.Linux, core.Windows}))
	}
}

func (c *spec) noWindowsOptions(p *field.Path) {
	const why = "windows options cannot be set for a linux pod"
	if s := c.SecurityContext; s != nil && s.WindowsOptions != nil {
		c.Forbidden(p.Child("securityContext", "windowsOptions"), why)
	}
	c.each(p, func(ctr *core.Container, p *field.Path) {
		if s := ctr.SecurityContext; s != nil && s.WindowsOptions != nil {
			c.Forbidden(p.Child("securityContext", "windowsOptions"), why)
		}
	})
}

func (c *spec) noLinuxOptions(p *field.Path) {
	no := func(set bool, p *field.Path) {
		if set {
			c.Forbidden(p, "cannot be set for a windows pod")
		}
	}
	if s, at := c.SecurityContext, p.Child("securityContext"); s != nil {
		no(s.AppArmorProfile != nil, at.Child("appArmorProfile"))
		no(s.SELinuxOptions != nil, at.Child("seLinuxOptions"))
		no(s.SeccompProfile != nil, at.Child("seccompProfile"))
		no(s.FSGroup != nil, at.Child("fsGroup"))
		no(s.FSGroupChangePolicy != nil, at.Child("fsGroupChangePolicy"))
		no(len(s.Sysctls) > 0, at.Child("sysctls"))
		no(s.RunAsUser != nil, at.Child("runAsUser"))
		no(s.RunAsGroup != nil, at.Child("runAsGroup"))
		no(s.SupplementalGroups != nil, at.Child("supplementalGroups"))
		no(s.SupplementalGroupsPolicy != nil, at.Child("supplementalGroupsPolicy"))
	}
	no(c.HostUsers != nil, p.Child("hostUsers"))
	no(c.HostPID, p.Child("hostPID"))
	no(c.HostIPC, p.Child("hostIPC"))
	no(c.ShareProcessNamespace != nil, p.Child("shareProcessNamespace"))
	c.each(p, func(ctr *core.Container, p *field.Path) {
		s, at := ctr.SecurityContext, p.Child("securityContext")
		if s == nil {
			return
		}
		no(s.AppArmorProfile != nil, at.Child("appArmorProfile"))
		no(s.SELinuxOptions != nil, at.Child("seLinuxOptions"))
		no(s.SeccompProfile != nil, at.Child("seccompProfile"))
		no(s.Capabilities != nil, at.Child("capabilities"))
		no(s.ReadOnlyRootFilesystem != nil, at.Child("readOnlyRootFilesystem"))
		no(s.Privileged != nil, at.Child("privileged"))
		no(s.AllowPrivilegeEscalation != nil, at.Child("allowPrivilegeEscalation"))
		no(s.ProcMount != nil, at.Child("procMount"))
		no(s.RunAsUser != nil, at.Child("runAsUser"))
		no(s.RunAsGroup != nil, at.Child("runAsGroup"))
	})
}

// each visits init and ordinary containers.
func (c *spec) each(p *field.Path, visit func(*core.Container, *field.Path)) {
	for i := range c.InitContainers {
		visit(&c.InitContainers[i], p.Child("initContainers").Index(i))
	}
	for i := range c.Containers {
		visit(&c.Containers[i], p.Child("containers").Index(i))
	}
}
