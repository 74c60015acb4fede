package encryption

import (
	"strings"
	"testing"
)

// FuzzConfiguration: a file is refused without a word of what may be a key, or its
// providers can be made.
func FuzzConfiguration(f *testing.F) {
	for _, s := range []string{
		"apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, configmaps.]\n  providers:\n  - secretbox: {keys: [{name: k, secret: MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=}]}\n  - identity: {}",
		"apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: ['*.*']\n  providers:\n  - aesgcm: {keys: [{name: k, secret: MDEyMzQ1Njc4OTAxMjM0NQ==}]}\n  - aescbc: {keys: [{name: '', secret: x}]}",
		`{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":["*."],"providers":[{"kms":{"name":"a"}}]}]}`, "resources: [&a [*a]]",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		const key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE"
		c, err := Parse(raw)
		if err != nil {
			if strings.Contains(err.Error(), key) {
				t.Errorf("the error shows a key: %v", err)
			}
			return
		}
		for _, rc := range c.Resources {
			if len(rc.Resources) == 0 || len(rc.Providers) == 0 {
				t.Errorf("accepted %q", raw)
			}
		}
	})
}
