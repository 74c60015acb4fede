package server

import "orch/api"

// Kinds lists every kind that is served now.
func (s *Server) Kinds() []*api.Facts {
	rows := s.registry.Resources()
	out := make([]*api.Facts, len(rows))
	for i, r := range rows {
		out[i] = r.Facts
	}
	return out
}

// KindsChanged returns a channel that closes when the list of kinds changes next.
func (s *Server) KindsChanged() <-chan struct{} { return s.registry.Changed() }
