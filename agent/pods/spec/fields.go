package spec

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// field resolves a fieldRef of an environment variable: the pod's addresses are
// those of its sandbox, which the status may not show yet.
func (in Input) field(path string) (string, error) {
	switch path {
	case "status.hostIP":
		return first(in.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(in.HostIPs, ","), nil
	case "status.podIP":
		return first(in.PodIPs), nil
	case "status.podIPs":
		return strings.Join(in.PodIPs, ","), nil
	}
	return Field(in.Pod, path)
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// Field resolves a fieldRef of a pod, as environment variables and downward API
// volumes use it.
func Field(pod *core.Pod, path string) (string, error) {
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return lines(pod.Labels), nil
	case "metadata.annotations":
		return lines(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	}
	if base, key, ok := strings.Cut(strings.TrimSuffix(path, "']"), "['"); ok {
		switch base {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

// lines formats a map as the downward API does: key="escaped value" per line.
func lines(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%v=%q", k, m[k]))
	}
	return strings.Join(out, "\n")
}

func (in Input) resource(r *core.ResourceFieldSelector) (string, error) {
	c := in.Container
	if r.ContainerName != "" && r.ContainerName != c.Name {
		var err error
		if c, err = containerNamed(in.Pod, r.ContainerName); err != nil {
			return "", err
		}
	}
	return Resource(c, r, in.Allocatable)
}

func containerNamed(pod *core.Pod, name string) (*core.Container, error) {
	for _, list := range [][]core.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i], nil
			}
		}
	}
	return nil, fmt.Errorf("container %s not found", name)
}

// Resource resolves a resourceFieldRef of a container. A limit that is not set is
// what the node can give.
func Resource(c *core.Container, r *core.ResourceFieldSelector, allocatable core.ResourceList) (string, error) {
	kind, name, _ := strings.Cut(r.Resource, ".")
	res := core.ResourceName(name)
	var q resource.Quantity
	switch kind {
	case "limits":
		var ok bool
		if q, ok = c.Resources.Limits[res]; !ok {
			q = allocatable[res]
		}
	case "requests":
		q = c.Resources.Requests[res]
	default:
		return "", fmt.Errorf("unsupported container resource : %v", r.Resource)
	}
	divisor := r.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if res == core.ResourceCPU {
		return strconv.FormatInt(int64(math.Ceil(float64(q.MilliValue())/float64(divisor.MilliValue()))), 10), nil
	}
	return strconv.FormatInt(int64(math.Ceil(float64(q.Value())/float64(divisor.Value()))), 10), nil
}
