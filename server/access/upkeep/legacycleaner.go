package upkeep

import (
	"context"
	"fmt"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/server/access"
)

// keepUnused is how long a legacy token that was made without being asked for is kept
// without being used, and once more while it is marked invalid; upstream's default.
const keepUnused = 365 * 24 * time.Hour

// legacyCleaner marks the tokens of secrets that a service account lists and nobody uses as
// invalid, and deletes them when nobody has taken the mark off for as long again:
//
//	in use --> unused for a year: marked --> for another year: deleted
func legacyCleaner(d Deps) reconcile.Spec {
	return reconcile.Spec{
		Name: "legacy-service-account-token-cleaner",
		Watches: []reconcile.Watch{{Kind: api.Secrets.Facts, Keys: func(c client.Change) []reconcile.Key {
			s, ok := c.New.(*core.Secret)
			if !ok || s == nil || s.Type != core.SecretTypeServiceAccountToken {
				return nil
			}
			return []reconcile.Key{{Namespace: s.Namespace, Name: s.Name}}
		}}},
		Do: func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
			s := client.Cached(d.Client, api.Secrets, k.Namespace, k.Name)
			if s == nil || s.DeletionTimestamp != nil {
				return reconcile.Result{}, nil
			}
			tracked := client.Cached(d.Client, api.ConfigMaps, api.NamespaceSystem, legacyTracking)
			if tracked == nil || !listed(d, s) {
				return reconcile.Result{After: 24 * time.Hour}, nil // an account may list it later
			}
			step, wait := legacyStep(s, tracked.Data["since"], d.Now().UTC())
			if step != legacyKeep && mounted(d, s) {
				step, wait = legacyKeep, 24*time.Hour
			}
			err := takeStep(ctx, d, s, step)
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				err = nil
			}
			return reconcile.Result{After: wait}, err
		},
	}
}

type legacyAction int

const (
	legacyKeep legacyAction = iota
	legacyMark
	legacyDelete
)

// legacyStep is pure: what is to be done with a token that was made without being asked
// for, and when to look again. What cannot be told is kept.
func legacyStep(s *core.Secret, since string, now time.Time) (legacyAction, time.Duration) {
	tracked, err := time.Parse(time.DateOnly, since)
	if err != nil {
		return legacyKeep, 24 * time.Hour
	}
	limit := now.Add(-keepUnused)
	used, wasUsed := s.Labels[access.LegacyLastUsed]
	last := tracked.AddDate(0, 0, 1)
	if wasUsed {
		day, err := time.Parse(time.DateOnly, used)
		if err != nil {
			return legacyKeep, 24 * time.Hour
		}
		if day.AddDate(0, 0, 1).After(last) {
			last = day.AddDate(0, 0, 1)
		}
	}
	if born := s.CreationTimestamp.Time; born.After(last) {
		last = born
	}
	if last.After(limit) {
		return legacyKeep, last.Sub(limit) + time.Minute
	}
	marked, err := time.Parse(time.DateOnly, s.Labels[access.LegacyInvalidSince])
	if err != nil {
		return legacyMark, 0
	}
	if end := marked.AddDate(0, 0, 1); end.After(limit) {
		return legacyKeep, end.Sub(limit) + time.Minute
	}
	return legacyDelete, 0
}

func takeStep(ctx context.Context, d Deps, s *core.Secret, step legacyAction) error {
	switch step {
	case legacyMark:
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"labels":{%q:%q}}}`, s.UID, access.LegacyInvalidSince, d.Now().UTC().Format(time.DateOnly))
		_, err := d.Client.Patch(ctx, client.Target{Kind: api.Secrets.Facts, Namespace: s.Namespace, Name: s.Name}, types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	case legacyDelete:
		return client.Delete(ctx, d.Client, api.Secrets, s.Namespace, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &s.ResourceVersion}})
	}
	return nil
}

// listed tells that the service account of a secret lists it: it was made without being asked for.
func listed(d Deps, s *core.Secret) bool {
	sa := client.Cached(d.Client, api.ServiceAccounts, s.Namespace, s.Annotations[core.ServiceAccountNameKey])
	if uid := s.Annotations[core.ServiceAccountUIDKey]; sa == nil || uid != "" && uid != string(sa.UID) {
		return false
	}
	return slices.ContainsFunc(sa.Secrets, func(r core.ObjectReference) bool { return r.Name == s.Name })
}

// mounted tells that a pod refers to a secret.
func mounted(d Deps, s *core.Secret) bool {
	found := false
	d.Client.Each(api.Pods.Facts, s.Namespace, func(o api.Object) bool {
		found = access.UsesNamed(o.(*core.Pod), "secret", s.Name)
		return !found
	})
	return found
}
