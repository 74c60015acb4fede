package server

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/pprof"

	"orch/api"
)

// pages are the routes behind authorization beside the API itself.
func (s *Server) pages() map[string]http.Handler {
	pages := s.flow.DebugPages()
	maps.Copy(pages, map[string]http.Handler{
		"/.well-known/openid-configuration": http.HandlerFunc(s.access.OpenIDConfiguration),
		"/openid/v1/jwks":                   http.HandlerFunc(s.access.KeySet),
		api.PathToken:                       http.HandlerFunc(s.rotateToken),
		api.PathEncryption:                  s.encryption.Page(s.registry),
		"/metrics":                          s.metricsPage(),
		"/metrics/slis":                     s.slis.page(),
		"/debug/pprof/":                     http.HandlerFunc(pprof.Index),
		"/debug/pprof/profile":              http.HandlerFunc(pprof.Profile),
		"/debug/pprof/trace":                http.HandlerFunc(pprof.Trace),
		"/debug/pprof/symbol":               http.HandlerFunc(pprof.Symbol),
	})
	return pages
}

// rotateToken answers POST of an api.TokenRotation.
func (s *Server) rotateToken(w http.ResponseWriter, r *http.Request) {
	var in api.TokenRotation
	if r.Method != http.MethodPost {
		http.Error(w, "only POST is answered here", http.StatusMethodNotAllowed)
		return
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 4<<10)).Decode(&in); err != nil {
		http.Error(w, "the body is no token rotation", http.StatusBadRequest)
		return
	}
	file, err := s.pki.RotateToken(in.Secret)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(api.TokenRotation{File: file}) // the client went away: nothing to do
}
