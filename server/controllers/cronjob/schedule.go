package cronjob

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batch "k8s.io/api/batch/v1"
)

const (
	// manyMissed starts are worth a warning.
	manyMissed = 100
	// delta is added to every wait, so that clocks that differ a little do not wake it too early.
	delta = 100 * time.Millisecond
)

// parse reads the schedule in its time zone. The parser panics on some input.
func parse(c *batch.CronJob) (s cron.Schedule, err error) {
	defer func() {
		if r := recover(); r != nil {
			s, err = nil, fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	text := c.Spec.Schedule
	if c.Spec.TimeZone != nil && !strings.Contains(text, "TZ") {
		if _, err := time.LoadLocation(*c.Spec.TimeZone); err == nil {
			text = "TZ=" + *c.Spec.TimeZone + " " + text
		}
	}
	return cron.ParseStandard(text)
}

// missed is what was due since the last start.
type missed struct {
	// since is when the search began, last the newest time that was due; zero: none was.
	since, last time.Time
	count       int64
}

// due finds the newest time at which a job should have been started. deadline leaves
// out what is too old to be started anyway.
func due(c *batch.CronJob, s cron.Schedule, now time.Time, deadline bool) (missed, error) {
	m := missed{since: c.CreationTimestamp.Time}
	if c.Status.LastScheduleTime != nil {
		m.since = c.Status.LastScheduleTime.Time
	}
	if d := c.Spec.StartingDeadlineSeconds; deadline && d != nil {
		if oldest := now.Add(-time.Duration(*d) * time.Second); oldest.After(m.since) {
			m.since = oldest
		}
	}
	first := s.Next(m.since)
	second := s.Next(first)
	switch {
	case now.Before(first):
		return m, nil
	case now.Before(second):
		m.last = first
		return m, nil
	}
	step := second.Sub(first).Round(time.Second)
	if step < time.Second { // such as the 31st of February
		return m, errors.New("time difference between two schedules is less than 1 second")
	}
	m.count = int64(now.Sub(first)/step) + 1
	// Steps may differ: the count is a guess, and the search begins two steps before its end.
	for t := s.Next(first.Add(time.Duration(m.count-2) * step)); !t.After(now); t = s.Next(t) {
		m.last = t
	}
	return m, nil
}

// untilNext is the wait until the next start.
func untilNext(c *batch.CronJob, s cron.Schedule, now time.Time) time.Duration {
	m, err := due(c, s, now, false)
	from := m.last
	if err != nil || (from.IsZero() && m.count > 0) {
		from = now
	} else if from.IsZero() {
		from = m.since
	}
	return s.Next(from).Add(delta).Sub(now)
}
