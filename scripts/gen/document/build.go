// Package document builds the OpenAPI documents, version 2 and 3, from the kind
// table and from generated definitions of the Go types, and writes them
// compressed. It runs at generate time only. Start reading at Main, then
// kindRoutes, which says what routes a kind has.
package document

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"orch/api"
)

// Main is the whole program around the generated definitions.
func Main(definitions common.GetOpenAPIDefinitions) {
	out := flag.String("out", "", "folder of the documents")
	flag.Parse()
	if err := write(*out, definitions); err != nil {
		fmt.Fprintln(os.Stderr, "document:", err)
		os.Exit(1)
	}
}

func write(out string, definitions common.GetOpenAPIDefinitions) error {
	v2, err := buildV2(definitions)
	if err != nil {
		return fmt.Errorf("building version 2: %w", err)
	}
	v3, err := buildV3(definitions)
	if err != nil {
		return fmt.Errorf("building version 3: %w", err)
	}
	return save(out, v2, v3)
}

var info = &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: "v1.37.0"}}

const securityText = "Bearer Token authentication"

func groupVersions() []schema.GroupVersion {
	var list []schema.GroupVersion
	for _, f := range api.All() {
		if !slices.Contains(list, f.GroupVersion()) {
			list = append(list, f.GroupVersion())
		}
	}
	return list
}

func buildV2(definitions common.GetOpenAPIDefinitions) (*spec.Swagger, error) {
	list := rootRoutes(groupVersions())
	for _, f := range api.All() {
		list = append(list, kindRoutes(f)...)
	}
	return builder.BuildOpenAPISpecFromRoutes([]common.RouteContainer{routes{"/", list}}, &common.Config{
		ProtocolList: []string{"https"}, Info: info,
		GetDefinitions: definitions, GetDefinitionName: definitionNamer(),
		DefaultResponse:                &spec.Response{ResponseProps: spec.ResponseProps{Description: "Default Response."}},
		CommonResponses:                map[int]spec.Response{401: {ResponseProps: spec.ResponseProps{Description: "Unauthorized"}}},
		GetOperationIDAndTagsFromRoute: operationID,
		SecurityDefinitions: &spec.SecurityDefinitions{"BearerToken": &spec.SecurityScheme{SecuritySchemeProps: spec.SecuritySchemeProps{
			Type: "apiKey", Name: "authorization", In: "header", Description: securityText}}},
		DefaultSecurity: []map[string][]string{{"BearerToken": {}}},
	})
}

// buildV3 gives one document for each path prefix, as the index lists them.
func buildV3(definitions common.GetOpenAPIDefinitions) (map[string]*spec3.OpenAPI, error) {
	parts := map[string][]common.Route{}
	for _, r := range rootRoutes(groupVersions()) {
		key := strings.Trim(r.Path(), "/")
		parts[key] = append(parts[key], r)
	}
	for _, f := range api.All() {
		key := strings.Trim(base(f, ""), "/")
		parts[key] = append(parts[key], kindRoutes(f)...)
	}
	namer := definitionNamer()
	docs := map[string]*spec3.OpenAPI{}
	for key, list := range parts {
		doc, err := builder3.BuildOpenAPISpecFromRoutes([]common.RouteContainer{routes{"/", list}}, &common.OpenAPIV3Config{
			Info: info, GetDefinitions: definitions, GetDefinitionName: namer,
			DefaultResponse:                &spec3.Response{ResponseProps: spec3.ResponseProps{Description: "Default Response."}},
			CommonResponses:                map[int]*spec3.Response{401: {ResponseProps: spec3.ResponseProps{Description: "Unauthorized"}}},
			GetOperationIDAndTagsFromRoute: operationID,
			SecuritySchemes: spec3.SecuritySchemes{"BearerToken": &spec3.SecurityScheme{SecuritySchemeProps: spec3.SecuritySchemeProps{
				Type: "apiKey", Name: "authorization", In: "header", Description: securityText}}},
			DefaultSecurity: []map[string][]string{{"BearerToken": {}}},
		})
		if err != nil {
			return nil, fmt.Errorf("building %s: %w", key, err)
		}
		docs[key] = doc
	}
	return docs, nil
}

func operationID(r common.Route) (string, []string, error) {
	return r.OperationName(), []string{r.(*route).tag}, nil
}

// definitionNamer adds to each definition the kinds that its Go type serves.
// Names need no change: the generated definitions carry the upstream names.
func definitionNamer() func(string) (string, spec.Extensions) {
	kinds := map[string][]schema.GroupVersionKind{}
	for gvk, t := range api.Scheme().AllKnownTypes() {
		if gvk.Version == "__internal" {
			continue
		}
		name := util.GetCanonicalTypeName(reflect.New(t).Interface())
		kinds[name] = append(kinds[name], gvk)
	}
	ext := map[string]spec.Extensions{}
	for name, list := range kinds {
		slices.SortFunc(list, func(a, b schema.GroupVersionKind) int {
			return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Version, b.Version), strings.Compare(a.Kind, b.Kind))
		})
		var values []any
		for _, gvk := range list {
			values = append(values, gvkValue(gvk))
		}
		ext[name] = spec.Extensions{"x-kubernetes-group-version-kind": values}
	}
	return func(name string) (string, spec.Extensions) { return name, ext[name] }
}
