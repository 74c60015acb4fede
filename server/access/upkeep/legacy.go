package upkeep

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/server/access"
)

// legacyTracking is the ConfigMap that says since when uses are noted, upstream's.
const legacyTracking = "kube-apiserver-legacy-service-account-token-tracking"

// TrackLegacy labels the secrets of legacy tokens with the day of their last use, until ctx ends.
func TrackLegacy(ctx context.Context, d Deps, log *slog.Logger) error {
	if client.Cached(d.Client, api.ConfigMaps, api.NamespaceSystem, legacyTracking) == nil {
		m := &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: api.NamespaceSystem, Name: legacyTracking}, Data: map[string]string{"since": d.Now().UTC().Format(time.DateOnly)}}
		if _, err := client.Create(ctx, d.Client, api.ConfigMaps, m); err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
			log.Error("noting since when legacy tokens are tracked failed", "err", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-d.Access.LegacyUses():
			if err := noteUse(ctx, d, u); err != nil && ctx.Err() == nil {
				log.Error("noting the use of a legacy token failed", "namespace", u.Namespace, "secret", u.Secret, "err", err)
			}
		}
	}
}

func noteUse(ctx context.Context, d Deps, u access.LegacyUse) error {
	day := d.Now().UTC().Format(time.DateOnly)
	s := client.Cached(d.Client, api.Secrets, u.Namespace, u.Secret)
	if s == nil || s.Labels[access.LegacyLastUsed] == day {
		return nil
	}
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"labels":{%q:%q}}}`, s.UID, access.LegacyLastUsed, day)
	_, err := d.Client.Patch(ctx, client.Target{Kind: api.Secrets.Facts, Namespace: u.Namespace, Name: u.Secret}, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
