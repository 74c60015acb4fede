package spec

import (
	"fmt"
	"slices"
	"sort"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Objects reads what environments refer to. Errors are the API server's.
type Objects interface {
	ConfigMap(namespace, name string) (*core.ConfigMap, error)
	Secret(namespace, name string) (*core.Secret, error)
}

// Vars is an ordered environment: the last value set for a name wins.
type Vars struct {
	names  []string
	values map[string]string
}

func (v *Vars) set(name, value string) {
	if v.values == nil {
		v.values = map[string]string{}
	}
	if _, ok := v.values[name]; !ok {
		v.names = append(v.names, name)
	}
	v.values[name] = value
}

// Lookup resolves a name, for $(NAME) references.
func (v *Vars) Lookup(name string) (string, bool) {
	s, ok := v.values[name]
	return s, ok
}

// List gives NAME=value in the order of setting.
func (v *Vars) List() []string {
	out := make([]string, 0, len(v.names))
	for _, n := range v.names {
		out = append(out, n+"="+v.values[n])
	}
	return out
}

// Env builds a container's environment as upstream's makeEnvironmentVariables:
// envFrom, then env (which may refer to what came before and to service
// variables), then the service variables that are still free. An error reads as
// the message of CreateContainerConfigError.
func Env(in Input) (*Vars, error) {
	vars := &Vars{}
	for _, e := range in.Devices.Env { // first: what the pod says itself wins
		vars.set(e.Name, e.Value)
	}
	services := serviceVars(in)
	if err := envFrom(vars, in); err != nil {
		return nil, err
	}
	lookup := func(name string) (string, bool) {
		if s, ok := vars.Lookup(name); ok {
			return s, true
		}
		s, ok := services.Lookup(name)
		return s, ok
	}
	for _, e := range in.Container.Env {
		value, skip, err := envValue(in, e, lookup)
		if err != nil {
			return nil, err
		}
		if !skip {
			vars.set(e.Name, value)
		}
	}
	for _, n := range services.names {
		if _, ok := vars.values[n]; !ok {
			vars.set(n, services.values[n])
		}
	}
	return vars, nil
}

func envFrom(vars *Vars, in Input) error {
	for _, from := range in.Container.EnvFrom {
		data := map[string]string{}
		switch {
		case from.ConfigMapRef != nil:
			cm, err := in.configMap(from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
			if err != nil {
				return err
			}
			if cm != nil {
				data = cm.Data
			}
		case from.SecretRef != nil:
			s, err := in.secret(from.SecretRef.Name, from.SecretRef.Optional)
			if err != nil {
				return err
			}
			if s != nil {
				for k, v := range s.Data {
					data[k] = string(v)
				}
			}
		}
		keys := make([]string, 0, len(data))
		for k := range data {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			vars.set(from.Prefix+k, data[k])
		}
	}
	return nil
}

func envValue(in Input, e core.EnvVar, lookup func(string) (string, bool)) (value string, skip bool, err error) {
	if e.Value != "" || e.ValueFrom == nil {
		return Expand(e.Value, lookup), false, nil
	}
	switch f := e.ValueFrom; {
	case f.FieldRef != nil:
		value, err = in.field(f.FieldRef.FieldPath)
	case f.ResourceFieldRef != nil:
		value, err = in.resource(f.ResourceFieldRef)
	case f.ConfigMapKeyRef != nil:
		r := f.ConfigMapKeyRef
		cm, err := in.configMap(r.Name, r.Optional)
		if err != nil || cm == nil {
			return "", true, err
		}
		value, ok := cm.Data[r.Key]
		if !ok {
			return "", true, missingKey(r.Optional, "couldn't find key %v in ConfigMap %v/%v", r.Key, in.Pod.Namespace, r.Name)
		}
		return value, false, nil
	case f.SecretKeyRef != nil:
		r := f.SecretKeyRef
		s, err := in.secret(r.Name, r.Optional)
		if err != nil || s == nil {
			return "", true, err
		}
		value, ok := s.Data[r.Key]
		if !ok {
			return "", true, missingKey(r.Optional, "couldn't find key %v in Secret %v/%v", r.Key, in.Pod.Namespace, r.Name)
		}
		return string(value), false, nil
	default:
		err = fmt.Errorf("environment variable %s has an unknown source", e.Name)
	}
	return value, false, err
}

func missingKey(optional *bool, format string, args ...any) error {
	if optional != nil && *optional {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func (in Input) configMap(name string, optional *bool) (*core.ConfigMap, error) {
	cm, err := in.Objects.ConfigMap(in.Pod.Namespace, name)
	return found(cm, err, optional, fmt.Sprintf("configmap %q not found", name))
}

func (in Input) secret(name string, optional *bool) (*core.Secret, error) {
	s, err := in.Objects.Secret(in.Pod.Namespace, name)
	return found(s, err, optional, fmt.Sprintf("secret %q not found", name))
}

// found turns a missing object into nothing if it is optional, else into
// upstream's sentence.
func found[T any](o *T, err error, optional *bool, missing string) (*T, error) {
	switch {
	case err == nil:
		return o, nil
	case !apierrors.IsNotFound(err):
		return nil, err
	case optional != nil && *optional:
		return nil, nil
	}
	return nil, fmt.Errorf("%s", missing)
}

// Refers tells whether a container needs the pod's address in its environment,
// so that it cannot be made before the network is there.
func Refers(c *core.Container) bool {
	return slices.ContainsFunc(c.Env, func(e core.EnvVar) bool {
		return e.ValueFrom != nil && e.ValueFrom.FieldRef != nil &&
			(e.ValueFrom.FieldRef.FieldPath == "status.podIP" || e.ValueFrom.FieldRef.FieldPath == "status.podIPs")
	})
}
