package podspec

import (
	"fmt"
	"reflect"
	"strings"
	"unicode"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

func (c *spec) checkContainers(p *field.Path) {
	e := &c.Errors
	if len(c.Containers) == 0 {
		e.Required(p, "")
		return
	}
	seen := rule.Unique{}
	for i := range c.Containers {
		ctr, at := &c.Containers[i], p.Index(i)
		c.container(ctr, at)
		if seen.Again(ctr.Name) {
			e.Duplicate(at.Child("name"), ctr.Name)
		}
		c.lifecycle(ctr, at)
		c.probes(ctr, at)
		c.restartPolicy(ctr, at)
	}
	c.hostPorts(c.Containers, p)
}

func (c *spec) checkInitContainers(p *field.Path) {
	e := &c.Errors
	seen := rule.Unique{}
	for i := range c.Containers {
		seen[c.Containers[i].Name] = true
	}
	for i := range c.InitContainers {
		ctr, at := &c.InitContainers[i], p.Index(i)
		c.container(ctr, at)
		c.restartPolicy(ctr, at)
		if ctr.Name != "" && seen.Again(ctr.Name) {
			e.Duplicate(at.Child("name"), ctr.Name)
		}
		c.hostPorts(c.InitContainers[i:i+1], p)
		if Sidecar(ctr) {
			c.lifecycle(ctr, at)
			c.probes(ctr, at)
			continue
		}
		const why = "may not be set for init containers without restartPolicy=Always"
		for _, f := range []struct {
			name string
			set  bool
		}{{"lifecycle", ctr.Lifecycle != nil}, {"livenessProbe", ctr.LivenessProbe != nil},
			{"readinessProbe", ctr.ReadinessProbe != nil}, {"startupProbe", ctr.StartupProbe != nil}} {
			if f.set {
				e.Forbidden(at.Child(f.name), why)
			}
		}
		if len(ctr.ResizePolicy) > 0 {
			e.Invalid(at.Child("resizePolicy"), ctr.ResizePolicy, "must not be set for init containers")
		}
	}
}

// Sidecar tells whether an init container keeps running beside the others.
func Sidecar(c *core.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == core.ContainerRestartPolicyAlways
}

// ephemeralMay lists the fields that an ephemeral container can have.
var ephemeralMay = map[string]bool{
	"Name": true, "Image": true, "Command": true, "Args": true, "WorkingDir": true, "EnvFrom": true, "Env": true,
	"VolumeMounts": true, "VolumeDevices": true, "TerminationMessagePath": true, "TerminationMessagePolicy": true,
	"ImagePullPolicy": true, "SecurityContext": true, "Stdin": true, "StdinOnce": true, "TTY": true,
}

func (c *spec) checkEphemeralContainers(p *field.Path) {
	const why = "cannot be set for an Ephemeral Container"
	e := &c.Errors
	lasting, all := rule.Unique{}, rule.Unique{}
	for _, list := range [][]core.Container{c.Containers, c.InitContainers} {
		for i := range list {
			lasting[list[i].Name], all[list[i].Name] = true, true
		}
	}
	for i := range c.EphemeralContainers {
		ec, at := &c.EphemeralContainers[i], p.Index(i)
		ctr := core.Container(ec.EphemeralContainerCommon)
		c.container(&ctr, at)
		e.Join(ImageSpaces(ctr.Image, at.Child("image")))
		if all.Again(ec.Name) {
			e.Duplicate(at.Child("name"), ec.Name)
		}
		if ec.TargetContainerName != "" && !lasting[ec.TargetContainerName] {
			e.NotFound(at.Child("targetContainerName"), ec.TargetContainerName)
		}
		v := reflect.ValueOf(ec.EphemeralContainerCommon)
		for j := range v.NumField() {
			if name := v.Type().Field(j).Name; !ephemeralMay[name] && !v.Field(j).IsZero() {
				e.Forbidden(at.Child(string(unicode.ToLower(rune(name[0])))+name[1:]), why)
			}
		}
		for j, m := range ec.VolumeMounts {
			if m.SubPath != "" {
				e.Forbidden(at.Child("volumeMounts").Index(j).Child("subPath"), why)
			}
			if m.SubPathExpr != "" {
				e.Forbidden(at.Child("volumeMounts").Index(j).Child("subPathExpr"), why)
			}
		}
	}
}

// ImageSpaces refuses blanks around an image name; only pods are held to it.
func ImageSpaces(image string, p *field.Path) field.ErrorList {
	if image != strings.TrimSpace(image) {
		return field.ErrorList{field.Invalid(p, image, "must not have leading or trailing whitespace")}
	}
	return nil
}

// container checks what all kinds of containers have.
func (c *spec) container(ctr *core.Container, p *field.Path) {
	e := &c.Errors
	if ctr.Name == "" {
		e.Required(p.Child("name"), "")
	} else {
		e.DNSLabel(p.Child("name"), ctr.Name)
	}
	e.Need(p.Child("image"), ctr.Image)
	rule.OneOf(e, p.Child("terminationMessagePolicy"), ctr.TerminationMessagePolicy, core.TerminationMessageReadFile, core.TerminationMessageFallbackToLogsOnError)
	c.ports(ctr.Ports, p.Child("ports"))
	c.env(ctr.Env, p.Child("env"))
	c.envFrom(ctr.EnvFrom, p.Child("envFrom"))
	c.mounts(ctr, p.Child("volumeMounts"))
	c.devices(ctr, p.Child("volumeDevices"))
	rule.OneOf(e, p.Child("imagePullPolicy"), ctr.ImagePullPolicy, core.PullAlways, core.PullIfNotPresent, core.PullNever)
	e.Join(resources(&ctr.Resources, c.claims, p.Child("resources")))
	c.resizePolicy(ctr.ResizePolicy, p.Child("resizePolicy"))
	c.security(ctr.SecurityContext, p.Child("securityContext"))
}

func (c *spec) ports(ports []core.ContainerPort, p *field.Path) {
	e := &c.Errors
	seen := rule.Unique{}
	for i, port := range ports {
		at := p.Index(i)
		if port.Name != "" {
			if complaints := validation.IsValidPortName(port.Name); len(complaints) > 0 {
				e.Each(at.Child("name"), port.Name, complaints)
			} else if seen.Again(port.Name) {
				e.Duplicate(at.Child("name"), port.Name)
			}
		}
		if port.ContainerPort == 0 {
			e.Required(at.Child("containerPort"), "")
		} else {
			e.Port(at.Child("containerPort"), port.ContainerPort)
		}
		if port.HostPort != 0 {
			e.Port(at.Child("hostPort"), port.HostPort)
		}
		rule.OneOf(e, at.Child("protocol"), port.Protocol, core.ProtocolTCP, core.ProtocolUDP, core.ProtocolSCTP)
	}
}

// hostPorts finds two containers that want the same port of the host.
func (c *spec) hostPorts(list []core.Container, p *field.Path) {
	seen := rule.Unique{}
	for i := range list {
		for j, port := range list[i].Ports {
			key := fmt.Sprintf("%s/%s/%d", port.Protocol, port.HostIP, port.HostPort)
			if port.HostPort != 0 && seen.Again(key) {
				c.Duplicate(p.Index(i).Child("ports").Index(j).Child("hostPort"), key)
			}
		}
	}
}

func (c *spec) resizePolicy(list []core.ContainerResizePolicy, p *field.Path) {
	e := &c.Errors
	seen := rule.Unique{}
	for i, policy := range list {
		if seen.Again(string(policy.ResourceName)) {
			e.Duplicate(p.Index(i), policy.ResourceName)
		}
		rule.OneOf(e, p, policy.ResourceName, core.ResourceCPU, core.ResourceMemory)
		rule.OneOf(e, p, policy.RestartPolicy, core.NotRequired, core.RestartContainer)
		if c.RestartPolicy == core.RestartPolicyNever && policy.RestartPolicy != core.NotRequired {
			e.Invalid(p, policy.RestartPolicy, "must be 'NotRequired' when `restartPolicy` is 'Never'")
		}
	}
}

func (c *spec) restartPolicy(ctr *core.Container, p *field.Path) {
	const most = 20
	e := &c.Errors
	if ctr.RestartPolicy != nil {
		rule.Among(e, p.Child("restartPolicy"), *ctr.RestartPolicy,
			core.ContainerRestartPolicyAlways, core.ContainerRestartPolicyNever, core.ContainerRestartPolicyOnFailure)
	}
	rules := p.Child("restartPolicyRules")
	if len(ctr.RestartPolicyRules) > 0 && ctr.RestartPolicy == nil {
		e.Required(p.Child("restartPolicy"), "must specify restartPolicy when restart rules are used")
	}
	if len(ctr.RestartPolicyRules) > most {
		e.Add(field.TooMany(rules, len(ctr.RestartPolicyRules), most))
	}
	for i, r := range ctr.RestartPolicyRules {
		at := rules.Index(i)
		rule.Among(e, at.Child("action"), r.Action, core.ContainerRestartRuleActionRestart, core.ContainerRestartRuleActionRestartAllContainers)
		if r.ExitCodes == nil {
			e.Required(at.Child("exitCodes"), "must be specified")
			continue
		}
		rule.Among(e, at.Child("exitCodes", "operator"), r.ExitCodes.Operator, core.ContainerRestartRuleOnExitCodesOpIn, core.ContainerRestartRuleOnExitCodesOpNotIn)
		if len(r.ExitCodes.Values) == 0 {
			e.Required(at.Child("exitCodes", "values"), "must specify at least one value")
		}
	}
}
