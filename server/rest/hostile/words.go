package hostile

import (
	"encoding/base64"
	"fmt"
	"strings"
)

var paths = []string{
	"/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/version", "/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1", "/healthz", "/livez", "/readyz/ping", "/metrics",
	"/api/v1/namespaces", "/api/v1/namespaces/default", "/api/v1/namespaces/default/finalize",
	"/api/v1/configmaps", "/api/v1/namespaces/default/configmaps", "/api/v1/namespaces/default/configmaps/a", "/api/v1/namespaces/default/configmaps/b",
	"/api/v1/namespaces/default/secrets", "/api/v1/namespaces/default/secrets/a", "/api/v1/namespaces/default/events", "/apis/events.k8s.io/v1/namespaces/default/events",
	"/api/v1/namespaces/default/pods", "/api/v1/namespaces/default/pods/p", "/api/v1/namespaces/default/pods/p/status", "/api/v1/namespaces/default/pods/p/log",
	"/api/v1/namespaces/default/pods/p/exec", "/api/v1/namespaces/default/pods/p/attach", "/api/v1/namespaces/default/pods/p/portforward", "/api/v1/namespaces/default/pods/p/proxy/x/y",
	"/api/v1/namespaces/default/pods/p/eviction", "/api/v1/namespaces/default/pods/p/binding", "/api/v1/namespaces/default/bindings", "/api/v1/namespaces/default/pods/p/ephemeralcontainers",
	"/api/v1/namespaces/default/pods/p/resize", "/api/v1/namespaces/default/serviceaccounts/default/token", "/api/v1/namespaces/default/services", "/api/v1/namespaces/default/services/s",
	"/api/v1/namespaces/default/services/https:s:443/proxy/", "/api/v1/nodes", "/api/v1/nodes/n", "/api/v1/nodes/n/status", "/api/v1/nodes/n/proxy/metrics", "/api/v1/persistentvolumes",
	"/api/v1/watch/configmaps", "/api/v1/watch/namespaces/default/configmaps/a", "/api/v1/componentstatuses", "/api/v1/namespaces/default/resourcequotas", "/api/v1/namespaces/default/limitranges",
	"/apis/apps/v1/deployments", "/apis/apps/v1/namespaces/default/deployments", "/apis/apps/v1/namespaces/default/deployments/d", "/apis/apps/v1/namespaces/default/deployments/d/scale",
	"/apis/apps/v1/namespaces/default/replicasets", "/apis/apps/v1/namespaces/default/statefulsets/s/status", "/apis/batch/v1/namespaces/default/jobs", "/apis/batch/v1/namespaces/default/cronjobs",
	"/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
	"/apis/networking.k8s.io/v1/namespaces/default/ingresses", "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", "/apis/rbac.authorization.k8s.io/v1/clusterroles",
	"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "/apis/coordination.k8s.io/v1/namespaces/default/leases", "/apis/coordination.k8s.io/v1/namespaces/default/leases/l",
	"/apis/certificates.k8s.io/v1/certificatesigningrequests", "/apis/certificates.k8s.io/v1/certificatesigningrequests/c/approval", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
	"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
	"/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/exempt", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
	"/apis/authorization.k8s.io/v1/subjectaccessreviews", "/apis/authentication.k8s.io/v1/tokenreviews", "/apis/authentication.k8s.io/v1/selfsubjectreviews", "/apis/resource.k8s.io/v1/resourceslices",
	"/apis/resource.k8s.io/v1/namespaces/default/resourceclaims", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", "/apis/storage.k8s.io/v1/storageclasses", "/apis/nope/v1/things",
}

// strange are pieces of paths and values of parameters, escaped as they are sent.
var strange = []string{
	"", ".", "..", "%2e%2e", "%2F", "%00", "%ff%fe", "%zz", "%", "a%20b", ":", "::", "https:x:99999", "*", "-", "_", "%F0%9F%92%A9", "%E2%80%AE", ";", "a;b", "%3B", "@", "~", "|", "null", "undefined", "-1",
	"0", "18446744073709551616", "1e309", "NaN", "true", "x%0d%0aSet-Cookie:a", "$(id)", "%7B%7B.%7D%7D", strings.Repeat("a", 254), strings.Repeat("%41", 300),
}

type parameter struct {
	name   string
	values []string
}

var parameters = []parameter{
	{"labelSelector", []string{"a%3Db", "a+in+(b,c)", "!a", "a!%3Db,c", "a+notin+()", "a%3D%3D%3Db", "((((", "a+in+(" + strings.Repeat("x,", 2000) + "y)", strings.Repeat("a%3Db,", 3000), "%3D", "a%3E5", "a%3E%3E5", "%ff"}},
	{"fieldSelector", []string{"metadata.name%3Da", "metadata.namespace!%3Ddefault", "spec.nodeName%3D", "status.phase%3DRunning", "x", "%3D", "a%3Db%3Dc", "a%5C", "a%5C%5C%3Db", "metadata.name%3Da,metadata.name%3Db", ",,,"}},
	{"limit", []string{"1", "0", "-1", "500", "9223372036854775807", "9223372036854775808", "x", "1.5"}},
	{"continue", []string{"x", "%00", token(`{}`), token(`{"v":"meta.k8s.io/v1","rv":-5,"start":"a\u0000"}`), token(`{"v":"meta.k8s.io/v1","rv":1,"start":"../../a\u0000"}`),
		token(`{"v":"meta.k8s.io/v1","rv":99999999,"start":"a\u0000"}`), token(`{"v":"v0","rv":1,"start":"a"}`), token(`[`), token(`{"v":"meta.k8s.io/v1","rv":1e99,"start":1}`), token(`{"v":"meta.k8s.io/v1","rv":-1,"start":"zz\u0000"}`)}},
	{"resourceVersion", []string{"0", "1", "-1", "x", "99999999", "99999999999999999999", "0x10", "1.0", "%201"}},
	{"resourceVersionMatch", []string{"Exact", "NotOlderThan", "exact", "x"}},
	{"watch", []string{"1", "true", "0", "false", "x", ""}},
	{"timeoutSeconds", []string{"1", "0", "-1", "x", "9223372036854775807", "99999999999999999999"}},
	{"sendInitialEvents", []string{"true", "false", "x"}},
	{"allowWatchBookmarks", []string{"true", "false", "x"}},
	{"dryRun", []string{"All", "all", "x", "All&dryRun=All", ""}},
	{"fieldManager", []string{"m", "", strings.Repeat("m", 129), "%01", "%ff"}},
	{"fieldValidation", []string{"Strict", "Warn", "Ignore", "x", ""}},
	{"force", []string{"true", "false", "x"}},
	{"pretty", []string{"1", "0", "x", ""}},
	{"propagationPolicy", []string{"Orphan", "Background", "Foreground", "x"}},
	{"orphanDependents", []string{"true", "false", "x"}},
	{"gracePeriodSeconds", []string{"0", "-1", "x", "99999999999999999999"}},
	{"timeout", []string{"1s", "1ns", "-5s", "x", "99999h", "1"}},
	{"includeObject", []string{"None", "Object", "Metadata", "x"}},
	{"tailLines", []string{"-1", "x", "1"}}, {"sinceSeconds", []string{"-1", "x"}}, {"sinceTime", []string{"x", "2020-01-01T00:00:00Z"}}, {"limitBytes", []string{"0", "-1"}},
	{"command", []string{"sh", ""}}, {"container", []string{"c", "%00"}}, {"stdin", []string{"1"}}, {"tty", []string{"x"}}, {"ports", []string{"0", "65536", "x", "80"}}, {"path", []string{"..%2F..", "a"}},
	{"exclude", []string{"ping", "x"}}, {"verbose", []string{""}}, {"ignoreStoreReadErrorWithClusterBreakingPotential", []string{"true"}},
}

func token(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

var accepts = []string{
	"application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor", "*/*", "application/*", "text/html", ";;;", ",", "application/json;as=Table;v=v1;g=meta.k8s.io",
	"application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "application/json;as=Table;v=v9;g=x", "application/json;q=x",
	"application/json;as=", strings.Repeat("a/b;q=0.1,", 500), "application/json;stream=watch", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "\xff\xfe",
}

var contentTypes = []string{
	"application/json", "application/json", "application/json", "application/yaml", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor", "application/cbor-seq", "", "text/plain", "application/json; charset=latin1", ";", "application/x-www-form-urlencoded",
	"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml", "application/apply-patch+cbor", "multipart/form-data; boundary=x",
}

var patchTypes = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml", "application/apply-patch+cbor", "application/json"}

var headers = []string{
	"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Connection: Upgrade\r\nUpgrade: websocket", "Connection: Upgrade\r\nUpgrade: SPDY/3.1",
	"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 99\r\nSec-WebSocket-Key: x", "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", "Sec-WebSocket-Protocol: v5.channel.k8s.io,base64url.bearer.authorization.k8s.io.eA",
	"Accept-Encoding: gzip", "Accept-Encoding: gzip;q=0, br, *", "Content-Encoding: gzip", "Content-Encoding: identity", "Expect: 100-continue", "Range: bytes=0-10", "If-None-Match: *", "If-Modified-Since: x",
	"Impersonate-User: x", "Impersonate-Group: g", "Impersonate-Uid: 1", "Impersonate-Extra-%zz: x", "Impersonate-User:", "Authorization: Bearer x", "Authorization: Bearer a.b.c", "Authorization: Basic eDp5", "Authorization: " + strings.Repeat("B", 8000),
	"User-Agent: \x01\xff", "User-Agent: /", "User-Agent: curl/8", "User-Agent: Mozilla/5.0", "X-Forwarded-For: 127.0.0.1", "X-Remote-User: admin", "X-Remote-Group: system:masters", "Origin: http://evil", "Cookie: a=b", "Te: trailers", "Trailer: X",
	"X-Stream-Protocol-Version: v4.channel.k8s.io", "Audit-ID: " + strings.Repeat("a", 500), "Traceparent: 00-x-y-z", "Forwarded: for=x", "Content-Language: x", "Max-Forwards: 0", "Proxy-Connection: close", "Upgrade-Insecure-Requests: 1",
}

var objects = []string{
	`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","labels":{"x":"y"}},"data":{"k":"v"},"binaryData":{"b":"AA=="}}`,
	`{"metadata":{"generateName":"g-"},"data":{"k":"v"}}`,
	`{"metadata":{"name":"b","finalizers":["x.io/y"],"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"}]}}`,
	`{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"},"type":"kubernetes.io/tls","data":{"tls.crt":"AA==","tls.key":"AA=="},"stringData":{"x":"y"}}`,
	`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"1","memory":"1Gi"}},"ports":[{"containerPort":80}],"env":[{"name":"A","value":"b"}]}],"nodeName":"n"}}`,
	`{"kind":"Service","apiVersion":"v1","metadata":{"name":"s"},"spec":{"ports":[{"port":80,"targetPort":"http"}],"selector":{"a":"b"}}}`,
	`{"kind":"Node","apiVersion":"v1","metadata":{"name":"n"},"status":{"capacity":{"cpu":"4"},"addresses":[{"type":"InternalIP","address":"10.0.0.1"}]}}`,
	`{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"d"},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`,
	`{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"d"},"spec":{"replicas":-1}}`,
	`{"kind":"Eviction","apiVersion":"policy/v1","metadata":{"name":"p"}}`, `{"kind":"Binding","apiVersion":"v1","metadata":{"name":"p"},"target":{"kind":"Node","name":"n"}}`,
	`{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{"name":"l"},"spec":{"holderIdentity":"x","leaseDurationSeconds":40,"renewTime":"2026-01-01T00:00:00.000000Z"}}`,
	`{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"default"}}`, `{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"x"},"gracePeriodSeconds":0}`,
	`{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{"name":"xs.y.io"},"spec":{"group":"y.io","names":{"plural":"xs","kind":"X"},"scope":"Namespaced","versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","x-kubernetes-validations":[{"rule":"self.a > 1"}],"properties":{"a":{"type":"integer"}}}}}}}]}}`,
	`{"kind":"ValidatingAdmissionPolicy","apiVersion":"admissionregistration.k8s.io/v1","metadata":{"name":"v"},"spec":{"matchConstraints":{"resourceRules":[{"apiGroups":["*"],"apiVersions":["*"],"operations":["*"],"resources":["*"]}]},"validations":[{"expression":"object.x == 1"}]}}`,
	`{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}`, `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","spec":{"token":"x"}}`,
	`{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","spec":{"audiences":["x"],"expirationSeconds":600}}`,
	`{"kind":"FlowSchema","apiVersion":"flowcontrol.apiserver.k8s.io/v1","metadata":{"name":"f"},"spec":{"priorityLevelConfiguration":{"name":"x"},"rules":[{"subjects":[{"kind":"User","user":{"name":"x"}}],"resourceRules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"],"namespaces":["*"]}]}]}}`,
	`{"kind":"Ingress","apiVersion":"networking.k8s.io/v1","metadata":{"name":"i"},"spec":{"rules":[{"host":"*.x","http":{"paths":[{"path":"/","pathType":"Prefix","backend":{"service":{"name":"s","port":{"number":80}}}}]}}]}}`,
	`{"kind":"Job","apiVersion":"batch/v1","metadata":{"name":"j"},"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}`,
	`{"kind":"Event","apiVersion":"v1","metadata":{"name":"e"},"involvedObject":{"kind":"Pod","name":"p","namespace":"default"},"reason":"r","message":"m"}`,
	`{"kind":"CertificateSigningRequest","apiVersion":"certificates.k8s.io/v1","metadata":{"name":"c"},"spec":{"request":"AA==","signerName":"x.io/y","usages":["client auth"]}}`,
}

var patches = []string{
	`[{"op":"add","path":"/metadata/annotations/x","value":"y"}]`, `[{"op":"remove","path":"/metadata/name"}]`, `[{"op":"replace","path":"","value":null}]`, `[{"op":"move","from":"/metadata","path":"/metadata/x"}]`,
	`[{"op":"copy","from":"","path":"/data"}]`, `[{"op":"test","path":"/data/~2","value":1}]`, `[{"op":"add","path":"/data/-1","value":1}]`, `[{"op":"add"}]`, `[null]`, `[[]]`, `[{"op":1}]`, `{"op":"add"}`,
	`{"metadata":{"annotations":null,"labels":{"a":null}},"data":5}`, `{"metadata":null}`, `{"apiVersion":"v2","kind":"X"}`, `{"metadata":{"name":"other","uid":"x","resourceVersion":"1"}}`, `{"data":{"k":null,"j":{"a":1}}}`,
	`{"$patch":"delete"}`, `{"$patch":"replace","data":{}}`, `{"spec":{"containers":[{"$patch":"delete","name":"c"}]}}`, `{"spec":{"containers":[{"$patch":"x"}]}}`, `{"spec":{"$setElementOrder/containers":[{"name":"z"}],"containers":[{"name":"c"}]}}`,
	`{"spec":{"$setElementOrder/containers":5}}`, `{"metadata":{"$deleteFromPrimitiveList/finalizers":["a",{}]}}`, `{"spec":{"$retainKeys":["a"],"strategy":{"$retainKeys":5}}}`, `{"spec":{"containers":null}}`, `{"spec":{"template":{"spec":{"containers":{"a":1}}}}}`,
	`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","managedFields":[{}]}}`, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":["x"]}}`, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"replicas":"x"}}`,
}

// manyOperations is a JSON patch of n steps.
func manyOperations(n int, step string) string {
	var b strings.Builder
	b.WriteByte('[')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, step, i)
	}
	b.WriteByte(']')
	return b.String()
}
