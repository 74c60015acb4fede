package image

import (
	"testing"

	core "k8s.io/api/core/v1"
)

// FuzzAuths: a pull secret is refused, or gives at most one answer for an image.
func FuzzAuths(f *testing.F) {
	f.Add("registry.example:5000/team/app:v1", []byte(`{"auths":{"registry.example:5000/team":{"auth":"YTpi"},"*.example":{"username":"a","password":"b"}}}`))
	f.Add("app@sha256:x", []byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"!"}}}`))
	f.Fuzz(func(t *testing.T, image string, config []byte) {
		l, err := Auths(image, []*core.Secret{{Type: core.SecretTypeDockerConfigJson, Data: map[string][]byte{core.DockerConfigJsonKey: config}}})
		if err == nil && len(l) > 1 {
			t.Errorf("%d answers", len(l))
		}
	})
}
