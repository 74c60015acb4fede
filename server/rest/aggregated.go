package rest

import (
	"context"
	"strings"

	"orch/server/aggregator"
	"orch/server/rest/openapi"
)

// remote tells who answers for a group's version in our stead; nil for nobody.
func (s *Server) remote(group, version string) *aggregator.Route {
	if s.config.Aggregator == nil {
		return nil
	}
	return s.config.Aggregator.Find(group, version)
}

// remoteRoot is remote for the discovery document of a version: /apis/GROUP/VERSION.
func (s *Server) remoteRoot(path string) *aggregator.Route {
	rest, ok := strings.CutPrefix(path, "/apis/")
	if !ok || s.config.Aggregator == nil {
		return nil
	}
	group, version, ok := strings.Cut(strings.TrimSuffix(rest, "/"), "/")
	if !ok || strings.Contains(version, "/") {
		return nil
	}
	return s.remote(group, version)
}

// others gives the OpenAPI documents of other servers.
type others struct{ *aggregator.Aggregator }

func (o others) V2(ctx context.Context) []openapi.Document {
	var out []openapi.Document
	for _, d := range o.OpenAPIV2(ctx) {
		out = append(out, openapi.Document(d))
	}
	return out
}

func (o others) V3(ctx context.Context) map[string]openapi.Document {
	out := map[string]openapi.Document{}
	for path, d := range o.OpenAPIV3(ctx) {
		out[path] = openapi.Document(d)
	}
	return out
}
