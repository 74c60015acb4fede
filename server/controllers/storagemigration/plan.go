package storagemigration

import (
	"cmp"
	"fmt"

	migration "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type svm = migration.StorageVersionMigration

// Reasons and the beginning of messages, as upstream has them: scripts wait for them.
const (
	reasonRunning   = "MigrationRunning"
	reasonCompleted = "MigrationCompleted"
	reasonSucceeded = "StorageVersionMigrationSucceeded"
	reasonFailed    = "StorageVersionMigrationFailed"
	failedMessage   = "migration encountered unhandled error: "
)

// choose picks, of the migrations of one resource, those that are over and not yet
// closed, and the one whose turn it is: one runs at a time, the oldest first.
func choose(all []*svm) (over []*svm, turn *svm) {
	before := func(a, b *svm) bool {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name)) < 0
	}
	for _, m := range all {
		switch running := is(m, migration.MigrationRunning); {
		case ended(m) && running:
			over = append(over, m)
		case ended(m):
		case turn == nil, running && !is(turn, migration.MigrationRunning):
			turn = m
		case running == is(turn, migration.MigrationRunning) && before(m, turn):
			turn = m
		}
	}
	return over, turn
}

func is(m *svm, t migration.MigrationConditionType) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, string(t))
}

func ended(m *svm) bool {
	return is(m, migration.MigrationSucceeded) || is(m, migration.MigrationFailed)
}

// set puts a condition into the status and tells whether that changed it.
func set(m *svm, t migration.MigrationConditionType, reason, message string) bool {
	return meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{Type: string(t), Status: metav1.ConditionTrue, Reason: reason, Message: message})
}

// progress counts the objects of a migration.
type progress struct{ left, all int }

// message tells people how far it is and what holds it up; nil for nothing.
func (p progress) message(trouble error) string {
	m := "The migration is running"
	switch {
	case p.all == 0:
	case p.left > 0:
		m += fmt.Sprintf(", %d/%d objects not yet migrated", p.left, p.all)
	default:
		m += fmt.Sprintf(", %d objects verified migrated", p.all)
	}
	if trouble != nil {
		m += fmt.Sprintf("; transient error: %s", trouble)
	}
	return m
}
