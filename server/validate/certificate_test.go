package validate

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPodCertificatesAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*core.PodCertificateProjection)
		want   string
	}{
		"good":      {func(*core.PodCertificateProjection) {}, ""},
		"too short": {func(s *core.PodCertificateProjection) { s.MaxExpirationSeconds = new(int32(3599)) }, "if provided, maxExpirationSeconds must be >= 3600"},
		"too long":  {func(s *core.PodCertificateProjection) { s.MaxExpirationSeconds = new(int32(7862401)) }, "must be <= 7862400"},
		"cluster signer": {func(s *core.PodCertificateProjection) {
			s.SignerName, s.MaxExpirationSeconds = "kubernetes.io/x", new(int32(86401))
		}, "must be <= 86400"},
		"no key":    {func(s *core.PodCertificateProjection) { s.KeyType = "RSA1" }, `Unsupported value: "RSA1"`},
		"no path":   {func(s *core.PodCertificateProjection) { s.CredentialBundlePath = "" }, "specify at least one of credentialBundlePath"},
		"same path": {func(s *core.PodCertificateProjection) { s.KeyPath = "bundle.pem" }, "conflicting duplicate paths"},
		"no domain": {func(s *core.PodCertificateProjection) { s.UserAnnotations = map[string]string{"x": "y"} }, "must be a domain-prefixed key"},
	} {
		s := &core.PodCertificateProjection{SignerName: "example.com/x", KeyType: "ED25519", CredentialBundlePath: "bundle.pem"}
		c.change(s)
		p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p"}, Spec: core.PodSpec{
			Containers: []core.Container{{Name: "c", Image: "i", TerminationMessagePolicy: "File", ImagePullPolicy: "Never"}}, RestartPolicy: "Always", DNSPolicy: "Default",
			Volumes: []core.Volume{{Name: "v", VolumeSource: core.VolumeSource{Projected: &core.ProjectedVolumeSource{
				DefaultMode: new(int32(0o644)), Sources: []core.VolumeProjection{{PodCertificate: s}}}}}}}}
		var got []string
		for _, err := range Pod(p) {
			if strings.Contains(err.Field, "projected") {
				got = append(got, err.Error())
			}
		}
		if all := strings.Join(got, "; "); (c.want == "") != (all == "") || !strings.Contains(all, c.want) {
			t.Errorf("%s: %q, want %q", name, all, c.want)
		}
	}
}
