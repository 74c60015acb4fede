package registry

import (
	"fmt"

	core "k8s.io/api/core/v1"
	events "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"orch/api"
	"orch/server/columns"
	"orch/server/validate"
)

// Events of both groups are one kind, stored as core events.

func eventRow() Resource {
	return Row(api.Events, Hooks[core.Event]{
		Validate: validate.Event, ValidateUpdate: validate.EventUpdate,
		Columns: columns.Event(), CreateOnUpdate: true, Lazy: true, NoGC: true,
		FieldNames: referenceFields("involvedObject", "reason", "reportingComponent", "source", "type"),
		Fields: func(o *core.Event) fields.Set {
			source := o.Source.Component
			if source == "" {
				source = o.ReportingController
			}
			set := referenceSet("involvedObject", &o.InvolvedObject)
			set["reason"], set["type"], set["source"], set["reportingComponent"] = o.Reason, o.Type, source, o.ReportingController
			return set
		},
	})
}

func eventV1Row() Resource {
	return Row(api.EventsV1, Hooks[events.Event]{
		Validate:       func(o *events.Event) validate.Errors { return validate.EventV1(coreEvent(o)) },
		ValidateUpdate: func(o, old *events.Event) validate.Errors { return validate.EventUpdate(coreEvent(o), coreEvent(old)) },
		Columns:        columns.Convert(columns.Event(), coreEvent),
		CreateOnUpdate: true, Lazy: true, NoGC: true,
		FieldNames: referenceFields("regarding", "reason", "reportingController", "type"),
		Fields: func(o *events.Event) fields.Set {
			set := referenceSet("regarding", &o.Regarding)
			set["reason"], set["type"], set["reportingController"] = o.Reason, o.Type, o.ReportingController
			return set
		},
		ToStored: func(o *events.Event) (runtime.Object, error) { return coreEvent(o), nil },
		FromStored: func(o runtime.Object) (*events.Event, error) {
			e, ok := o.(*core.Event)
			if !ok {
				return nil, fmt.Errorf("converting %T to an event", o)
			}
			return eventV1(e), nil
		},
	})
}

func referenceFields(of string, more ...string) []string {
	for _, name := range []string{"kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"} {
		more = append(more, of+"."+name)
	}
	return more
}

func referenceSet(of string, r *core.ObjectReference) fields.Set {
	return fields.Set{
		of + ".kind": r.Kind, of + ".namespace": r.Namespace, of + ".name": r.Name, of + ".uid": string(r.UID),
		of + ".apiVersion": r.APIVersion, of + ".resourceVersion": r.ResourceVersion, of + ".fieldPath": r.FieldPath,
	}
}

func coreEvent(o *events.Event) *core.Event {
	e := &core.Event{
		ObjectMeta: o.ObjectMeta, EventTime: o.EventTime, Reason: o.Reason, Action: o.Action, Type: o.Type,
		InvolvedObject: o.Regarding, Related: o.Related, Message: o.Note,
		ReportingController: o.ReportingController, ReportingInstance: o.ReportingInstance,
		Source: o.DeprecatedSource, FirstTimestamp: o.DeprecatedFirstTimestamp, LastTimestamp: o.DeprecatedLastTimestamp, Count: o.DeprecatedCount,
	}
	if o.Series != nil {
		e.Series = &core.EventSeries{Count: o.Series.Count, LastObservedTime: o.Series.LastObservedTime}
	}
	return e
}

func eventV1(o *core.Event) *events.Event {
	e := &events.Event{
		ObjectMeta: o.ObjectMeta, EventTime: o.EventTime, Reason: o.Reason, Action: o.Action, Type: o.Type,
		Regarding: o.InvolvedObject, Related: o.Related, Note: o.Message,
		ReportingController: o.ReportingController, ReportingInstance: o.ReportingInstance,
		DeprecatedSource: o.Source, DeprecatedFirstTimestamp: o.FirstTimestamp, DeprecatedLastTimestamp: o.LastTimestamp, DeprecatedCount: o.Count,
	}
	if o.Series != nil {
		e.Series = &events.EventSeries{Count: o.Series.Count, LastObservedTime: o.Series.LastObservedTime}
	}
	return e
}
