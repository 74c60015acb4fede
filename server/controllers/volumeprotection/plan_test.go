package volumeprotection

import (
	"slices"
	"testing"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api/reconcile"
)

func TestUsesClaim(t *testing.T) {
	claim := &core.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "p-v", OwnerReferences: []metav1.OwnerReference{{UID: "1"}}}}
	direct := core.Volume{Name: "v", VolumeSource: core.VolumeSource{PersistentVolumeClaim: &core.PersistentVolumeClaimVolumeSource{ClaimName: "p-v"}}}
	own := core.Volume{Name: "v", VolumeSource: core.VolumeSource{Ephemeral: &core.EphemeralVolumeSource{}}}
	for _, tc := range []struct {
		name   string
		node   string
		volume core.Volume
		uid    string
		gone   bool
		want   bool
	}{
		{"bound", "n", direct, "1", false, true},
		{"no node", "", direct, "1", false, false},
		{"ephemeral", "n", own, "1", false, true},
		{"ephemeral of another pod", "n", own, "2", false, false},
		{"ephemeral, node is done", "n", own, "1", true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "a"}, Spec: core.PodSpec{NodeName: tc.node, Volumes: []core.Volume{tc.volume}}}
			p.UID = "1"
			if tc.uid != "1" {
				p.UID = "2"
			}
			if tc.gone {
				p.DeletionTimestamp, p.DeletionGracePeriodSeconds = new(metav1.Now()), new(int64(0))
			}
			if got := usesClaim(p, claim); got != tc.want {
				t.Errorf("got %v", got)
			}
			if got := claimsLetGo(p, nil); !slices.Equal(got, []reconcile.Key{{Namespace: "a", Name: "p-v"}}) {
				t.Errorf("let go: %v", got)
			}
		})
	}
}
