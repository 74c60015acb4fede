package cronjob

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/server/controllers/workpod"
)

// plan says what to do for a cron job.
type plan struct {
	// remove are finished jobs beyond the history limits, replace those that run when the next is due.
	remove, replace []*batch.Job
	// create is the job that is due, at the time that scheduled says; nil for none.
	create    *batch.Job
	scheduled time.Time
	status    batch.CronJobStatus
	events    []event
	// after is the wait until the next start.
	after time.Duration
}

// event is something to tell about the cron job.
type event struct{ kind, reason, message string }

func (p *plan) tell(kind, reason, format string, args ...any) {
	p.events = append(p.events, event{kind, reason, fmt.Sprintf(format, args...)})
}

// makePlan looks through the jobs, then at the clock.
func makePlan(c *batch.CronJob, jobs []*batch.Job, now time.Time) plan {
	p := plan{status: *c.Status.DeepCopy()}
	p.clean(c, jobs)
	p.follow(jobs)
	if c.DeletionTimestamp == nil {
		p.schedule(c, jobs, now)
	}
	return p
}

// ended returns the condition in which a job is finished; empty if it is not.
func ended(j *batch.Job) batch.JobConditionType {
	for _, c := range j.Status.Conditions {
		if (c.Type == batch.JobComplete || c.Type == batch.JobFailed) && c.Status == core.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

// clean plans the removal of the oldest finished jobs.
func (p *plan) clean(c *batch.CronJob, jobs []*batch.Job) {
	for _, kind := range []struct {
		end   batch.JobConditionType
		limit *int32
	}{{batch.JobComplete, c.Spec.SuccessfulJobsHistoryLimit}, {batch.JobFailed, c.Spec.FailedJobsHistoryLimit}} {
		if kind.limit == nil {
			continue
		}
		var done []*batch.Job
		for _, j := range jobs {
			if ended(j) == kind.end {
				done = append(done, j)
			}
		}
		slices.SortFunc(done, byStart)
		p.remove = append(p.remove, done[:max(len(done)-int(*kind.limit), 0)]...)
	}
	p.remove = slices.DeleteFunc(p.remove, func(j *batch.Job) bool { return j.DeletionTimestamp != nil })
	for _, j := range p.remove {
		p.forget(j.UID)
	}
}

// byStart sorts by start; jobs that never started come last.
func byStart(a, b *batch.Job) int {
	switch x, y := a.Status.StartTime, b.Status.StartTime; {
	case x == nil && y != nil:
		return 1
	case x != nil && y == nil:
		return -1
	case x != nil:
		return cmp.Or(x.Compare(y.Time), cmp.Compare(a.Name, b.Name))
	}
	return cmp.Compare(a.Name, b.Name)
}

func (p *plan) forget(id types.UID) {
	p.status.Active = slices.DeleteFunc(p.status.Active, func(r core.ObjectReference) bool { return r.UID == id })
}

func (p *plan) runs(id types.UID) bool {
	return slices.ContainsFunc(p.status.Active, func(r core.ObjectReference) bool { return r.UID == id })
}

// follow takes jobs that are finished or gone off the list of those that run.
func (p *plan) follow(jobs []*batch.Job) {
	there := map[types.UID]bool{}
	for _, j := range jobs {
		there[j.UID] = true
		end := ended(j)
		switch listed := p.runs(j.UID); {
		case !listed && end == "":
			p.tell(core.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", j.Name)
		case listed && end != "":
			p.forget(j.UID)
			p.tell(core.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", j.Name, end)
		}
		if at := j.Status.CompletionTime; end == batch.JobComplete && at != nil && (p.status.LastSuccessfulTime == nil || at.After(p.status.LastSuccessfulTime.Time)) {
			p.status.LastSuccessfulTime = at
		}
	}
	for _, r := range slices.Clone(p.status.Active) {
		if !there[r.UID] {
			p.tell(core.EventTypeNormal, "MissingJob", "Active job went missing: %v", r.Name)
			p.forget(r.UID)
		}
	}
}

// schedule plans the job that is due, if one is.
func (p *plan) schedule(c *batch.CronJob, jobs []*batch.Job, now time.Time) {
	if z := c.Spec.TimeZone; z != nil {
		if _, err := time.LoadLocation(*z); err != nil {
			p.tell(core.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %q: %s", *z, err)
			return
		}
	}
	if c.Spec.Suspend != nil && *c.Spec.Suspend {
		return
	}
	if strings.Contains(c.Spec.Schedule, "TZ") {
		p.tell(core.EventTypeWarning, "UnsupportedSchedule", "CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", c.Spec.Schedule)
	}
	s, err := parse(c)
	if err != nil {
		p.tell(core.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %q : %s", c.Spec.Schedule, err)
		return
	}
	m, err := due(c, s, now, true)
	if err != nil {
		p.tell(core.EventTypeWarning, "InvalidSchedule", "invalid schedule: %s : %s", c.Spec.Schedule, err)
		return
	}
	if m.count > manyMissed && !m.last.IsZero() {
		p.tell(core.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if !m.last.IsZero() {
		p.start(c, jobs, m.last, now)
	}
	p.wait(c, s, now)
}

// wait notes when the next start is, counted from the one that is planned.
func (p *plan) wait(c *batch.CronJob, s cron.Schedule, now time.Time) {
	if p.create != nil {
		next := *c
		next.Status.LastScheduleTime = &metav1.Time{Time: p.scheduled}
		c = &next
	}
	p.after = max(untilNext(c, s, now), time.Millisecond)
}

// start plans the job of the time at, unless it is too late, done, or another is to end first.
func (p *plan) start(c *batch.CronJob, jobs []*batch.Job, at, now time.Time) {
	if d := c.Spec.StartingDeadlineSeconds; d != nil && at.Add(time.Duration(*d)*time.Second).Before(now) {
		p.tell(core.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", at.UTC().Format(time.RFC1123Z))
		return
	}
	name := jobName(c, at)
	listed := slices.ContainsFunc(p.status.Active, func(r core.ObjectReference) bool { return r.Name == name })
	if listed || (p.status.LastScheduleTime != nil && p.status.LastScheduleTime.Time.Equal(at)) {
		return
	}
	switch {
	case c.Spec.ConcurrencyPolicy == batch.ForbidConcurrent && len(p.status.Active) > 0:
		p.tell(core.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return
	case c.Spec.ConcurrencyPolicy == batch.ReplaceConcurrent:
		for _, j := range jobs {
			if p.runs(j.UID) {
				p.replace = append(p.replace, j)
			}
		}
		p.status.Active = nil
	}
	p.create, p.scheduled = newJob(c, name, at), at
}

// jobName is the same for every try to start the job of that minute, so that it cannot be started twice.
func jobName(c *batch.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", c.Name, at.Unix()/60)
}

func newJob(c *batch.CronJob, name string, at time.Time) *batch.Job {
	t := c.Spec.JobTemplate.DeepCopy()
	notes := maps.Clone(t.Annotations)
	if notes == nil {
		notes = map[string]string{}
	}
	zone := time.UTC
	if z := c.Spec.TimeZone; z != nil {
		if l, err := time.LoadLocation(*z); err == nil {
			zone = l
		}
	}
	notes[batch.CronJobScheduledTimestampAnnotation] = at.In(zone).Format(time.RFC3339)
	return &batch.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: name, Labels: t.Labels, Annotations: notes,
			OwnerReferences: []metav1.OwnerReference{workpod.OwnerRef(api.CronJobs.Facts, c)}},
		Spec: t.Spec,
	}
}
