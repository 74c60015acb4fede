package issuer

import "testing"

// FuzzConfiguration: a file is refused, or names issuers that can be told apart.
func FuzzConfiguration(f *testing.F) {
	f.Add([]byte("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: 'https://a.example', audiences: [x]}\n  claimMappings: {username: {claim: sub, prefix: ''}}\n  claimValidationRules: [{claim: hd, requiredValue: a}]\n  userValidationRules: [{expression: '!user.username.startsWith(\"x\")'}]"))
	f.Add([]byte("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt: [{issuer: {url: 'http://%', discoveryURL: 'https://b#c', certificateAuthority: x}}]"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := Parse(raw, "https://own")
		if err != nil {
			return
		}
		seen := map[string]bool{"https://own": true}
		for _, j := range c.JWT {
			if seen[j.Issuer.URL] || len(j.Issuer.Audiences) == 0 {
				t.Errorf("accepted %q", raw)
			}
			seen[j.Issuer.URL] = true
		}
	})
}
