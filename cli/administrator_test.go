package cli

import "testing"

// TestAdministratorFollowsKUBECONFIG: `orch status` read the server's file although
// KUBECONFIG named another, as no other tool does.
func TestAdministratorFollowsKUBECONFIG(t *testing.T) {
	for env, want := range map[string]string{"": Kubeconfig, "/a/config": "/a/config", "/a:/b": "/a", ":/b": Kubeconfig} {
		t.Setenv("KUBECONFIG", env)
		if got := administrator(); got != want {
			t.Errorf("KUBECONFIG=%q: %q, want %q", env, got, want)
		}
	}
}
