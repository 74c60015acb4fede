package storagemigration

import (
	"context"
	"encoding/json"
	"fmt"

	migration "k8s.io/api/storagemigration/v1"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
)

// definitionManager is who writes the status of definitions.
const definitionManager = "migration-runner-controller"

// definition is that of the resource; nil if it is built in, served elsewhere or gone.
func (c controller) definition(ctx context.Context, m *svm) (*apiext.CustomResourceDefinition, error) {
	d, err := client.Get(ctx, c.Client, api.CustomResourceDefinitions, "", m.Spec.Resource.Resource+"."+m.Spec.Resource.Group)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the definition: %w", err)
	}
	return d, nil
}

func (c controller) definitionMigrates(ctx context.Context, m *svm) error {
	d, err := c.definition(ctx, m)
	if d == nil || err != nil {
		return err
	}
	return c.applyStatus(ctx, d, c.condition(d, apiext.ConditionTrue, "MigrationRunning", fmt.Sprintf("Migration %s is running", m.Name)), d.Status.StoredVersions)
}

// definitionMigrated forgets the versions that nothing is stored in any more, if the
// definition is still the one that the migration began with.
func (c controller) definitionMigrated(ctx context.Context, m *svm) error {
	d, err := c.definition(ctx, m)
	if d == nil || err != nil {
		return err
	}
	same := false
	for _, had := range d.Status.Conditions {
		same = same || had.Type == apiext.StorageMigrating && had.ObservedGeneration == d.Generation
	}
	if !is(m, migration.MigrationSucceeded) {
		return c.applyStatus(ctx, d, c.condition(d, apiext.ConditionFalse, "MigrationFailed", "The migration has failed"), d.Status.StoredVersions)
	}
	message := "The migration has succeeded but the stored versions have not been updated due to a generation mismatch"
	stored := d.Status.StoredVersions
	if same {
		message = "The migration has succeeded and the stored versions have been updated"
		for _, v := range d.Spec.Versions {
			if v.Storage {
				stored = []string{v.Name}
			}
		}
	}
	return c.applyStatus(ctx, d, c.condition(d, apiext.ConditionFalse, "MigrationSucceeded", message), stored)
}

func (c controller) condition(d *apiext.CustomResourceDefinition, status apiext.ConditionStatus, reason, message string) apiext.CustomResourceDefinitionCondition {
	return apiext.CustomResourceDefinitionCondition{Type: apiext.StorageMigrating, Status: status, Reason: reason, Message: message,
		LastTransitionTime: metav1.NewTime(c.Now()), ObservedGeneration: d.Generation}
}

// applyStatus writes one condition and the stored versions: always both, because what a
// manager once applied and leaves out is taken away. The definition must still be the one
// that was read, or what is said of it would be wrong.
func (c controller) applyStatus(ctx context.Context, d *apiext.CustomResourceDefinition, cond apiext.CustomResourceDefinitionCondition, stored []string) error {
	status := map[string]any{"conditions": []any{cond}, "storedVersions": stored}
	body, err := json.Marshal(map[string]any{
		"apiVersion": api.CustomResourceDefinitions.GroupVersion().String(), "kind": api.CustomResourceDefinitions.Kind,
		"metadata": map[string]string{"name": d.Name, "resourceVersion": d.ResourceVersion}, "status": status,
	})
	if err != nil {
		return err
	}
	t := client.Target{Kind: api.CustomResourceDefinitions.Facts, Name: d.Name, Subresource: "status"}
	if _, err := c.Client.Patch(ctx, t, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: definitionManager, Force: new(true)}); err != nil {
		return fmt.Errorf("writing the status of the definition: %w", err)
	}
	return nil
}
