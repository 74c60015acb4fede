package document

import (
	"reflect"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-openapi/pkg/common"
)

// param is a route parameter; comparable, so that the builder can find those
// which all methods of a path share.
type param struct {
	name, text string
	in         common.ParameterKind
	datatype   string
	required   bool
}

func (p param) Name() string               { return p.name }
func (p param) Description() string        { return p.text }
func (p param) Required() bool             { return p.required }
func (p param) Kind() common.ParameterKind { return p.in }
func (p param) DataType() string           { return p.datatype }
func (p param) AllowMultiple() bool        { return false }

var (
	prettyParam    = param{name: "pretty", text: "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget).", in: common.QueryParameterKind, datatype: "string"}
	namespaceParam = param{name: "namespace", text: "object name and auth scope, such as for teams and projects", in: common.PathParameterKind, datatype: "string", required: true}
	pathParam      = param{name: "path", text: "path to the resource", in: common.PathParameterKind, datatype: "string", required: true}
	bodyParam      = param{name: "body", in: common.BodyParameterKind, required: true}
)

func nameParam(kind string) param {
	return param{name: "name", text: "name of the " + kind, in: common.PathParameterKind, datatype: "string", required: true}
}

// documented is what generated API types offer: the text of each field.
type documented interface{ SwaggerDoc() map[string]string }

// optionParams makes a query parameter of every simple field of an options struct.
func optionParams(options documented, without ...string) []param {
	texts := options.SwaggerDoc()
	var list []param
	t := reflect.TypeOf(options)
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		datatype := simpleType(field.Type)
		if name == "" || datatype == "" || slices.Contains(without, name) {
			continue
		}
		list = append(list, param{name: name, text: texts[name], in: common.QueryParameterKind, datatype: datatype})
	}
	return list
}

// simpleType names the OpenAPI type of a query parameter, "" where a field cannot be one.
func simpleType(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "integer"
	case reflect.String, reflect.Slice:
		return "string"
	case reflect.Struct:
		if t == reflect.TypeFor[metav1.Time]() {
			return "string"
		}
	}
	return ""
}

func listParams(without ...string) []param { return optionParams(metav1.ListOptions{}, without...) }
func deleteParams() []param                { return optionParams(metav1.DeleteOptions{}) }

// structParams gives the parameters of the connect options of core/v1.
func structParams(kind string) []param {
	switch kind {
	case "PodLogOptions":
		return optionParams(core.PodLogOptions{})
	case "PodExecOptions":
		return optionParams(core.PodExecOptions{})
	case "PodAttachOptions":
		return optionParams(core.PodAttachOptions{})
	case "PodPortForwardOptions":
		return optionParams(core.PodPortForwardOptions{})
	case "PodProxyOptions":
		return optionParams(core.PodProxyOptions{})
	case "ServiceProxyOptions":
		return optionParams(core.ServiceProxyOptions{})
	case "NodeProxyOptions":
		return optionParams(core.NodeProxyOptions{})
	}
	panic("no options type " + kind)
}

// merge joins parameter lists; of two with one name the first stays.
func merge(lists ...[]param) []param {
	var out []param
	seen := map[string]bool{}
	for _, p := range slices.Concat(lists...) {
		if !seen[p.name] {
			seen[p.name] = true
			out = append(out, p)
		}
	}
	return out
}
