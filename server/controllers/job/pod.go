package job

import (
	"fmt"
	"slices"
	"strconv"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/server/controllers/workpod"
)

const (
	indexVariable = "JOB_COMPLETION_INDEX"
	// generatedMost is how long the beginning of a generated name may be.
	generatedMost = 58
)

// newPod makes a pod of the job's template.
func newPod(j *batch.Job, c creation) *core.Pod {
	p := workpod.FromTemplate(&j.Spec.Template, api.Jobs.Facts, j)
	if !tracked(p) {
		p.Finalizers = append(p.Finalizers, batch.JobTrackingFinalizer)
	}
	if c.index < 0 {
		return p
	}
	index := strconv.Itoa(c.index)
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Labels[batch.JobCompletionIndexAnnotation], p.Annotations[batch.JobCompletionIndexAnnotation] = index, index
	if j.Spec.BackoffLimitPerIndex != nil {
		p.Annotations[batch.JobIndexFailureCountAnnotation] = strconv.Itoa(int(c.counted))
		if c.ignored > 0 {
			p.Annotations[batch.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(int(c.ignored))
		}
	}
	p.Spec.Hostname = j.Name + "-" + index
	end := "-" + index + "-"
	p.GenerateName = j.Name[:min(len(j.Name), generatedMost-len(end))] + end
	for _, list := range [][]core.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			tellIndex(&list[i])
		}
	}
	return p
}

// tellIndex gives a container its index, unless the template says otherwise.
func tellIndex(c *core.Container) {
	if slices.ContainsFunc(c.Env, func(e core.EnvVar) bool { return e.Name == indexVariable }) {
		return
	}
	c.Env = append(c.Env, core.EnvVar{Name: indexVariable, ValueFrom: &core.EnvVarSource{
		FieldRef: &core.ObjectFieldSelector{FieldPath: fmt.Sprintf("metadata.labels['%s']", batch.JobCompletionIndexAnnotation)}}})
}
