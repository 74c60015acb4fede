// Package storagemigration carries out StorageVersionMigrations: every object of a
// resource that was last written before the migration began is written once more as it
// is, so that the store holds it in the version, and with the key, of today. Of a custom
// resource's definition it then takes the versions out of status.storedVersions that
// nothing is stored in any more.
//
// Start reading at controller.do: its keys are resources, one migration of which runs at a
// time.
package storagemigration

import (
	"context"
	"fmt"
	"time"

	migration "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

const (
	// manager is who writes the objects.
	manager = "storage-version-migrator-controller"
	// patience is how long after its creation a migration waits for its resource: the
	// definition may come with the same manifest.
	patience = time.Minute
)

// Others are the servers that hold the objects of further kinds.
type Others interface {
	// Collectable lists the kinds whose objects can be read, watched and deleted there.
	Collectable(ctx context.Context) (list []*api.Facts, failed []schema.GroupVersion, changed <-chan struct{})
	Each(ctx context.Context, r schema.GroupVersionResource, see func(*metav1.PartialObjectMetadata)) (revision string, err error)
	Patch(ctx context.Context, r schema.GroupVersionResource, at types.NamespacedName, patch []byte) error
}

// Deps is what the controller needs.
type Deps struct {
	Client *client.Client
	// Kinds lists every kind that is served now; Changed returns a channel that closes when
	// the list changes next. A nil Changed: the list never changes.
	Kinds   func() []*api.Facts
	Changed func() <-chan struct{}
	// Others hold the objects of further kinds; nil for none.
	Others Others
	Now    func() time.Time
}

type controller struct{ Deps }

// Specs is the controller.
func Specs(d Deps) []reconcile.Spec {
	c := controller{d}
	return []reconcile.Spec{{Name: "storage-version-migrator", Workers: 2, Do: c.do, Source: c.whenKindsChange,
		Watches: []reconcile.Watch{reconcile.Map(api.StorageVersionMigrations, func(was, is *svm) []reconcile.Key {
			if is == nil {
				is = was
			}
			return []reconcile.Key{keyOf(is)}
		})}}}
}

func keyOf(m *svm) reconcile.Key {
	return reconcile.Key{Namespace: m.Spec.Resource.Group, Name: m.Spec.Resource.Resource}
}

// whenKindsChange looks at every migration again: what it waits for may be served now.
func (c controller) whenKindsChange(ctx context.Context, add func(...reconcile.Key)) error {
	if c.Changed == nil {
		return nil
	}
	for {
		changed := c.Changed()
		for _, m := range client.CachedList(c.Client, api.StorageVersionMigrations, "", nil) {
			if !ended(m) {
				add(keyOf(m))
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (c controller) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	var all []*svm
	for _, m := range client.CachedList(c.Client, api.StorageVersionMigrations, "", nil) {
		if keyOf(m) == key {
			all = append(all, m)
		}
	}
	over, turn := choose(all)
	for _, m := range over {
		if err := c.close(ctx, m.DeepCopy()); err != nil {
			return reconcile.Result{}, err
		}
	}
	if turn == nil {
		return reconcile.Result{}, nil
	}
	m := turn.DeepCopy()
	if !is(m, migration.MigrationRunning) {
		return reconcile.Result{}, c.begin(ctx, m)
	}
	from, err := c.contents(ctx, key)
	if err != nil {
		return reconcile.Result{}, err
	}
	switch {
	case from == nil:
		if left := m.CreationTimestamp.Add(patience).Sub(c.Now()); left > 0 {
			return reconcile.Result{After: left}, nil
		}
		return reconcile.Result{}, c.fail(ctx, m, "resource does not exist in discovery")
	case from.facts.Computed:
		return reconcile.Result{}, c.fail(ctx, m, fmt.Sprintf("resource %q does not support discovery operations: [update patch list]", from.facts.GVR()))
	case m.Status.ResourceVersion == "":
		return reconcile.Result{}, c.mark(ctx, m, from)
	}
	return reconcile.Result{}, c.migrate(ctx, m, from)
}

// begin gives a migration its turn, and says so at the definition.
func (c controller) begin(ctx context.Context, m *svm) error {
	if err := c.definitionMigrates(ctx, m); err != nil {
		return err
	}
	set(m, migration.MigrationRunning, reasonRunning, progress{}.message(nil))
	return c.save(ctx, m)
}

// mark notes the revision up to which objects are to be written anew. It is noted once:
// a restart in the middle goes on with the same.
func (c controller) mark(ctx context.Context, m *svm, from *contents) error {
	revision, err := from.revision(ctx)
	if err != nil {
		return fmt.Errorf("reading the revision of %s: %w", from.facts.GroupResource(), err)
	}
	m.Status.ResourceVersion = revision
	return c.save(ctx, m)
}

// migrate writes every object that is older than the mark.
func (c controller) migrate(ctx context.Context, m *svm, from *contents) error {
	old, all, err := from.olderThan(ctx, m.Status.ResourceVersion)
	if err != nil {
		return fmt.Errorf("reading %s: %w", from.facts.GroupResource(), err)
	}
	p := progress{len(old), all}
	for _, o := range old {
		err := from.rewrite(ctx, o)
		switch {
		case err == nil, overtaken(err):
			p.left--
		case transient(err):
			if set(m, migration.MigrationRunning, reasonRunning, p.message(err)) {
				if err := c.save(ctx, m); err != nil {
					return err
				}
			}
			return fmt.Errorf("writing %s %s: %w", from.facts.SingularName(), o.at, err)
		default:
			set(m, migration.MigrationRunning, reasonRunning, p.message(nil))
			return c.fail(ctx, m, fmt.Sprintf("%d/%d not yet migrated. %s%s", p.left, p.all, failedMessage, err))
		}
	}
	set(m, migration.MigrationRunning, reasonRunning, p.message(nil))
	set(m, migration.MigrationSucceeded, reasonSucceeded, "Migration completed")
	return c.save(ctx, m)
}

func (c controller) fail(ctx context.Context, m *svm, why string) error {
	set(m, migration.MigrationFailed, reasonFailed, why)
	return c.save(ctx, m)
}

// close is the last step of a migration that succeeded or failed.
func (c controller) close(ctx context.Context, m *svm) error {
	if err := c.definitionMigrated(ctx, m); err != nil {
		return err
	}
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{Type: string(migration.MigrationRunning), Status: metav1.ConditionFalse,
		Reason: reasonCompleted, Message: "Migration completed", ObservedGeneration: m.Generation})
	return c.save(ctx, m)
}

func (c controller) save(ctx context.Context, m *svm) error {
	if _, err := client.UpdateStatus(ctx, c.Client, api.StorageVersionMigrations, m); err != nil {
		return fmt.Errorf("writing the migration's status: %w", err)
	}
	return nil
}
