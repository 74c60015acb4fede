package job

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
)

// span is a run of completion indexes, both ends included.
type span struct{ from, to int }

// indexes are spans in order that neither overlap nor touch.
type indexes []span

// parseIndexes reads the form of the status, as in "0,2-5"; what cannot be read, or
// is not below completions, is left out.
func parseIndexes(s string, completions int) indexes {
	var all []span
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(from)
		b := a
		if err == nil && isRange {
			b, err = strconv.Atoi(to)
		}
		if err == nil && a >= 0 && a < completions && b >= a {
			all = append(all, span{a, min(b, completions-1)})
		}
	}
	return join(all)
}

// join sorts spans and makes one of those that overlap or touch.
func join(all []span) indexes {
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var out indexes
	for _, s := range all {
		if n := len(out); n > 0 && s.from <= out[n-1].to+1 {
			out[n-1].to = max(out[n-1].to, s.to)
			continue
		}
		out = append(out, s)
	}
	return out
}

func (x indexes) with(more ...int) indexes {
	all := slices.Clone([]span(x))
	for _, i := range more {
		all = append(all, span{i, i})
	}
	return join(all)
}

func (x indexes) union(y indexes) indexes { return join(slices.Concat([]span(x), []span(y))) }

func (x indexes) total() int {
	n := 0
	for _, s := range x {
		n += s.to - s.from + 1
	}
	return n
}

func (x indexes) has(i int) bool {
	_, found := slices.BinarySearchFunc(x, i, func(s span, i int) int {
		switch {
		case s.to < i:
			return -1
		case s.from > i:
			return 1
		}
		return 0
	})
	return found
}

// common counts the indexes that both have.
func (x indexes) common(y indexes) int {
	n := 0
	for i, j := 0, 0; i < len(x) && j < len(y); {
		n += max(min(x[i].to, y[j].to)-max(x[i].from, y[j].from)+1, 0)
		if x[i].to < y[j].to {
			i++
		} else {
			j++
		}
	}
	return n
}

// String is the form of the status; two neighbours are written with a comma.
func (x indexes) String() string {
	var b strings.Builder
	for _, s := range x {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(s.from))
		if s.to > s.from {
			b.WriteByte(",-"[min(s.to-s.from-1, 1)])
			b.WriteString(strconv.Itoa(s.to))
		}
	}
	return b.String()
}

// free are the first n indexes below completions that are not in x.
func (x indexes) free(n, completions int) []int {
	var out []int
	next := 0
	take := func(end int) {
		for ; next < min(end, completions) && len(out) < n; next++ {
			out = append(out, next)
		}
	}
	for _, s := range x {
		take(s.from)
		next = max(next, s.to+1)
	}
	take(completions)
	return out
}

// indexOf is the completion index of a pod; -1 if it has none, or none that counts for the job.
func indexOf(j *batch.Job, p *core.Pod) int {
	i, err := strconv.Atoi(p.Annotations[batch.JobCompletionIndexAnnotation])
	if err != nil || i < 0 || i >= completions(j) {
		return -1
	}
	return i
}

func indexed(j *batch.Job) bool {
	return j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batch.IndexedCompletion
}

func completions(j *batch.Job) int {
	if j.Spec.Completions == nil {
		return 0
	}
	return int(*j.Spec.Completions)
}

func indexesOf(j *batch.Job, pods []*core.Pod) (out []int) {
	for _, p := range pods {
		if i := indexOf(j, p); i >= 0 {
			out = append(out, i)
		}
	}
	return out
}

// failures reads a count from an annotation; 0 if it is none.
func failures(p *core.Pod, annotation string) int32 {
	n, err := strconv.ParseInt(p.Annotations[annotation], 10, 32)
	if err != nil || n < 0 {
		return 0
	}
	return int32(n)
}

// indexFailures is how often the pod's index had failed before it, counted and ignored.
func indexFailures(p *core.Pod) (counted, ignored int32) {
	return failures(p, batch.JobIndexFailureCountAnnotation), failures(p, batch.JobIndexIgnoredFailureCountAnnotation)
}
