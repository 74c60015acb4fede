package document

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/common"

	"orch/api"
	"orch/server/rest/surface"
)

// kindRoutes lists every route of one kind, as upstream's installer registers them.
func kindRoutes(f *api.Facts) []common.Route {
	b := &kindBuilder{facts: f, verbs: surface.Verbs(f)}
	b.collection()
	b.object()
	for _, s := range surface.Subresources(f) {
		b.subresource(s)
	}
	return b.routes
}

type kindBuilder struct {
	facts  *api.Facts
	verbs  []string
	routes []common.Route
}

func (b *kindBuilder) has(verb string) bool { return slices.Contains(b.verbs, verb) }

// base is the path in front of namespace and resource.
func base(f *api.Facts, middle string) string {
	if f.Group == "" {
		return "/api/" + f.Version + "/" + middle
	}
	return "/apis/" + f.Group + "/" + f.Version + "/" + middle
}

// collectionPath is where the kind's objects of one namespace (or the cluster) are.
func collectionPath(f *api.Facts, middle string) string {
	if f.Cluster {
		return base(f, middle) + f.Plural
	}
	return base(f, middle) + "namespaces/{namespace}/" + f.Plural
}

// scoped is the words "Namespaced" + kind in operation ids.
func (b *kindBuilder) scoped() string {
	if b.facts.Cluster {
		return b.facts.Kind
	}
	return "Namespaced" + b.facts.Kind
}

func (b *kindBuilder) add(r route) {
	r.id = r.idVerb + groupWord(b.facts.Group) + title(b.facts.Version) + r.idRest
	r.tag = tag(b.facts)
	if r.kind.Empty() {
		r.kind = b.facts.GVK()
	}
	if strings.Contains(r.path, "{namespace}") {
		r.params = append(r.params, namespaceParam)
	}
	if strings.Contains(r.path, "{name}") {
		r.params = append(r.params, nameParam(r.kind.Kind))
	}
	r.params = append(r.params, prettyParam)
	b.routes = append(b.routes, &r)
}

func (b *kindBuilder) collection() {
	f := b.facts
	path := collectionPath(f, "")
	if b.has("list") {
		b.add(route{method: "GET", path: path, idVerb: "list", idRest: b.scoped(), action: "list", answer: f.NewList(), produces: listTypes,
			params: listParams(), text: "list or watch objects of kind " + f.Kind})
		if !f.Cluster {
			b.add(route{method: "GET", path: base(f, "") + f.Plural, idVerb: "list", idRest: f.Kind + "ForAllNamespaces", action: "list", answer: f.NewList(),
				produces: listTypes, params: listParams(), text: "list or watch objects of kind " + f.Kind})
		}
	}
	if b.has("create") {
		b.add(route{method: "POST", path: path, idVerb: "create", idRest: b.scoped(), action: "post", body: f.New(), answer: f.New(),
			codes: []int{200, 201, 202}, params: optionParams(metav1.CreateOptions{}), text: "create " + article(f.Kind)})
	}
	if b.has("deletecollection") {
		b.add(route{method: "DELETE", path: path, idVerb: "delete", idRest: "Collection" + b.scoped(), action: "deletecollection", body: metav1.DeleteOptions{},
			answer: metav1.Status{}, params: merge(deleteParams(), listParams("watch", "allowWatchBookmarks")), text: "delete collection of " + f.Kind})
	}
	if b.has("watch") {
		const text = "watch changes to an object of kind %s. deprecated: use the 'watch' parameter with a list operation"
		w := route{method: "GET", idVerb: "watch", answer: metav1.WatchEvent{}, produces: listTypes, params: listParams()}
		w.path, w.idRest, w.action, w.text = collectionPath(f, "watch/"), b.scoped()+"List", "watchlist", fmt.Sprintf("watch individual changes to a list of %s. deprecated: use the 'watch' parameter with a list operation instead.", f.Kind)
		b.add(w)
		w.path, w.idRest, w.action, w.text = collectionPath(f, "watch/")+"/{name}", b.scoped(), "watch", fmt.Sprintf(text, f.Kind)
		w.params = listParams()
		b.add(w)
		if !f.Cluster {
			w.path, w.idRest, w.action = base(f, "watch/")+f.Plural, f.Kind+"ListForAllNamespaces", "watchlist"
			w.params = listParams()
			b.add(w)
		}
	}
}

func (b *kindBuilder) object() {
	f := b.facts
	path := collectionPath(f, "") + "/{name}"
	if b.has("get") {
		b.add(route{method: "GET", path: path, idVerb: "read", idRest: b.scoped(), action: "get", answer: f.New(), text: "read the specified " + f.Kind})
	}
	if b.has("update") {
		b.add(route{method: "PUT", path: path, idVerb: "replace", idRest: b.scoped(), action: "put", body: f.New(), answer: f.New(),
			codes: []int{200, 201}, params: optionParams(metav1.UpdateOptions{}), text: "replace the specified " + f.Kind})
	}
	if b.has("patch") {
		b.add(route{method: "PATCH", path: path, idVerb: "patch", idRest: b.scoped(), action: "patch", body: metav1.Patch{}, answer: f.New(), consumes: patchTypes,
			codes: []int{200, 201}, params: optionParams(metav1.PatchOptions{}), text: "partially update the specified " + f.Kind})
	}
	if b.has("delete") {
		b.add(route{method: "DELETE", path: path, idVerb: "delete", idRest: b.scoped(), action: "delete", body: metav1.DeleteOptions{}, answer: metav1.Status{},
			codes: []int{200, 202}, params: deleteParams(), text: "delete " + article(f.Kind)})
	}
}

func (b *kindBuilder) subresource(s surface.Sub) {
	f := b.facts
	path, word := collectionPath(f, "")+"/{name}/"+s.Name, b.scoped()+title(s.Name)
	if s.Name == "log" {
		b.add(route{method: "GET", path: path, idVerb: "read", idRest: word, action: "get", answer: "", params: structParams("PodLogOptions"),
			produces: append([]string{"text/plain"}, objectTypes...), text: "read log of the specified Pod"})
		return
	}
	if strings.HasSuffix(s.Kind.Kind, "Options") {
		b.connect(s, path)
		return
	}
	for _, verb := range s.Verbs {
		body := newObject(s.Kind)
		r := route{path: path, idRest: word, kind: s.Kind, body: body, answer: body}
		switch verb {
		case "get":
			r.method, r.idVerb, r.action, r.body, r.text = "GET", "read", "get", nil, "read "+s.Name+" of the specified "+f.Kind
		case "update":
			r.method, r.idVerb, r.action, r.codes, r.params, r.text = "PUT", "replace", "put", []int{200, 201}, optionParams(metav1.UpdateOptions{}), "replace "+s.Name+" of the specified "+f.Kind
		case "patch":
			r.method, r.idVerb, r.action, r.codes, r.body, r.consumes = "PATCH", "patch", "patch", []int{200, 201}, metav1.Patch{}, patchTypes
			r.params, r.text = optionParams(metav1.PatchOptions{}), "partially update "+s.Name+" of the specified "+f.Kind
		case "create":
			r.method, r.idVerb, r.action, r.codes = "POST", "create", "post", []int{200, 201, 202}
			r.params, r.text = optionParams(metav1.CreateOptions{}), "create "+s.Name+" of "+article(f.Kind)
		}
		b.add(r)
	}
}

// connectMethods orders the HTTP methods that each connect verb stands for.
var connectMethods = map[string]string{"get": "GET", "create": "POST", "delete": "DELETE", "patch": "PATCH", "update": "PUT"}

func (b *kindBuilder) connect(s surface.Sub, path string) {
	word := b.scoped() + title(s.Name)
	for _, verb := range s.Verbs {
		m := connectMethods[verb]
		r := route{method: m, path: path, idVerb: "connect", kind: s.Kind, action: "connect", answer: "", produces: []string{"*/*"}, consumes: []string{"*/*"}}
		r.text = "connect " + m + " requests to " + s.Name + " of " + b.facts.Kind
		methodWord := title(strings.ToLower(m))
		r.idRest, r.params = methodWord+word, structParams(s.Kind.Kind)
		b.add(r)
		if s.Name == "proxy" {
			r.path, r.idRest = path+"/{path}", methodWord+word+"WithPath"
			r.params = append(structParams(s.Kind.Kind), pathParam)
			b.add(r)
		}
	}
}

// rootRoutes are the routes beside the resources: discovery and version.
func rootRoutes(groups []schema.GroupVersion) []common.Route {
	routes := []common.Route{
		plain("/api/", "getCoreAPIVersions", "core", "get available API versions", metav1.APIVersions{}),
		plain("/apis/", "getAPIVersions", "apis", "get available API versions", metav1.APIGroupList{}),
		plain("/version/", "getCodeVersion", "version", "get the version information for this server", versionInfo),
		plain("/.well-known/openid-configuration/", "getServiceAccountIssuerOpenIDConfiguration", "WellKnown", "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'", ""),
		plain("/openid/v1/jwks/", "getServiceAccountIssuerOpenIDKeyset", "openid", "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)", ""),
	}
	seen := map[string]bool{}
	for _, gv := range groups {
		word := groupWord(gv.Group)
		path := "/apis/" + gv.Group + "/"
		tag := lowerFirst(word)
		if gv.Group == "" {
			path = "/api/"
		} else if !seen[gv.Group] {
			seen[gv.Group] = true
			routes = append(routes, plain(path, "get"+word+"APIGroup", tag, "get information of a group", metav1.APIGroup{}))
		}
		routes = append(routes, plain(path+gv.Version+"/", "get"+word+title(gv.Version)+"APIResources", tag+"_"+gv.Version, "get available resources", metav1.APIResourceList{}))
	}
	return routes
}

func plain(path, id, tag, text string, answer any) common.Route {
	r := &route{method: http.MethodGet, path: path, id: id, tag: tag, text: text, answer: answer, produces: plainTypes, consumes: plainTypes}
	if _, ok := answer.(string); ok {
		r.produces, r.consumes = []string{"application/json"}, nil
	}
	return r
}
