package crd

import (
	"strings"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

// style is how a document is written: where references point to, and whether it is of
// version 2.
type style struct {
	ref string
	old bool
}

// target is what the operations of a path are about.
type target struct {
	named bool   // one object
	all   bool   // of all namespaces
	sub   string // "", Status, Scale
}

const scaleModel = "io.k8s.api.autoscaling.v1.Scale"

// operations: the verb in a document, its method, the start of its name, its action.
var operations = map[string][3]string{
	"list":             {"get", "list", "list"},
	"get":              {"get", "read", "get"},
	"post":             {"post", "create", "post"},
	"put":              {"put", "replace", "put"},
	"patch":            {"patch", "patch", "patch"},
	"delete":           {"delete", "delete", "delete"},
	"deletecollection": {"delete", "deleteCollection", "deletecollection"},
}

var listParameters = []string{"allowWatchBookmarks:boolean", "continue:string", "fieldSelector:string", "labelSelector:string", "limit:integer",
	"resourceVersion:string", "resourceVersionMatch:string", "sendInitialEvents:boolean", "timeoutSeconds:integer", "watch:boolean"}

// parameters of the query, by operation.
var parameters = map[string][]string{
	"list":             listParameters,
	"get":              {"resourceVersion:string"},
	"post":             {"dryRun:string", "fieldManager:string", "fieldValidation:string"},
	"put":              {"dryRun:string", "fieldManager:string", "fieldValidation:string"},
	"patch":            {"dryRun:string", "fieldManager:string", "fieldValidation:string", "force:boolean"},
	"delete":           {"dryRun:string", "gracePeriodSeconds:integer", "orphanDependents:boolean", "propagationPolicy:string"},
	"deletecollection": listParameters,
}

var bodyTypes = map[string][]string{
	"post": {"application/json", "application/yaml"}, "put": {"application/json", "application/yaml"},
	"patch":  {"application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"},
	"delete": {"application/json"}, "deletecollection": {"application/json"},
}

var answerTypes = []string{"application/json", "application/yaml"}

func (v *version) pathItem(s style, t target, verbs ...string) map[string]any {
	item := map[string]any{}
	var shared []any
	if t.named {
		shared = append(shared, s.parameter("name", "string", "path"))
	}
	if !v.definition.cluster && !t.all {
		shared = append(shared, s.parameter("namespace", "string", "path"))
	}
	item["parameters"] = append(shared, s.parameter("pretty", "string", "query"))
	for _, verb := range verbs {
		item[operations[verb][0]] = v.operation(s, t, verb)
	}
	return item
}

func (v *version) operation(s style, t target, verb string) map[string]any {
	how := operations[verb]
	kind := v.modelName(v.definition.names.Kind)
	gvk := map[string]any{"group": v.definition.group, "version": v.name, "kind": v.definition.names.Kind}
	if t.sub == "Scale" {
		kind, gvk = scaleModel, map[string]any{"group": "autoscaling", "version": "v1", "kind": "Scale"}
	}
	answer, body := kind, kind
	switch verb {
	case "list":
		answer = v.modelName(v.definition.names.ListKind)
	case "patch":
		body = metaPackage + "Patch"
	case "delete", "deletecollection":
		answer, body = metaPackage+"Status", metaPackage+"DeleteOptions"
	}
	list := []any{}
	for _, p := range parameters[verb] {
		name, of, _ := strings.Cut(p, ":")
		list = append(list, s.parameter(name, of, "query"))
	}
	op := map[string]any{
		"operationId": v.id(how[1], t), "tags": []string{v.tag()},
		"x-kubernetes-action": how[2], gvkKey: gvk,
	}
	s.body(op, &list, body, bodyTypes[verb])
	op["parameters"] = list
	answers := map[string]any{"200": s.answer("OK", answer), "401": map[string]any{"description": "Unauthorized"}}
	if verb == "post" || verb == "put" || verb == "patch" {
		answers["201"] = s.answer("Created", answer)
	}
	op["responses"] = answers
	return op
}

func (s style) parameter(name, of, in string) map[string]any {
	p := map[string]any{"name": name, "in": in}
	if in == "path" {
		p["required"] = true
	}
	if s.old {
		p["type"], p["uniqueItems"] = of, true
	} else {
		p["schema"] = map[string]any{"type": of, "uniqueItems": true}
	}
	return p
}

func (s style) reference(model string) map[string]any { return map[string]any{"$ref": s.ref + model} }

// body says what an operation takes.
func (s style) body(op map[string]any, list *[]any, model string, types []string) {
	switch {
	case len(types) == 0 && s.old:
		op["produces"] = answerTypes
	case len(types) == 0:
	case s.old:
		op["consumes"], op["produces"] = types, answerTypes
		*list = append(*list, map[string]any{"name": "body", "in": "body", "required": true, "schema": s.reference(model)})
	default:
		op["requestBody"] = map[string]any{"content": s.content(model, types)}
	}
}

func (s style) content(model string, types []string) map[string]any {
	out := map[string]any{}
	for _, t := range types {
		out[t] = map[string]any{"schema": s.reference(model)}
	}
	return out
}

func (s style) answer(about, model string) map[string]any {
	if s.old {
		return map[string]any{"description": about, "schema": s.reference(model)}
	}
	return map[string]any{"description": about, "content": s.content(model, answerTypes)}
}

// scaleSchema is enough of autoscaling/v1 for the references to it.
func scaleSchema() *spec.Schema {
	number := func(name string) spec.Schema {
		s := spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
		s.SetProperty("replicas", *spec.Int32Property())
		if name == "status" {
			s.SetProperty("selector", *spec.StringProperty())
		}
		return s
	}
	s := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}, Description: "Scale represents a scaling request for a resource."}}
	withMeta(s, refV3)
	s.SetProperty("spec", number("spec"))
	s.SetProperty("status", number("status"))
	s.AddExtension(gvkKey, []any{map[string]any{"group": "autoscaling", "version": "v1", "kind": "Scale"}})
	return s
}
