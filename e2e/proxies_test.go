package e2e

import (
	"crypto/tls"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	"k8s.io/client-go/rest"

	"orch/e2e/lab"
)

// TestProxies reaches pods, Services and nodes through the API server: those of the
// server's own node and those of a joined one, which can be reached by its tunnel only.
func TestProxies(t *testing.T) {
	l := lab.New(t)
	one, two := l.Host("one"), l.Host("two")
	one.Images()
	two.Images()
	server := one.StartServer()
	two.StartAgent(server).WaitReady(patience)
	nodeIs(one, "two", "True")
	c := newCluster(t, one)
	for _, node := range []string{"one", "two"} {
		c.Pod("on-"+node, "myapp:1.4.2", "ports: [{name: web, containerPort: 8000}]\nreadinessProbe: {httpGet: {path: /ready, port: 8000}, periodSeconds: 1}", "nodeName: "+node)
		c.Apply(fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: svc-%s}\nspec: {selector: {app: on-%[1]s}, ports: [{name: http, port: 80, targetPort: web}, {name: other, port: 81, targetPort: 8080}]}", node))
	}
	c.Ready("on-one", "on-two")
	for _, node := range []string{"one", "two"} {
		t.Run("node "+node, func(t *testing.T) {
			c := cluster{one.For(t), c.ns}
			c.proxiesOf(t, node)
		})
	}
	t.Run("kubectl proxy", func(t *testing.T) { cluster{one.For(t), c.ns}.kubectlProxy(t) })
	t.Run("who may not", func(t *testing.T) { cluster{one.For(t), c.ns}.forbiddenProxies(t) })
}

// path is one below the namespace.
func (c cluster) path(rest string) string { return "/api/v1/namespaces/" + c.ns + "/" + rest }

func (c cluster) proxiesOf(t *testing.T, node string) {
	pod, svc := "on-"+node, "svc-"+node
	for _, tc := range []struct{ name, path, want string }{
		{"a pod's port", c.path("pods/" + pod + ":8080/proxy/say/a/b?q=1&r=%2F"), pod + ` GET /say/a/b?q=1&r=%2F "" auth="" for=`},
		{"the pod's first port", c.path("pods/" + pod + "/proxy/say/x"), pod + " GET /say/x "},
		{"with a scheme", c.path("pods/http:" + pod + ":8000/proxy/say/x"), pod + " GET /say/x "},
		{"the root", c.path("pods/" + pod + ":8000/proxy/"), pod},
		{"a Service's port by name", c.path("services/" + svc + ":http/proxy/say/s?z=1"), pod + " GET /say/s?z=1 "},
		{"a Service's port by number", c.path("services/" + svc + ":81/proxy/say/s"), pod + " GET /say/s "},
		{"a Service's port with a scheme", c.path("services/http:" + svc + ":other/proxy/say/s"), pod + " GET /say/s "},
		{"the node", "/api/v1/nodes/" + node + "/proxy/healthz", "ok"},
		{"a log by the node", "/api/v1/nodes/" + node + "/proxy/containerLogs/" + c.ns + "/" + pod + "/main", "myapp is up"},
		{"much", c.path("pods/" + pod + ":8000/proxy/big"), strings.Repeat("big ", 1<<19)},
	} {
		if out, err := c.TryKubectl("get", "--raw", tc.path); err != nil || !strings.Contains(out, tc.want) {
			t.Errorf("%s: %.300s %v", tc.name, out, err)
		}
	}
	o := c.In("what I say", "create", "--raw", c.path("pods/"+pod+":8000/proxy/say/post"), "-f", "-")
	contains(t, o.Both(), pod+` POST /say/post "what I say" auth=""`)
	for path, want := range map[string]string{
		c.path("pods/" + pod + ":8000/proxy/say/teapot"): "status code 418",
		c.path("pods/" + pod + ":1/proxy/"):              "error trying to reach service",
		c.path("services/" + svc + ":none/proxy/"):       `no endpoints available for service "` + svc + `"`,
		c.path("services/" + svc + ":7/proxy/"):          `no service port 7 found for service "` + svc + `"`,
		c.path("pods/none:80/proxy/"):                    `pods "none" not found`,
		"/api/v1/nodes/none/proxy/healthz":               `nodes "none" not found`,
		"/api/v1/nodes/" + node + "/proxy/nothing":       "(NotFound)",
	} {
		if out, err := c.TryKubectl("get", "--raw", path); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %s %v", path, out, err)
		}
	}
	for _, path := range []string{c.path("pods/" + pod + ":8000/proxy/socket"), c.path("services/" + svc + ":http/proxy/socket")} {
		if got, err := talk(c.Host, path, "over the proxy"); err != nil || got != "hello from "+pod+"|over the proxy" {
			t.Errorf("websocket %s: %q %v", path, got, err)
		}
	}
}

// talk opens a WebSocket through the API server, says a word, and gives both answers.
func talk(h *lab.Host, path, word string) (string, error) {
	config := h.Config()
	secure, err := rest.TLSConfigFor(config)
	if err != nil {
		return "", err
	}
	at, err := url.Parse(config.Host)
	if err != nil {
		return "", err
	}
	secure.ServerName, secure.NextProtos = at.Hostname(), []string{"http/1.1"}
	raw, err := h.Dial(h.Context(), "tcp", at.Host)
	if err != nil {
		return "", err
	}
	defer raw.Close()
	ws, err := websocket.NewConfig("wss://"+at.Host+path, config.Host)
	if err != nil {
		return "", err
	}
	conn, err := websocket.NewClient(ws, tls.Client(raw, secure))
	if err != nil {
		return "", err
	}
	conn.SetDeadline(time.Now().Add(patience))
	var greeting, answer string
	if err := websocket.Message.Receive(conn, &greeting); err != nil {
		return "", err
	}
	if err := websocket.Message.Send(conn, word); err != nil {
		return greeting, err
	}
	err = websocket.Message.Receive(conn, &answer)
	return greeting + "|" + answer, err
}

var servesOn = regexp.MustCompile(`Starting to serve on (127\.0\.0\.1:\d+)`)

// kubectlProxy asks with curl through `kubectl proxy`.
func (c cluster) kubectlProxy(t *testing.T) {
	r := c.Go("proxy", "--port=0")
	c.SaysRunning(r, "Starting to serve on")
	at := "http://" + servesOn.FindStringSubmatch(r.Output())[1]
	curl := func(args ...string) string {
		t.Helper()
		o := c.Run("", "curl", append([]string{"-sS", "--max-time", "20"}, args...)...)
		if o.Code != 0 {
			t.Errorf("curl %v: %s", args, o.Both())
		}
		return o.Stdout
	}
	contains(t, curl(at+"/version"), `"major": "1"`)
	contains(t, curl(at+c.path("pods")), `"kind": "PodList"`, "on-two")
	contains(t, curl(at+c.path("pods/on-two:8080/proxy/say/curl?q=1")), "on-two GET /say/curl?q=1 ")
	contains(t, curl("-X", "PUT", "-d", "body", at+c.path("services/svc-one:http/proxy/say/put")), `on-one PUT /say/put "body"`)
	contains(t, curl("-i", at+c.path("pods/on-two:8000/proxy")), "301 Moved Permanently", "Location: "+c.path("pods/on-two:8000/proxy/"))
	contains(t, curl("-i", at+c.path("pods/on-two:8000/proxy/say/moved")), "302 Found", c.path("pods/on-two:8000/proxy/say/there?x=1"))
	contains(t, curl("-L", at+c.path("pods/on-two:8000/proxy/say/moved")), "on-two GET /say/there?x=1 ")
	contains(t, curl("-H", "Content-Type: application/json", "-d", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"by-curl"}}`, at+c.path("configmaps")), `"by-curl"`)
	contains(t, curl(at+c.path("pods/on-two/exec?command=id")), "Forbidden")
}

// forbiddenProxies: to reach what runs in pods is a right of its own.
func (c cluster) forbiddenProxies(t *testing.T) {
	c.K("create", "role", "looks", "--verb=get,list", "--resource=pods,services")
	c.K("create", "rolebinding", "looks", "--role=looks", "--user=bob")
	c.K("create", "role", "reaches", "--verb=get", "--resource=pods/proxy", "--resource-name=on-one:8000")
	c.K("create", "rolebinding", "reaches", "--role=reaches", "--user=carol")
	for _, tc := range []struct{ user, verb, path, want string }{
		{"bob", "get", c.path("pods/on-one:8000/proxy/"), `Error from server (Forbidden): pods "on-one:8000" is forbidden: User "bob" cannot get resource "pods/proxy" in API group "" in the namespace "` + c.ns + `"`},
		{"bob", "create", c.path("pods/on-two:8000/proxy/"), `pods "on-two:8000" is forbidden: User "bob" cannot create resource "pods/proxy" in API group "" in the namespace "` + c.ns + `"`},
		{"bob", "get", c.path("services/svc-one:http/proxy/"), `services "svc-one:http" is forbidden: User "bob" cannot get resource "services/proxy" in API group "" in the namespace "` + c.ns + `"`},
		{"bob", "get", "/api/v1/nodes/two/proxy/healthz", `nodes "two" is forbidden: User "bob" cannot get resource "nodes/proxy" in API group "" at the cluster scope`},
		{"carol", "create", c.path("pods/on-one:8000/proxy/"), `User "carol" cannot create resource "pods/proxy"`},
		{"carol", "get", c.path("pods/on-two:8000/proxy/"), `User "carol" cannot get resource "pods/proxy"`},
	} {
		args := []string{tc.verb, "--raw", tc.path, "--as", tc.user}
		if tc.verb == "create" {
			args = append(args, "-f", "-")
		}
		o := c.KubectlIn("{}", args...)
		if o.Code != 1 || !strings.Contains(o.Stderr, tc.want) {
			t.Errorf("%s %s %s: %d %s", tc.user, tc.verb, tc.path, o.Code, o.Both())
		}
	}
	contains(t, c.Kubectl("get", "--raw", c.path("pods/on-one:8000/proxy/say/may"), "--as", "carol"), "on-one GET /say/may ")
}
