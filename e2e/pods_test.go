package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// podTests are about what a pod's containers share: files, names, the network.
var podTests = map[string]func(*testing.T, cluster){
	"Statistics":                statsPages,
	"volumes of configuration":  configVolumes,
	"scratch and host volumes":  scratchVolumes,
	"sub-paths":                 subPaths,
	"images as volumes":         imageVolumes,
	"downward API":              downwardAPI,
	"service account":           serviceAccount,
	"host network and ports":    hostNetwork,
	"names":                     podNames,
	"DNS policies":              dnsPolicies,
	"no way out":                noDefaultRoute,
	"shared process namespace":  sharedProcesses,
	"grace and force":           graceAndForce,
	"eviction and finalizers":   evictionAndFinalizers,
	"resources and QoS classes": qosClasses,
}

// configVolumes: an update reaches the mounted file within a moment, and the old
// content is replaced at once, by a link.
func configVolumes(t *testing.T, c cluster) {
	c.K("create", "configmap", "conf", "--from-literal=a=one", "--from-literal=b=two")
	c.K("create", "secret", "generic", "sec", "--from-literal=key=hidden")
	c.Pod("box", "busybox:1.36", "command: [sleep, '3600']\nvolumeMounts: [{name: conf, mountPath: /conf}, {name: some, mountPath: /some}, {name: sec, mountPath: /sec, readOnly: true}, {name: all, mountPath: /all}]",
		"volumes: [{name: conf, configMap: {name: conf}}, {name: some, configMap: {name: conf, items: [{key: a, path: deep/er/a.txt, mode: 0400}]}}, {name: sec, secret: {secretName: sec, defaultMode: 0440}}, "+
			"{name: all, projected: {sources: [{configMap: {name: conf}}, {secret: {name: sec}}, {configMap: {name: absent, optional: true}}]}}]")
	c.Ready("box")
	equal(t, "keys", c.Exec("box", "cat", "/conf/a", "/conf/b", "/some/deep/er/a.txt", "/sec/key", "/all/a", "/all/key").Stdout, "onetwoonehiddenonehidden")
	equal(t, "modes", c.Exec("box", "stat", "-L", "-c", "%a", "/some/deep/er/a.txt", "/sec/key", "/conf/a").Stdout, "400\n440\n644")
	contains(t, c.Exec("box", "readlink", "/conf/a").Stdout, "..data/a")
	contains(t, c.Exec("box", "touch", "/sec/x").Stderr, "Read-only file system")
	c.K("patch", "configmap", "conf", "-p", `{"data":{"a":"changed","c":"new"}}`)
	c.Eventually(patience, "the mounted file changes", func() error {
		return missing(c.Exec("box", "cat", "/conf/a", "/conf/c", "/all/a").Stdout, "changednewchanged")
	})
	c.Sleeper("lacks", "volumes: [{name: v, configMap: {name: later}}]")
	c.Says(`configmap "later" not found`, "events")
	contains(t, c.K("get", "pod", "lacks"), "ContainerCreating")
	c.K("create", "configmap", "later")
	c.Ready("lacks")
}

func scratchVolumes(t *testing.T, c cluster) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "host.txt"), "of the host")
	c.Pod("box", "busybox:1.36", "command: [sleep, '3600']\nvolumeMounts: [{name: disk, mountPath: /disk}, {name: ram, mountPath: /ram}, {name: host, mountPath: /host}, {name: ro, mountPath: /ro, readOnly: true}, {name: made, mountPath: /made}]",
		"volumes: [{name: disk, emptyDir: {}}, {name: ram, emptyDir: {medium: Memory, sizeLimit: 8Mi}}, {name: host, hostPath: {path: "+dir+", type: Directory}}, {name: ro, hostPath: {path: "+dir+"}}, {name: made, hostPath: {path: "+dir+"/made, type: DirectoryOrCreate}}]")
	c.Ready("box")
	contains(t, c.Exec("box", "mount").Stdout, "tmpfs on /ram")
	contains(t, c.Exec("box", "df", "-k", "/ram").Stdout, "8192")
	equal(t, "host file", c.Exec("box", "cat", "/host/host.txt").Stdout, "of the host")
	if o := c.Exec("box", "sh", "-c", "echo x > /host/from-pod; echo y > /made/z; echo d > /disk/d; echo n > /ro/no"); !strings.Contains(o.Stderr, "Read-only") {
		t.Errorf("the read-only mount: %+v", o)
	}
	for _, f := range []string{"from-pod", "made/z"} {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			t.Error(err)
		}
	}
	c.Sleeper("wrong", "volumes: [{name: v, hostPath: {path: /does/not/exist, type: Directory}}]")
	c.Says("hostPath type check failed: /does/not/exist is not a directory", "events")
}

func subPaths(t *testing.T, c cluster) {
	c.K("create", "configmap", "conf", "--from-literal=app.conf=settings")
	c.Pod("box", "busybox:1.36", "command: [sleep, '3600']\nenv: [{name: WHO, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]\n"+
		"volumeMounts: [{name: conf, mountPath: /etc/app.conf, subPath: app.conf}, {name: data, mountPath: /data, subPath: a/b}, {name: data, mountPath: /mine, subPathExpr: of-$(WHO)}, {name: data, mountPath: /whole}]",
		"volumes: [{name: conf, configMap: {name: conf}}, {name: data, emptyDir: {}}]")
	c.Ready("box")
	equal(t, "one file", c.Exec("box", "cat", "/etc/app.conf").Stdout, "settings")
	c.Exec("box", "sh", "-c", "echo x > /data/f; echo y > /mine/g")
	equal(t, "below the volume", c.Exec("box", "cat", "/whole/a/b/f", "/whole/of-box/g").Stdout, "x\ny")
	c.Pod("escapes", "busybox:1.36", "command: [sleep, '3600']\nvolumeMounts: [{name: data, mountPath: /data, subPath: link/etc}]", "volumes: [{name: data, emptyDir: {}}]",
		"initContainers: [{name: i, image: 'busybox:1.36', command: [ln, -s, /, /v/link], volumeMounts: [{name: data, mountPath: /v}]}]")
	c.Gets("pod/escapes", status0+".state.waiting.reason}", "CreateContainerConfigError")
}

func downwardAPI(t *testing.T, c cluster) {
	c.Pod("box", "busybox:1.36", "command: [sleep, '3600']\nresources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 500m}}\nvolumeMounts: [{name: info, mountPath: /info}]",
		`volumes: [{name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: name, fieldRef: {fieldPath: metadata.name}}, {path: cpu, resourceFieldRef: {containerName: main, resource: limits.cpu, divisor: 1m}}, {path: mem, resourceFieldRef: {containerName: main, resource: requests.memory}}]}}]`)
	c.Ready("box")
	equal(t, "labels", c.Exec("box", "cat", "/info/labels").Stdout, `app="box"`)
	equal(t, "others", c.Exec("box", "cat", "/info/name", "/info/cpu", "/info/mem").Stdout, "box50033554432")
	c.K("label", "pod", "box", "more=yes")
	c.Eventually(patience, "the label reaches the file", func() error {
		return missing(c.Exec("box", "cat", "/info/labels").Stdout, `more="yes"`)
	})
}

func serviceAccount(t *testing.T, c cluster) {
	c.Pod("app", "myapp:1.4.2", "")
	c.Ready("app")
	o := c.Exec("app", "/myapp", "api", "/api/v1/namespaces/"+c.ns+"/pods")
	contains(t, o.Stdout, "403 Forbidden", `User \"system:serviceaccount:`+c.ns+`:default\" cannot list resource \"pods\"`)
	c.K("create", "rolebinding", "view", "--clusterrole=view", "--serviceaccount="+c.ns+":default")
	c.saysAll([]string{"exec", "app", "--", "/myapp", "api", "/api/v1/namespaces/" + c.ns + "/pods"}, "200 OK", `"name":"app"`)
	token := c.K("exec", "app", "--", "/myapp", "api", "/version")
	contains(t, token, "v1.37")
	c.Sleeper("none", "automountServiceAccountToken: false")
	c.Ready("none")
	contains(t, c.Exec("none", "ls", "/var/run/secrets").Stderr, "No such file or directory")
	var info struct{ Issuer string }
	json.Unmarshal([]byte(c.Kubectl("get", "--raw", "/.well-known/openid-configuration")), &info)
	contains(t, info.Issuer, "kubernetes.default.svc")
}

func hostNetwork(t *testing.T, c cluster) {
	c.Pod("onhost", "busybox:1.36", "command: [httpd, -f, -p, '18080', -h, /etc]", "hostNetwork: true", "dnsPolicy: ClusterFirstWithHostNet")
	c.Pod("porthost", "myapp:1.4.2", "ports: [{containerPort: 8000, hostPort: 18081}, {containerPort: 8080, hostPort: 18082, hostIP: 127.0.0.1}]")
	c.Ready("onhost", "porthost")
	equal(t, "address", c.Get("pod/onhost", "{.status.podIP}"), c.IP.String())
	eventuallySays(c.Host, fmt.Sprintf("http://%s:18080/hostname", c.IP), "")
	eventuallySays(c.Host, fmt.Sprintf("http://%s:18081/", c.IP), "porthost")
	eventuallySays(c.Host, "http://127.0.0.1:18082/", "porthost")
	if s, err := get(c.Host, fmt.Sprintf("http://%s:18082/", c.IP)); err == nil {
		t.Errorf("a port of 127.0.0.1 answers on the host's address: %q", s)
	}
	c.Sleeper("client")
	c.Ready("client")
	equal(t, "from a pod", c.Exec("client", "wget", "-q", "-O-", fmt.Sprintf("http://%s:18081/", c.IP)).Stdout, "porthost")
	c.Pod("second", "myapp:1.4.2", "ports: [{containerPort: 8000, hostPort: 18081}]")
	c.Gets("pod/second", `{.status.conditions[?(@.type=="PodScheduled")].reason}`, "Unschedulable")
	contains(t, c.K("describe", "pod", "second"), "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.")
	c.K("delete", "pod", "porthost")
	c.Ready("second")
	eventuallySays(c.Host, fmt.Sprintf("http://%s:18081/", c.IP), "second")
}

func podNames(t *testing.T, c cluster) {
	c.Sleeper("named", "hostname: first", "subdomain: team", "hostAliases: [{ip: 192.0.2.7, hostnames: [alias.example, other]}]")
	c.Apply("apiVersion: v1\nkind: Service\nmetadata: {name: team}\nspec: {clusterIP: None, selector: {app: named}}\n")
	c.Ready("named")
	equal(t, "hostname", c.Exec("named", "hostname").Stdout, "first")
	equal(t, "FQDN", c.Exec("named", "hostname", "-f").Stdout, "first.team."+c.ns+".svc.cluster.local")
	contains(t, c.Exec("named", "cat", "/etc/hosts").Stdout, "192.0.2.7\talias.example\tother", "first.team."+c.ns+".svc.cluster.local\tfirst", "127.0.0.1")
	ip := c.Get("pod/named", "{.status.podIP}")
	c.Eventually(patience, "the pod's name", func() error {
		return missing(c.Exec("named", "nslookup", "first.team."+c.ns+".svc.cluster.local").Stdout, ip)
	})
}

func dnsPolicies(t *testing.T, c cluster) {
	c.Sleeper("first")
	c.Sleeper("none", "dnsPolicy: None", `dnsConfig: {nameservers: [192.0.2.53], searches: [a.example], options: [{name: ndots, value: "2"}, {name: edns0}]}`)
	c.Ready("first", "none")
	contains(t, c.Exec("first", "cat", "/etc/resolv.conf").Stdout, "nameserver 10.43.0.10", "search "+c.ns+".svc.cluster.local svc.cluster.local cluster.local", "options ndots:5")
	contains(t, c.Exec("none", "cat", "/etc/resolv.conf").Stdout, "nameserver 192.0.2.53", "search a.example", "options ndots:2 edns0")
	c.Eventually(patience, "names of the cluster", func() error {
		return missing(c.Exec("first", "nslookup", "kubernetes.default").Stdout+c.Exec("first", "nslookup", "kubernetes.default.svc.cluster.local").Stdout, "10.43.0.1")
	})
	c.Says("NXDOMAIN", "exec", "first", "--", "nslookup", "nothing.default.svc.cluster.local")
}

// noDefaultRoute: the host has none, and pods live well without.
func noDefaultRoute(t *testing.T, c cluster) {
	if out := c.Run("", "ip", "route").Stdout; strings.Contains(out, "default") {
		t.Fatalf("the lab gives a default route: %s", out)
	}
	c.Sleeper("box")
	c.Ready("box")
	o := c.Exec("box", "wget", "-T", "3", "-q", "-O-", "http://192.0.2.1/")
	if o.Code == 0 {
		t.Error("there is a way out")
	}
	o = c.Exec("box", "nslookup", "example.com")
	if o.Code == 0 {
		t.Errorf("a name of the world resolves: %s", o.Both())
	}
}

func sharedProcesses(t *testing.T, c cluster) {
	text := `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  shareProcessNamespace: %v
  terminationGracePeriodSeconds: 1
  containers:
  - {name: a, image: "busybox:1.36", command: [sleep, "1111"]}
  - {name: b, image: "busybox:1.36", command: [sleep, "2222"]}
`
	c.Apply(fmt.Sprintf(text, "shared", true))
	c.Apply(fmt.Sprintf(text, "apart", false))
	c.Ready("shared", "apart")
	contains(t, c.K("exec", "shared", "-c", "a", "--", "ps"), "sleep 1111", "sleep 2222")
	if out := c.K("exec", "apart", "-c", "a", "--", "ps"); strings.Contains(out, "2222") {
		t.Errorf("containers see each other's processes:\n%s", out)
	}
	contains(t, c.K("exec", "apart", "-c", "a", "--", "hostname"), "apart")
	equal(t, "IPC", c.K("exec", "apart", "-c", "a", "--", "readlink", "/proc/self/ns/ipc"), strings.TrimSpace(c.K("exec", "apart", "-c", "b", "--", "readlink", "/proc/self/ns/ipc")))
}

func graceAndForce(t *testing.T, c cluster) {
	c.Pod("stubborn", "busybox:1.36", "command: [sh, -c, 'trap \"\" TERM; while true; do sleep 1; done']", "terminationGracePeriodSeconds: 3")
	c.Pod("polite", "busybox:1.36", "command: [sh, -c, 'trap exit TERM; echo trapped; while true; do sleep 0.1; done']", "terminationGracePeriodSeconds: 30")
	c.Pod("forced", "busybox:1.36", "command: [sh, -c, 'trap \"\" TERM; while true; do sleep 1; done']", "terminationGracePeriodSeconds: 300")
	c.Ready("stubborn", "polite", "forced")
	c.Says("trapped", "logs", "polite")
	took := func(name string, args ...string) time.Duration {
		start := time.Now()
		c.K(append([]string{"delete", "pod", name}, args...)...)
		return time.Since(start)
	}
	if d := took("polite"); d > 20*time.Second {
		t.Errorf("a process that ends on SIGTERM took %v", d)
	}
	if d := took("stubborn"); d < 3*time.Second || d > 25*time.Second { // 30 would be the default
		t.Errorf("a process that ignores SIGTERM took %v of 3s", d)
	}
	if d := took("forced", "--force", "--grace-period=0"); d > 100*time.Second { // a third of its own
		t.Errorf("a forced deletion took %v", d)
	}
	c.Eventually(patience, "its process is gone", func() error {
		for _, cmd := range c.Containers() {
			if strings.Contains(cmd, "trap \"\" TERM") {
				return fmt.Errorf("%s", cmd)
			}
		}
		return nil
	})
}

func evictionAndFinalizers(t *testing.T, c cluster) {
	c.Sleeper("held")
	c.Sleeper("guarded")
	c.Ready("held", "guarded")
	c.K("patch", "pod", "held", "--type=merge", "-p", `{"metadata":{"finalizers":["example.com/hold"]}}`)
	c.K("delete", "pod", "held", "--wait=false")
	c.Gets("pod/held", "{.status.phase}", "Failed")
	c.K("patch", "pod", "held", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	c.K("wait", "--for=delete", "pod/held", "--timeout=150s")
	c.K("create", "pdb", "guard", "--selector=app=guarded", "--min-available=1")
	c.Gets("pdb/guard", "{.status.currentHealthy}", "1")
	evict := fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"guarded","namespace":"%s"}}`, c.ns)
	path := "/api/v1/namespaces/" + c.ns + "/pods/guarded/eviction"
	contains(t, c.KubectlIn(evict, "create", "--raw", path, "-f", "-").Both(), "Cannot evict pod as it would violate the pod's disruption budget.")
	c.K("delete", "pdb", "guard")
	contains(t, c.KubectlIn(evict, "create", "--raw", path, "-f", "-").Both(), "Success")
	c.K("wait", "--for=delete", "pod/guarded", "--timeout=150s")
}

func qosClasses(t *testing.T, c cluster) {
	c.Pod("best", "myapp:1.4.2", "")
	c.Pod("burst", "myapp:1.4.2", "resources: {requests: {cpu: 50m}}")
	c.Pod("sure", "myapp:1.4.2", "resources: {limits: {cpu: 50m, memory: 64Mi}}")
	c.Pod("huge", "myapp:1.4.2", "resources: {requests: {cpu: '1000'}}")
	c.Ready("best", "burst", "sure")
	for pod, want := range map[string]string{"best": "BestEffort", "burst": "Burstable", "sure": "Guaranteed"} {
		equal(t, pod, c.Get("pod/"+pod, "{.status.qosClass}"), want)
	}
	contains(t, c.K("describe", "pod", "huge"), "0/1 nodes are available: 1 Insufficient cpu.")
}
