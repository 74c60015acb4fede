package server

import (
	"orch/api"
	"orch/server/aggregator"
)

// Kinds lists every kind that is served now.
func (s *Server) Kinds() []*api.Facts {
	rows := s.registry.Resources()
	out := make([]*api.Facts, len(rows))
	for i, r := range rows {
		out[i] = r.Facts
	}
	return out
}

// Collected lists every kind whose objects controllers look after whatever it is: those that
// are stored, and the versions that they are served in.
func (s *Server) Collected() []*api.Facts {
	out := s.registry.Stored()
	for _, f := range s.Kinds() {
		if f.SameAs != nil {
			out = append(out, f)
		}
	}
	return out
}

// KindsChanged returns a channel that closes when the list of kinds changes next.
func (s *Server) KindsChanged() <-chan struct{} { return s.registry.Changed() }

// Others is what aggregated servers hold, for a controller.
func (s *Server) Others(controller string) *aggregator.Contents {
	return s.aggregator.ContentsAs(controller)
}
