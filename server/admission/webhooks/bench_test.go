package webhooks

import (
	"context"
	"testing"

	admission "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
	"orch/server/registry"
)

// BenchmarkNobodyAsks is what admission by webhooks costs a create that concerns none:
// where none is registered, and where fifty are for other kinds.
func BenchmarkNobodyAsks(b *testing.B) {
	for _, n := range []int{0, 50} {
		b.Run(map[int]string{0: "none", 50: "fifty"}[n], func(b *testing.B) {
			w, r := followed(b, n)
			a := &registry.Attributes{Operation: registry.Create, Resource: r.For(api.ConfigMaps.Facts), Namespace: "a", Name: "x", Object: &core.ConfigMap{}}
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if err := w.Admit(ctx, a); err != nil {
					b.Fatal(err)
				}
				if err := w.Validate(ctx, a); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func followed(t testing.TB, n int) (*Webhooks, *registry.Registry) {
	r, err := registry.New(registry.Config{Store: memory.New(), Resources: registry.BuiltIn()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go func() { _ = r.Run(ctx) }()
	<-r.Ready()
	c := r.Client(registry.User{Name: "admin"})
	w := New(Config{Cache: c, Registry: r})
	if err := w.Follow(ctx); err != nil {
		t.Fatal(err)
	}
	o := &admission.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "w"}}
	for i := range n {
		o.Webhooks = append(o.Webhooks, admission.ValidatingWebhook{
			Name: "w" + string(rune('a'+i/26)) + string(rune('a'+i%26)) + ".example.com", SideEffects: new(admission.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
			ClientConfig: admission.WebhookClientConfig{URL: new("https://example.com/")},
			Rules: []admission.RuleWithOperations{{Operations: []admission.OperationType{"*"}, Rule: admission.Rule{
				APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}}}},
		})
	}
	if n > 0 {
		if _, err := client.Create(ctx, c, api.ValidatingWebhookConfigurations, o); err != nil {
			t.Fatal(err)
		}
	}
	return w, r
}
