package document

import (
	"net/http"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/kube-openapi/pkg/common"

	"orch/api"
)

// Media types as the server offers them.
var (
	plainTypes  = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	objectTypes = plainTypes
	listTypes   = append(plainTypes[:3:3], "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch")
	patchTypes  = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}
)

var versionInfo = version.Info{}

// route is one method of one path, in the shape the document builders take.
type route struct {
	method, path string
	// id is idVerb + group + version + idRest.
	id, idVerb, idRest string
	tag, action, text  string
	kind               schema.GroupVersionKind
	params             []param
	// body and answer are samples of the Go types; nil body for none. A string
	// answer is plain text.
	body, answer       any
	codes              []int
	consumes, produces []string
}

func (r *route) Method() string        { return r.method }
func (r *route) Path() string          { return r.path }
func (r *route) OperationName() string { return r.id }
func (r *route) Description() string   { return r.text }

func (r *route) Parameters() []common.Parameter {
	var list []common.Parameter
	for _, p := range r.params {
		list = append(list, p)
	}
	if r.body != nil {
		body := bodyParam
		body.required = r.method != http.MethodDelete
		list = append(list, body)
	}
	return list
}

func (r *route) Consumes() []string {
	if r.consumes == nil {
		return []string{"*/*"}
	}
	return r.consumes
}

func (r *route) Produces() []string {
	if r.produces == nil {
		return objectTypes
	}
	return r.produces
}

func (r *route) Metadata() map[string]any {
	if r.action == "" {
		return nil
	}
	return map[string]any{"x-kubernetes-action": r.action, "x-kubernetes-group-version-kind": gvkValue(r.kind)}
}

func (r *route) RequestPayloadSample() any  { return r.body }
func (r *route) ResponsePayloadSample() any { return r.answer }

func (r *route) StatusCodeResponses() []common.StatusCodeResponse {
	codes := r.codes
	if codes == nil {
		codes = []int{http.StatusOK}
	}
	var list []common.StatusCodeResponse
	for _, c := range codes {
		list = append(list, response{c, r.answer})
	}
	return list
}

type response struct {
	code  int
	model any
}

func (r response) Code() int       { return r.code }
func (r response) Message() string { return http.StatusText(r.code) }
func (r response) Model() any      { return r.model }

// routes is a web service: all routes under one root.
type routes struct {
	root string
	list []common.Route
}

func (r routes) RootPath() string                   { return r.root }
func (r routes) PathParameters() []common.Parameter { return nil }
func (r routes) Routes() []common.Route             { return r.list }

func gvkValue(k schema.GroupVersionKind) map[string]any {
	return map[string]any{"group": k.Group, "version": k.Version, "kind": k.Kind}
}

// newObject makes a sample of a kind that the scheme knows.
func newObject(k schema.GroupVersionKind) any {
	o, err := api.Scheme().New(k)
	if err != nil {
		panic(err) // the kind table names a type which does not exist
	}
	return o
}
