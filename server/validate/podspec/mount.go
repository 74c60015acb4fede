package podspec

import (
	"path"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

func (c *spec) mounts(ctr *core.Container, p *field.Path) {
	e := &c.Errors
	points := rule.Unique{}
	for i := range ctr.VolumeMounts {
		m, at := &ctr.VolumeMounts[i], p.Index(i)
		e.Need(at.Child("name"), m.Name)
		if c.volumes[m.Name] == nil {
			e.NotFound(at.Child("name"), m.Name)
		}
		e.Need(at.Child("mountPath"), m.MountPath)
		if points.Again(m.MountPath) {
			e.Invalid(at.Child("mountPath"), m.MountPath, "must be unique")
		}
		for _, d := range ctr.VolumeDevices {
			if d.Name == m.Name {
				e.Invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices")
			}
			if d.DevicePath == m.MountPath {
				e.Invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices")
			}
		}
		if m.SubPath != "" {
			c.descendingPath(m.SubPath, p.Child("subPath"))
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				e.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
			}
			c.descendingPath(m.SubPathExpr, p.Child("subPathExpr"))
		}
		c.propagation(ctr, m, p)
	}
}

func (c *spec) propagation(ctr *core.Container, m *core.VolumeMount, p *field.Path) {
	e := &c.Errors
	if m.MountPropagation != nil {
		at := p.Child("mountPropagation")
		rule.Among(e, at, *m.MountPropagation, core.MountPropagationBidirectional, core.MountPropagationHostToContainer, core.MountPropagationNone)
		privileged := ctr.SecurityContext != nil && ctr.SecurityContext.Privileged != nil && *ctr.SecurityContext.Privileged
		if *m.MountPropagation == core.MountPropagationBidirectional && !privileged {
			e.Forbidden(at, "Bidirectional mount propagation is available only to privileged containers")
		}
	}
	if m.RecursiveReadOnly == nil {
		return
	}
	at := p.Child("recursiveReadOnly")
	rule.Among(e, at, *m.RecursiveReadOnly, core.RecursiveReadOnlyDisabled, core.RecursiveReadOnlyIfPossible, core.RecursiveReadOnlyEnabled)
	if *m.RecursiveReadOnly == core.RecursiveReadOnlyEnabled || *m.RecursiveReadOnly == core.RecursiveReadOnlyIfPossible {
		if !m.ReadOnly {
			e.Forbidden(at, "may only be specified when readOnly is true")
		}
		if m.MountPropagation != nil && *m.MountPropagation != core.MountPropagationNone {
			e.Forbidden(at, "may only be specified when mountPropagation is None or not specified")
		}
	}
}

func (c *spec) devices(ctr *core.Container, p *field.Path) {
	e := &c.Errors
	names, paths := rule.Unique{}, rule.Unique{}
	for i, d := range ctr.VolumeDevices {
		at := p.Index(i)
		e.Need(at.Child("name"), d.Name)
		if d.Name != "" && names.Again(d.Name) {
			e.Invalid(at.Child("name"), d.Name, "must be unique")
		}
		if v := c.volumes[d.Name]; v == nil {
			e.NotFound(at.Child("name"), d.Name)
		} else if v.PersistentVolumeClaim == nil && v.Ephemeral == nil {
			e.Invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
		}
		e.Need(at.Child("devicePath"), d.DevicePath)
		if paths.Again(d.DevicePath) {
			e.Invalid(at.Child("devicePath"), d.DevicePath, "must be unique")
		}
		if backsteps(d.DevicePath) {
			e.Invalid(at.Child("devicePath"), d.DevicePath, "can not contain backsteps ('..')")
		}
		for _, m := range ctr.VolumeMounts {
			if m.Name == d.Name {
				e.Invalid(at.Child("name"), d.Name, "must not already exist in volumeMounts")
			}
			if m.MountPath == d.DevicePath {
				e.Invalid(at.Child("devicePath"), d.DevicePath, "must not already exist as a path in volumeMounts")
			}
		}
	}
}

func backsteps(p string) bool { return slices.Contains(strings.Split(p, "/"), "..") }

// noBacksteps refuses "..", descendingPath also a leading slash, localPath also
// names that begin with "..".
func (c *spec) noBacksteps(v string, p *field.Path) {
	if backsteps(v) {
		c.Invalid(p, v, "must not contain '..'")
	}
}

func (c *spec) descendingPath(v string, p *field.Path) {
	if path.IsAbs(v) {
		c.Invalid(p, v, "must be a relative path")
	}
	c.noBacksteps(v, p)
}

func (c *spec) localPath(v string, p *field.Path) {
	c.descendingPath(v, p)
	if strings.HasPrefix(v, "..") && !strings.HasPrefix(v, "../") {
		c.Invalid(p, v, "must not start with '..'")
	}
}
