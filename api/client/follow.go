package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"orch/api"
)

const (
	// pageSize is how many objects one page of a list brings, where the server
	// cannot stream the initial content.
	pageSize = 500
	// followFirst doubled up to followMost is the wait after a failure, with jitter.
	followFirst = 50 * time.Millisecond
	followMost  = 5 * time.Second
)

// follower feeds one mirror. Its life:
//
//	nothing ──stream or list──> following ──watch ended──> following again from the last revision
//	   ^                                   ──too old──┐
//	   └──────────────────────────────────────────────┘
//
// The content stays readable all the while.
type follower struct {
	transport Transport
	mirror    *mirror
	// revision to go on from; 0: the content has to be fetched anew.
	revision int64
	// plain is set when the server refused to stream the initial content.
	plain bool
}

func (f *follower) run(ctx context.Context) {
	wait := followFirst
	failed := false
	for {
		began := time.Now()
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > followMost {
			wait = followFirst // it worked for a while
		}
		switch {
		case isTooOld(err):
			f.revision = 0
		case err != nil && !failed:
			slog.Warn("watching failed, trying again", "kind", f.mirror.facts.Plural, "error", err)
		}
		failed = err != nil && !isTooOld(err)
		select {
		case <-time.After(wait/2 + rand.N(wait/2)):
		case <-ctx.Done():
			return
		}
		wait = min(wait*2, followMost)
	}
}

func isTooOld(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)
}

// errEnded: the server ended the watch, as it does now and then.
var errEnded = errors.New("the watch ended")

// follow fetches what is needed and applies changes until the watch ends; nil
// when it ended in the ordinary way.
func (f *follower) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx) // ends the watch with this call
	defer cancel()
	if f.revision == 0 && !f.plain {
		err := f.stream(ctx)
		if !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
			return err
		}
		f.plain = true
	}
	if f.revision == 0 {
		if err := f.list(ctx); err != nil {
			return err
		}
	}
	o := f.options()
	o.ResourceVersion = strconv.FormatInt(f.revision, 10)
	w, err := f.transport.Watch(ctx, f.target(), o)
	if err != nil {
		return fmt.Errorf("watching %s: %w", f.mirror.facts.Plural, err)
	}
	defer w.Stop()
	return f.consume(w, nil)
}

func (f *follower) target() Target {
	return Target{Kind: f.mirror.facts, Namespace: f.mirror.scope.Namespace}
}

func (f *follower) options() metav1.ListOptions {
	return metav1.ListOptions{
		FieldSelector: f.mirror.scope.FieldSelector, LabelSelector: f.mirror.scope.LabelSelector,
		AllowWatchBookmarks: true,
	}
}

// stream asks for the content and the changes after it in one watch.
func (f *follower) stream(ctx context.Context) error {
	o := f.options()
	o.SendInitialEvents = new(true)
	o.ResourceVersionMatch = metav1.ResourceVersionMatchNotOlderThan
	w, err := f.transport.Watch(ctx, f.target(), o)
	if err != nil {
		return err
	}
	defer w.Stop()
	return f.consume(w, map[string]api.Object{})
}

// list fetches the content page by page.
func (f *follower) list(ctx context.Context) error {
	o := metav1.ListOptions{FieldSelector: f.mirror.scope.FieldSelector, LabelSelector: f.mirror.scope.LabelSelector, Limit: pageSize}
	var objects []api.Object
	for {
		l, err := f.transport.List(ctx, f.target(), o)
		if err != nil {
			return fmt.Errorf("listing %s: %w", f.mirror.facts.Plural, err)
		}
		objects = append(objects, l.Items...)
		if o.Continue = l.Continue; o.Continue == "" {
			f.revision = revisionOf(l.ResourceVersion)
			f.mirror.replace(objects, f.revision)
			return nil
		}
	}
}

// consume applies events until the watch ends. initial collects the content
// until its end is marked; it is nil when the content is there already.
func (f *follower) consume(w watch.Interface, initial map[string]api.Object) error {
	for e := range w.ResultChan() {
		if e.Type == watch.Error {
			return apierrors.FromObject(e.Object)
		}
		o, ok := e.Object.(api.Object)
		if !ok {
			return fmt.Errorf("watching %s: an event holds %T", f.mirror.facts.Plural, e.Object)
		}
		revision := revisionOf(o.GetResourceVersion())
		switch {
		case initial == nil:
			f.step(e.Type, o, revision)
		case e.Type == watch.Bookmark && o.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true":
			objects := make([]api.Object, 0, len(initial))
			for _, o := range initial {
				objects = append(objects, o)
			}
			f.mirror.replace(objects, revision)
			f.revision, initial = revision, nil
		case e.Type == watch.Deleted:
			delete(initial, key(f.mirror.facts, o.GetNamespace(), o.GetName()))
		case e.Type != watch.Bookmark:
			initial[key(f.mirror.facts, o.GetNamespace(), o.GetName())] = o
		}
	}
	if initial != nil {
		return errEnded // before the content was complete
	}
	return nil
}

func (f *follower) step(t watch.EventType, o api.Object, revision int64) {
	if t == watch.Bookmark {
		o = nil
	}
	f.mirror.apply(o, t == watch.Deleted, revision)
	f.revision = revision
}
