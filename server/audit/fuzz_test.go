package audit

import "testing"

// FuzzPolicy: a policy is refused, or has rules with levels.
func FuzzPolicy(f *testing.F) {
	for _, s := range []string{
		"apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n  resources: [{group: '', resources: [pods, 'pods/log', '*/status'], resourceNames: [a]}]\n- level: None\n  nonResourceURLs: ['/healthz*', /version]",
		`{"apiVersion":"audit.k8s.io/v1","kind":"Policy","rules":[{"level":"RequestResponse","users":["a"],"verbs":["get"],"omitManagedFields":true}]}`, "rules: [{level: X}]", "kind: Policy",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := ParsePolicy(raw)
		if err == nil && len(p.Rules) == 0 {
			t.Errorf("a policy without rules: %q", raw)
		}
	})
}
