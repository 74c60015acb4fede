package podspec

import (
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (c *spec) env(vars []core.EnvVar, p *field.Path) {
	e := &c.Errors
	for i := range vars {
		v, at := &vars[i], p.Index(i)
		if v.Name == "" {
			e.Required(at.Child("name"), "")
		} else {
			e.Each(at.Child("name"), v.Name, validation.IsRelaxedEnvVarName(v.Name))
		}
		if v.ValueFrom != nil {
			c.envValue(v, at.Child("valueFrom"))
		}
	}
}

func (c *spec) envValue(v *core.EnvVar, p *field.Path) {
	e, from, n := &c.Errors, v.ValueFrom, 0
	if from.FieldRef != nil {
		n++
		c.fieldRef(from.FieldRef, envFields, p.Child("fieldRef"))
	}
	if from.ResourceFieldRef != nil {
		n++
		c.resourceRef(from.ResourceFieldRef, false, p.Child("resourceFieldRef"))
	}
	if r := from.ConfigMapKeyRef; r != nil {
		n++
		c.keyRef(r.Name, r.Key, p.Child("configMapKeyRef"))
	}
	if r := from.SecretKeyRef; r != nil {
		n++
		c.keyRef(r.Name, r.Key, p.Child("secretKeyRef"))
	}
	if r := from.FileKeyRef; r != nil {
		n++
		c.fileKeyRef(r, p.Child("fileKeyRef"))
	}
	switch {
	case n == 0:
		e.Invalid(p, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
	case v.Value != "":
		e.Invalid(p, "", "may not be specified when `value` is not empty")
	case n > 1:
		e.Invalid(p, "", "may not have more than one field specified at a time")
	}
}

func (c *spec) keyRef(name, key string, p *field.Path) {
	c.ObjectName(p.Child("name"), name)
	if key == "" {
		c.Required(p.Child("key"), "")
		return
	}
	c.Each(p.Child("key"), key, validation.IsConfigMapKey(key))
}

func (c *spec) fileKeyRef(r *core.FileKeySelector, p *field.Path) {
	e := &c.Errors
	if r.Key == "" {
		e.Required(p.Child("key"), "")
	} else {
		e.Each(p.Child("key"), r.Key, validation.IsRelaxedEnvVarName(r.Key))
	}
	if r.VolumeName == "" {
		e.Required(p.Child("volumeName"), "")
	} else if v := c.volumes[r.VolumeName]; v == nil {
		e.NotFound(p.Child("volumeName"), r.VolumeName)
	} else if v.EmptyDir == nil {
		e.Invalid(p.Child("volumeName"), r.VolumeName, "referenced volume must be of type emptyDir")
	}
	if r.Path == "" {
		e.Required(p.Child("path"), "")
	} else {
		c.localPath(r.Path, p.Child("path"))
	}
}

func (c *spec) envFrom(list []core.EnvFromSource, p *field.Path) {
	e := &c.Errors
	for i := range list {
		from, at, n := &list[i], p.Index(i), 0
		if from.Prefix != "" {
			e.Each(at.Child("prefix"), from.Prefix, validation.IsRelaxedEnvVarName(from.Prefix))
		}
		source := func(name string, p *field.Path) {
			n++
			if name == "" {
				e.Required(p.Child("name"), "")
				return
			}
			e.Each(p.Child("name"), name, apimachinery.NameIsDNSSubdomain(name, true))
		}
		if from.ConfigMapRef != nil {
			source(from.ConfigMapRef.Name, at.Child("configMapRef"))
		}
		if from.SecretRef != nil {
			source(from.SecretRef.Name, at.Child("secretRef"))
		}
		switch {
		case n == 0:
			e.Invalid(p, "", "must specify one of: `configMapRef` or `secretRef`")
		case n > 1:
			e.Invalid(p, "", "may not have more than one field specified at a time")
		}
	}
}

// Fields of a pod that can be given to its containers, by variable and by file.
var (
	envFields = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	fileFields = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	knownToV1  = []string{"spec.restartPolicy", "spec.schedulerName", "status.phase", "spec.host"}
)

func (c *spec) fieldRef(r *core.ObjectFieldSelector, allowed []string, p *field.Path) {
	e := &c.Errors
	if r.APIVersion == "" {
		e.Required(p.Child("apiVersion"), "")
		return
	}
	if r.FieldPath == "" {
		e.Required(p.Child("fieldPath"), "")
		return
	}
	if r.APIVersion != "v1" {
		e.Invalid(p.Child("fieldPath"), r.FieldPath, "error converting fieldPath: unsupported pod version: "+r.APIVersion)
		return
	}
	if path, key, ok := subscript(r.FieldPath); ok {
		switch path {
		case "metadata.annotations":
			e.Qualified(p, strings.ToLower(key))
		case "metadata.labels":
			e.Qualified(p, key)
		default:
			e.Invalid(p.Child("fieldPath"), r.FieldPath, fmt.Sprintf("error converting fieldPath: field label does not support subscript: %s", r.FieldPath))
		}
		return
	}
	switch {
	case slices.Contains(allowed, r.FieldPath):
	case slices.Contains(envFields, r.FieldPath), slices.Contains(fileFields, r.FieldPath), slices.Contains(knownToV1, r.FieldPath):
		e.Add(field.NotSupported(p.Child("fieldPath"), r.FieldPath, slices.Sorted(slices.Values(allowed))))
	default:
		e.Invalid(p.Child("fieldPath"), r.FieldPath, fmt.Sprintf("error converting fieldPath: field label not supported: %s", r.FieldPath))
	}
}

// subscript splits metadata.labels['key'].
func subscript(path string) (before, key string, ok bool) {
	s, ok := strings.CutSuffix(path, "']")
	if !ok {
		return path, "", false
	}
	before, key, ok = strings.Cut(s, "['")
	return before, key, ok && before != ""
}

var containerResources = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"}

func (c *spec) resourceRef(r *core.ResourceFieldSelector, inVolume bool, p *field.Path) {
	e := &c.Errors
	pages := strings.HasPrefix(r.Resource, "requests.hugepages-") || strings.HasPrefix(r.Resource, "limits.hugepages-")
	switch {
	case inVolume && r.ContainerName == "":
		e.Required(p.Child("containerName"), "")
	case r.Resource == "":
		e.Required(p.Child("resource"), "")
	case !pages && !slices.Contains(containerResources, r.Resource):
		e.Add(field.NotSupported(p.Child("resource"), r.Resource, containerResources))
	}
	if r.Divisor.IsZero() {
		return
	}
	const sizes = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei"
	words, of := sizes, "memory"
	switch {
	case strings.HasSuffix(r.Resource, ".cpu"):
		if d := r.Divisor.String(); d != "1m" && d != "1" {
			e.Invalid(p.Child("divisor"), r.Resource, "only divisor's values 1m and 1 are supported with the cpu resource")
		}
		return
	case strings.HasSuffix(r.Resource, ".ephemeral-storage"):
		of = "local ephemeral storage"
	case pages:
		of = "hugepages"
	case !strings.HasSuffix(r.Resource, ".memory"):
		return
	}
	if !slices.Contains(strings.Split(words, ", "), r.Divisor.String()) {
		e.Invalid(p.Child("divisor"), r.Resource, fmt.Sprintf("only divisor's values %s are supported with the %s resource", words, of))
	}
}
