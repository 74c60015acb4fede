package claims

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"orch/api"
	"orch/api/client"
)

// maxConflicts bounds the tries to write beside others.
const maxConflicts = 5

// Writer is Config.Say through the node's client. A claim that is gone or is another's of this
// name has nothing to be said of it.
func Writer(c *client.Client) func(ctx context.Context, w Words) error {
	return func(ctx context.Context, w Words) error {
		for try := 1; ; try++ {
			claim, err := client.Get(ctx, c, api.ResourceClaims, w.Namespace, w.Name)
			if err == nil {
				next := Spoken(claim, w, time.Now())
				if next == nil {
					return nil
				}
				_, err = client.UpdateStatus(ctx, c, api.ResourceClaims, next)
			}
			switch {
			case err == nil, apierrors.IsNotFound(err):
				return nil
			case !apierrors.IsConflict(err) || try == maxConflicts:
				return fmt.Errorf("ResourceClaim %s/%s: %w", w.Namespace, w.Name, err)
			}
		}
	}
}
