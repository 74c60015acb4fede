// Package upkeep holds the controllers that need what access and pki know: they
// sum up aggregated roles, approve and sign certificate requests and delete old ones, publish
// the API server's authority as a trust bundle, fill the secrets
// of long-lived tokens and clear away those that nobody uses, delete bootstrap tokens that are over and sign cluster-info with
// the others, and forget the passwords of deleted nodes. Everything else
// that is a controller is in server/controllers.
//
// Start reading at Specs: the list.
package upkeep

import (
	"time"

	"orch/api/client"
	"orch/api/reconcile"
	"orch/server/access"
	"orch/server/pki"
)

// Deps is what the controllers work with.
type Deps struct {
	// Client must act as a superuser: aggregation grants what it sums up.
	Client *client.Client
	Access *access.Access
	PKI    *pki.PKI
	// Now is the clock.
	Now func() time.Time
}

// Specs lists the controllers.
func Specs(d Deps) []reconcile.Spec {
	return []reconcile.Spec{
		aggregation(d),
		approval(d),
		signing(d),
		requestCleanup(d),
		podRequestCleanup(d),
		trustBundle(d),
		tokenSecrets(d),
		legacyCleaner(d),
		nodePasswords(d),
		tokenCleaner(d),
		bootstrapSigner(d),
	}
}
