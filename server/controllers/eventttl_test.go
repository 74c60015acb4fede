package controllers_test

import (
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
)

func TestEventsExpireAnHourAfterTheyWereSeen(t *testing.T) {
	c := start(t)
	event := func(name string, seen time.Time) {
		make_(c, api.Events, &core.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			InvolvedObject: core.ObjectReference{Namespace: "default", Name: "x"}, LastTimestamp: metav1.NewTime(seen)})
	}
	c.sleep(61 * time.Minute) // objects are made by the real clock: they are old at once
	event("old", time.Now())
	event("fresh", time.Now().Add(30*time.Minute))
	c.await(func() string {
		if e := client.Cached(c, api.Events, "default", "old"); e != nil {
			return "the old event is still there"
		}
		return ""
	})
	if client.Cached(c, api.Events, "default", "fresh") == nil {
		t.Error("an event that was seen within the hour is gone")
	}
}
