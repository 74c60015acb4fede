package audit

import (
	"testing"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// TestPatchesOfWebhooksAreNotInMetadata: they hold parts of the object, of a Secret maybe.
func TestPatchesOfWebhooksAreNotInMetadata(t *testing.T) {
	for level, want := range map[auditv1.Level]int{auditv1.LevelMetadata: 1, auditv1.LevelRequest: 2, auditv1.LevelRequestResponse: 2} {
		r := &Record{verdict: verdict{level: level}}
		r.Annotate("mutation.webhook.admission.k8s.io/round_0_index_0", "{}")
		r.Annotate("patch.webhook.admission.k8s.io/round_0_index_0", "[]")
		if len(r.ev.Annotations) != want {
			t.Errorf("%s: %v", level, r.ev.Annotations)
		}
	}
	var none *Record
	none.Annotate("patch.", "")
}
