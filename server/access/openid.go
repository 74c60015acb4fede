package access

import (
	"encoding/json"
	"net/http"

	"github.com/go-jose/go-jose/v4"
)

// OpenIDConfiguration serves /.well-known/openid-configuration.
func (a *Access) OpenIDConfiguration(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, "application/json", map[string]any{
		"issuer": a.tokens.issuer, "jwks_uri": a.cfg.URL + "/openid/v1/jwks",
		"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"ES256"},
	})
}

// KeySet serves /openid/v1/jwks: the public key that verifies tokens.
func (a *Access) KeySet(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, "application/jwk-set+json", jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: &a.tokens.key.PublicKey, KeyID: a.tokens.keyID, Algorithm: string(jose.ES256), Use: "sig"},
	}})
}

func writeJSON(w http.ResponseWriter, contentType string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "public, max-age=3600")
	_, _ = w.Write(b) // the client went away: nothing to do
}
