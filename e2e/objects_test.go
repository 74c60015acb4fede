package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orch/e2e/lab"
)

// TestWithoutNode does what kubectl can do where no pod runs.
func TestWithoutNode(t *testing.T) {
	h := lab.New(t).Host("one")
	h.StartServer("--disable-agent")
	for name, test := range map[string]func(*testing.T, cluster){
		"every manifest is accepted":      manifestsAccepted,
		"apply, diff and delete":          applyAndDiff,
		"a folder":                        applyFolder,
		"label, annotate, patch and edit": changeObjects,
		"rights":                          rights,
		"documents":                       documents,
		"revisions of a deployment":       revisions,
		"waiting":                         waiting,
		"server-side apply":               serverSide,
		"create and expose":               createCommands,
		"taint and schedule":              taintNode,
		"deletion of dependents":          cascade,
		"wrong input":                     wrongInput,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newCluster(t, h))
		})
	}
}

const oneMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, labels: {l: old}}\ndata: {a: one, b: two}\n"

func applyAndDiff(t *testing.T, c cluster) {
	contains(t, c.In(oneMap, "apply", "-f", "-").Both(), "configmap/m created")
	contains(t, c.In(oneMap, "apply", "-f", "-").Both(), "configmap/m unchanged")
	if o := c.In(oneMap, "diff", "-f", "-"); o.Code != 0 || o.Stdout != "" {
		t.Errorf("diff of the same: %d %s", o.Code, o.Both())
	}
	changed := strings.Replace(oneMap, "a: one, b: two", "a: three", 1)
	o := c.In(changed, "diff", "-f", "-")
	contains(t, o.Stdout, "-  a: one", "-  b: two", "+  a: three")
	if o.Code != 1 {
		t.Errorf("diff of a change ends with %d", o.Code)
	}
	contains(t, c.In(changed, "apply", "-f", "-").Both(), "configmap/m configured")
	equal(t, "data", c.Get("cm/m", "{.data}"), `{"a":"three"}`)
	contains(t, c.In(changed, "delete", "-f", "-").Both(), `configmap "m" deleted`)
	o = c.In("", "get", "cm", "m")
	contains(t, o.Stderr, `Error from server (NotFound): configmaps "m" not found`)
}

func applyFolder(t *testing.T, c cluster) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a.yaml"), oneMap)
	writeFile(t, filepath.Join(dir, "b.json"), `{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}}`)
	writeFile(t, filepath.Join(dir, "sub", "c.yaml"), strings.Replace(oneMap, "name: m", "name: below", 1))
	contains(t, c.K("apply", "-f", dir), "configmap/m created", "service/s created")
	contains(t, c.K("apply", "-R", "-f", dir), "configmap/below created")
	writeFile(t, filepath.Join(dir, "kustomization.yaml"), "namePrefix: pre-\nresources: [a.yaml]\n")
	contains(t, c.K("apply", "-k", dir), "configmap/pre-m created")
	os.Remove(filepath.Join(dir, "kustomization.yaml"))
	contains(t, c.K("delete", "-R", "-f", dir), `configmap "m" deleted`, `service "s" deleted`, `configmap "below" deleted`)
}

func changeObjects(t *testing.T, c cluster) {
	c.Apply(oneMap)
	c.K("label", "cm", "m", "x=y")
	o := c.In("", "label", "cm", "m", "l=new")
	contains(t, o.Stderr, "'l' already has a value (old), and --overwrite is false")
	c.K("label", "cm", "m", "l=new", "--overwrite")
	c.K("annotate", "cm", "m", "note=hello world")
	contains(t, c.K("get", "cm", "-l", "l=new,x in (y,z)", "--show-labels"), "m ", "l=new,x=y")
	c.K("label", "cm", "m", "x-")
	equal(t, "labels", c.Get("cm/m", "{.metadata.labels}"), `{"l":"new"}`)
	c.K("patch", "cm", "m", "--type=merge", "-p", `{"data":{"a":null,"c":"3"}}`)
	c.K("patch", "cm", "m", "--type=json", "-p", `[{"op":"test","path":"/data/c","value":"3"},{"op":"add","path":"/data/d","value":"4"}]`)
	equal(t, "data", c.Get("cm/m", "{.data}"), `{"b":"two","c":"3","d":"4"}`)
	o = c.Run("", "env", "KUBE_EDITOR=sed -i s/two/edited/", lab.Binary(), "kubectl", "-n", c.ns, "edit", "cm", "m")
	contains(t, o.Both(), "configmap/m edited")
	o = c.Run("", "env", "KUBE_EDITOR=true", lab.Binary(), "kubectl", "-n", c.ns, "edit", "cm", "m")
	contains(t, o.Both(), "Edit cancelled, no changes made.")
	equal(t, "edited", c.Get("cm/m", "{.data.b}"), "edited")
	c.In(strings.Replace(oneMap, "a: one, b: two", "z: last", 1), "replace", "-f", "-")
	equal(t, "replaced", c.Get("cm/m", "{.data}"), `{"z":"last"}`)
}

func rights(t *testing.T, c cluster) {
	equal(t, "the admin", c.K("auth", "can-i", "create", "pods"), "yes")
	c.K("create", "role", "reader", "--verb=get,list", "--resource=pods,configmaps")
	c.K("create", "rolebinding", "reads", "--role=reader", "--user=jane", "--serviceaccount="+c.ns+":default")
	equal(t, "jane reads", c.K("auth", "can-i", "list", "pods", "--as=jane"), "yes")
	o := c.In("", "auth", "can-i", "delete", "pods", "--as=jane")
	equal(t, "jane deletes", o.Stdout, "no")
	if o.Code != 1 {
		t.Errorf("no ends with %d", o.Code)
	}
	contains(t, c.K("auth", "can-i", "--list", "--as=jane"), "configmaps", "[get list]", "selfsubjectaccessreviews.authorization.k8s.io")
	contains(t, c.K("auth", "whoami", "--as=jane", "--as-group=devs"), "Username", "jane", "devs")
	o = c.In("", "delete", "cm", "x", "--as=jane")
	contains(t, o.Stderr, `Error from server (Forbidden): configmaps "x" is forbidden: User "jane" cannot delete resource "configmaps" in API group "" in the namespace "`+c.ns+`"`)
	token := strings.TrimSpace(c.K("create", "token", "default"))
	server := "--server=" + c.Config().Host
	o = c.Run("", lab.Binary(), "kubectl", "--kubeconfig=/dev/null", server, "--insecure-skip-tls-verify", "--token="+token, "-n", c.ns, "get", "cm", "-o", "name")
	contains(t, o.Both(), "configmap/kube-root-ca.crt")
	o = c.Run("", lab.Binary(), "kubectl", "--kubeconfig=/dev/null", server, "--insecure-skip-tls-verify", "--token="+token, "-n", c.ns, "get", "secrets")
	contains(t, o.Stderr, `User "system:serviceaccount:`+c.ns+`:default" cannot list resource "secrets"`)
	o = c.Run("", lab.Binary(), "kubectl", "--kubeconfig=/dev/null", server, "--insecure-skip-tls-verify", "--token=nonsense", "get", "cm")
	contains(t, o.Stderr, "You must be logged in to the server")
}

func documents(t *testing.T, c cluster) {
	contains(t, c.K("explain", "pod.spec.containers.livenessProbe"), "KIND:       Pod", "FIELD: livenessProbe <Probe>", "failureThreshold")
	contains(t, c.K("explain", "deployments", "--recursive"), "VERSION:    v1", "rollingUpdate", "maxSurge")
	contains(t, c.K("explain", "hpa", "--api-version=autoscaling/v2"), "HorizontalPodAutoscaler")
	contains(t, c.K("api-resources"), "deployments", "apps/v1", "po ", "storageclasses", "customresourcedefinitions")
	contains(t, c.K("api-resources", "--namespaced=false", "-o", "name"), "nodes", "clusterroles.rbac.authorization.k8s.io")
	contains(t, c.K("api-versions"), "batch/v1", "autoscaling/v2", "discovery.k8s.io/v1")
	contains(t, c.K("version"), "Client Version", "Server Version: v1.37")
	contains(t, c.K("cluster-info"), "Kubernetes control plane", "is running at")
	equal(t, "healthz", c.K("get", "--raw", "/healthz"), "ok")
	contains(t, c.K("get", "--raw", "/readyz?verbose"), "[+]ping ok", "readyz check passed")
	contains(t, c.K("get", "--raw", "/openapi/v3"), "apis/apps/v1")
	contains(t, c.K("get", "--raw", "/metrics"), "apiserver_request_total")
	contains(t, c.Kubectl("get", "namespaces"), "NAME", "STATUS", "AGE", "kube-system", "Active", "kube-public", "kube-node-lease")
	contains(t, c.Kubectl("-n", "default", "get", "svc", "kubernetes"), "ClusterIP", "10.43.0.1", "443/TCP")
	contains(t, c.Kubectl("get", "all", "-A"), "service/kubernetes", "service/kube-dns")
	contains(t, c.K("get", "pods"), "No resources found in "+c.ns+" namespace.")
}

const emptyDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: main, image: "myapp:1"}]
`

func revisions(t *testing.T, c cluster) {
	c.Apply(emptyDeployment)
	contains(t, c.K("rollout", "status", "deployment/web", "--timeout=150s"), "successfully rolled out")
	c.K("set", "image", "deployment/web", "main=myapp:2")
	c.K("annotate", "deployment/web", "kubernetes.io/change-cause=second image")
	c.Gets("deployment/web", `{.metadata.annotations.deployment\.kubernetes\.io/revision}`, "2")
	c.K("set", "env", "deployment/web", "A=b")
	c.Gets("deployment/web", `{.metadata.annotations.deployment\.kubernetes\.io/revision}`, "3")
	contains(t, c.K("rollout", "history", "deployment/web"), "REVISION", "1 ", "2 ", "3 ", "second image")
	contains(t, c.K("rollout", "history", "deployment/web", "--revision=2"), "myapp:2")
	c.K("rollout", "undo", "deployment/web", "--to-revision=1")
	c.Gets("deployment/web", "{.spec.template.spec.containers[0].image}", "myapp:1")
	c.Gets("deployment/web", `{.metadata.annotations.deployment\.kubernetes\.io/revision}`, "4")
	c.K("rollout", "pause", "deployment/web")
	c.K("set", "image", "deployment/web", "main=myapp:5")
	contains(t, c.K("get", "rs", "-o", "wide"), "myapp:2")
	if out := c.K("get", "rs", "-o", "wide"); strings.Contains(out, "myapp:5") {
		t.Errorf("paused, but there is\n%s", out)
	}
	contains(t, c.In("", "rollout", "undo", "deployment/web").Stderr, "paused")
	c.K("rollout", "resume", "deployment/web")
	c.Says("myapp:5", "get", "rs", "-o", "wide")
	c.K("rollout", "restart", "deployment/web")
	if c.Get("deployment/web", `{.spec.template.metadata.annotations.kubectl\.kubernetes\.io/restartedAt}`) == "" {
		t.Error("no restartedAt")
	}
	c.K("scale", "deployment/web", "--replicas=2")
	c.Gets("deployment/web", "{.status.unavailableReplicas}", "2")
	contains(t, c.In("", "scale", "deployment/web", "--current-replicas=7", "--replicas=1").Stderr, "Expected replicas to be 7, was 2")
}

func waiting(t *testing.T, c cluster) {
	w := c.Go("wait", "--for=create", "cm/m", "--timeout=150s")
	c.Apply(oneMap)
	c.SaysRunning(w, "configmap/m condition met")
	w = c.Go("wait", "--for=jsonpath={.data.a}=five", "cm/m", "--timeout=150s")
	c.K("patch", "cm", "m", "--type=merge", "-p", `{"data":{"a":"five"}}`)
	c.SaysRunning(w, "configmap/m condition met")
	watch := c.Go("get", "cm", "m", "-w", "-o", "jsonpath={.data.a} ")
	c.SaysRunning(watch, "five")
	c.K("patch", "cm", "m", "--type=merge", "-p", `{"data":{"a":"six"}}`)
	c.SaysRunning(watch, "six")
	w = c.Go("wait", "--for=delete", "cm/m", "--timeout=150s")
	c.K("delete", "cm", "m")
	<-w.Done()
	if w.Code() != 0 {
		t.Errorf("wait for delete: %s", w.Output())
	}
	c.Apply(emptyDeployment)
	c.K("wait", "--for=condition=Available", "deployment/web", "--timeout=150s")
	contains(t, c.In("", "wait", "--for=condition=Never", "deployment/web", "--timeout=1s").Stderr, "timed out waiting for the condition")
}

func serverSide(t *testing.T, c cluster) {
	apply := func(text string, args ...string) lab.Output {
		return c.In(text, append([]string{"apply", "--server-side", "-f", "-"}, args...)...)
	}
	contains(t, apply(oneMap, "--field-manager=first").Both(), "configmap/m serverside-applied")
	mine := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: mine}\n"
	o := apply(mine, "--field-manager=second")
	contains(t, o.Stderr, `conflict with "first": .data.a`, "--force-conflicts")
	contains(t, apply(mine, "--field-manager=second", "--force-conflicts").Both(), "serverside-applied")
	apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n", "--field-manager=first")
	equal(t, "data", c.Get("cm/m", "{.data}"), `{"a":"mine"}`)
	contains(t, c.K("get", "cm", "m", "-o", "yaml", "--show-managed-fields"), "manager: second", "operation: Apply")
}

func createCommands(t *testing.T, c cluster) {
	c.K("create", "deployment", "d", "--image=myapp:1", "--replicas=0")
	c.K("expose", "deployment", "d", "--port=80", "--target-port=8000")
	equal(t, "selector", c.Get("svc/d", "{.spec.selector.app}"), "d")
	c.K("autoscale", "deployment", "d", "--min=1", "--max=3", "--cpu=50%")
	equal(t, "autoscaler", c.Get("hpa/d", "{.spec.maxReplicas}"), "3")
	c.K("create", "secret", "generic", "s", "--from-literal=k=v")
	contains(t, c.K("describe", "secret", "s"), "Opaque", "k:  1 bytes")
	c.K("create", "quota", "q", "--hard=pods=3,configmaps=5")
	contains(t, c.K("describe", "quota", "q"), "pods", "3", "configmaps")
	c.K("create", "ingress", "i", "--rule=example.com/=d:80")
	contains(t, c.K("describe", "ingress", "i"), "example.com", "d:80")
	c.K("create", "job", "j", "--image=busybox", "--", "true")
	c.K("create", "cronjob", "cj", "--image=busybox", "--schedule=0 3 * * *", "--", "true")
	c.K("create", "poddisruptionbudget", "b", "--selector=app=d", "--min-available=1")
	contains(t, c.K("get", "all,ingress,pdb"), "deployment.apps/d", "service/d", "horizontalpodautoscaler.autoscaling/d", "job.batch/j", "cronjob.batch/cj", "ingress.networking.k8s.io/i")
	contains(t, c.K("get", "deployment", "-o", "custom-columns=N:.metadata.name,I:.spec.template.spec.containers[*].image"), "d ", "myapp:1")
	contains(t, c.K("get", "svc", "--sort-by=.metadata.name", "-o", "wide"), "app=d")
	contains(t, c.K("describe", "deployment", "d"), "StrategyType:", "RollingUpdate", "NewReplicaSet:")
	contains(t, c.K("describe", "ns", c.ns), "Status:", "Active", "Resource Quotas")
}

// taintNode has a Node that nobody serves, with a taint of its own against the
// pods of the other tests.
func taintNode(t *testing.T, c cluster) {
	node := c.ns
	c.K("run", "early", "--image=x", "--overrides="+`{"spec":{"nodeSelector":{"mine":"`+node+`"}}}`)
	c.Says("FailedScheduling", "events")
	o := c.KubectlIn("apiVersion: v1\nkind: Node\nmetadata: {name: "+node+", labels: {mine: "+node+"}}\nspec: {taints: [{key: own, effect: NoSchedule}]}\n", "apply", "-f", "-")
	contains(t, o.Both(), "created")
	t.Cleanup(func() { c.Kubectl("delete", "node", node) })
	c.Says("0/1 nodes are available: 1 node(s) had untolerated taint(s)", "events")
	contains(t, c.Kubectl("taint", "node", node, "k=v:NoSchedule"), "tainted")
	contains(t, c.Kubectl("describe", "node", node), "k=v:NoSchedule", "Unschedulable:      false")
	contains(t, c.Kubectl("taint", "node", node, "k:NoSchedule-"), "untainted")
	contains(t, c.Kubectl("cordon", node), "cordoned")
	contains(t, c.Kubectl("get", "node", node), "SchedulingDisabled")
	contains(t, c.Kubectl("uncordon", node), "uncordoned")
	c.Kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", `{"status":{"conditions":[{"type":"Ready","status":"False","reason":"Test"}]}}`)
	c.Says("node.kubernetes.io/not-ready:NoSchedule", "describe", "node", node)
	contains(t, c.Kubectl("get", "node", node), "NotReady")
}

func cascade(t *testing.T, c cluster) {
	web := strings.Replace(emptyDeployment, "replicas: 0", "replicas: 1", 1)
	c.Apply(web)
	c.Says("web-", "get", "pods", "-o", "name")
	c.K("delete", "deployment", "web", "--cascade=orphan")
	contains(t, c.K("get", "rs,pods", "-o", "name"), "replicaset.apps/web-", "pod/web-")
	c.Apply(web)
	c.Gets("rs", "{.items[*].metadata.ownerReferences[*].name}", "web")
	c.K("delete", "deployment", "web", "--cascade=foreground", "--timeout=150s")
	equal(t, "left", c.In("", "get", "rs,pods", "-o", "name").Stdout, "")
}

func wrongInput(t *testing.T, c cluster) {
	for _, w := range []struct{ name, yaml, want string }{
		{"an unknown field", strings.Replace(oneMap, "\ndata:", "\ndada:", 1), `unknown field "dada"`},
		{"a wrong type", strings.Replace(emptyDeployment, "replicas: 0", "replicas: many", 1), "spec.replicas"},
		{"a bad name", strings.Replace(oneMap, "name: m", "name: M_", 1), `metadata.name: Invalid value: "M_": a lowercase RFC 1123 subdomain must consist of`},
		{"an unknown kind", "apiVersion: v1\nkind: Nothing\nmetadata: {name: x}\n", `no matches for kind "Nothing" in version "v1"`},
		{"a selector that misses", strings.Replace(emptyDeployment, "labels: {app: web}", "labels: {app: other}", 1), "`selector` does not match template `labels`"},
		{"no YAML", "{", "error"},
	} {
		o := c.In(w.yaml, "apply", "-f", "-")
		if o.Code != 1 {
			t.Errorf("%s: exit code %d", w.name, o.Code)
		}
		contains(t, o.Both(), w.want)
	}
	c.Apply(emptyDeployment)
	o := c.In("", "patch", "deployment", "web", "-p", `{"spec":{"selector":{"matchLabels":{"app":"other"}}}}`)
	contains(t, o.Stderr, "field is immutable")
}
