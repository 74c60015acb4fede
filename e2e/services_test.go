package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// serviceTests are about Services and DNS as pods and hosts see them.
var serviceTests = map[string]func(*testing.T, cluster){
	"cluster IP":       serviceClusterIP,
	"node port":        serviceNodePort,
	"headless":         serviceHeadless,
	"external name":    serviceExternalName,
	"session affinity": serviceAffinity,
	"UDP":              serviceUDP,
	"external IPs":     serviceExternalIPs,
	"no selector":      serviceByHand,
	"many ports":       serviceManyPorts,
}

const threePods = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: "myapp:1.4.2", readinessProbe: {httpGet: {path: /ready, port: 8000}, periodSeconds: 1}}]
`

// three makes three pods, a Service of the given spec, and a pod to look from.
func (c cluster) three(service string) {
	c.Helper()
	c.Apply(threePods + "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  " + service + "\n")
	c.Pod("client", "myapp:1.4.2", "")
	c.K("rollout", "status", "deployment/web", "--timeout=150s")
	c.Ready("client")
	c.Eventually(patience, "three endpoints", func() error {
		if n := len(strings.Fields(c.Get("endpoints/web", "{.subsets[*].addresses[*].ip}"))); n != 3 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
}

// seesPods waits until requests from inside a pod are answered by so many pods.
func (c cluster) seesPods(from, url string, pods int) {
	c.Helper()
	c.Eventually(patience, fmt.Sprintf("%s sees %d pods at %s", from, pods, url), func() error {
		o := c.Exec(from, "/myapp", "get", url, "60")
		if o.Code != 0 || answers(o.Stdout) != pods {
			return fmt.Errorf("60 requests were answered by\n%s", o.Both())
		}
		return nil
	})
}

// look runs one of myapp's looking subcommands in the client pod until it succeeds.
func (c cluster) look(args ...string) string {
	c.Helper()
	var out string
	c.Eventually(patience, strings.Join(args, " "), func() error {
		o := c.Exec("client", append([]string{"/myapp"}, args...)...)
		out = o.Stdout
		if o.Code != 0 {
			return fmt.Errorf("%s", o.Both())
		}
		return nil
	})
	return out
}

func answers(s string) int { return len(strings.Split(strings.TrimSpace(s), "\n")) }

func serviceClusterIP(t *testing.T, c cluster) {
	c.three("ports: [{name: http, port: 80, targetPort: 8000}]")
	for _, name := range []string{"web", "web." + c.ns, "web." + c.ns + ".svc", "web." + c.ns + ".svc.cluster.local", clusterIP(c.Host, c.ns, "web")} {
		c.seesPods("client", "http://"+name+"/", 3)
	}
	equal(t, "A record", c.look("lookup", "web"), clusterIP(c.Host, c.ns, "web"))
	equal(t, "PTR record", c.look("lookup", clusterIP(c.Host, c.ns, "web")), "web."+c.ns+".svc.cluster.local.")
	equal(t, "SRV record", c.look("lookup", "_http._tcp.web."+c.ns+".svc.cluster.local"), "80 web."+c.ns+".svc.cluster.local.")
	// Hairpin: a pod reaches itself through its own Service.
	pod := c.Get("pods", "{.items[0].metadata.name}")
	for _, p := range strings.Fields(c.Get("pods", "{.items[*].metadata.name}")) {
		if strings.HasPrefix(p, "web-") {
			pod = p
		}
	}
	c.seesPods(pod, "http://web/", 3)
	from := c.Exec("client", "/myapp", "get", "http://web/from", "1").Stdout
	contains(t, from, c.Get("pod/client", "{.status.podIP}"))
	c.K("scale", "deployment/web", "--replicas=0")
	c.Eventually(patience, "no endpoint: refused", func() error {
		return missing(c.Exec("client", "/myapp", "get", "http://web/", "1").Stderr, "refused")
	})
}

func serviceNodePort(t *testing.T, c cluster) {
	c.three("type: NodePort\n  ports: [{port: 80, targetPort: 8000}]")
	port := c.Get("svc/web", "{.spec.ports[0].nodePort}")
	eventuallySays(c.Host, fmt.Sprintf("http://%s:%s/", c.IP, port), "web-")
	eventuallySays(c.Host, fmt.Sprintf("http://127.0.0.1:%s/", port), "web-")
	c.seesPods("client", fmt.Sprintf("http://%s:%s/", c.IP, port), 3)
	o := c.In("", "create", "service", "nodeport", "other", "--tcp=80", "--node-port="+port)
	contains(t, o.Stderr, "provided port is already allocated")
	o = c.In("", "create", "service", "nodeport", "other", "--tcp=80", "--node-port=80")
	contains(t, o.Stderr, "provided port is not in the valid range. The range of valid ports is 30000-32767")
	c.K("patch", "svc", "web", "-p", `{"spec":{"externalTrafficPolicy":"Local"}}`)
	eventuallySays(c.Host, fmt.Sprintf("http://%s:%s/", c.IP, port), "web-")
	c.K("delete", "svc", "web")
	c.Eventually(patience, "the port is closed", func() error {
		if s, err := get(c.Host, fmt.Sprintf("http://%s:%s/", c.IP, port)); err == nil {
			return fmt.Errorf("%q", s)
		}
		return nil
	})
}

func serviceHeadless(t *testing.T, c cluster) {
	c.three("clusterIP: None\n  ports: [{name: http, port: 8000}]")
	c.Eventually(patience, "the addresses of three pods", func() error {
		if out := c.look("lookup", "web"); answers(out) != 3 || !strings.HasPrefix(out, "10.42.") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	if out := c.look("lookup", "_http._tcp.web."+c.ns+".svc.cluster.local"); answers(out) != 3 || !strings.Contains(out, "8000 ") {
		t.Errorf("SRV records:\n%s", out)
	}
	contains(t, c.K("get", "svc", "web"), "None")
}

func serviceExternalName(t *testing.T, c cluster) {
	c.three("ports: [{port: 80, targetPort: 8000}]")
	c.K("create", "service", "externalname", "ext", "--external-name=web."+c.ns+".svc.cluster.local")
	c.Sleeper("box")
	c.Ready("box")
	c.Eventually(patience, "the other name", func() error {
		return missing(c.Exec("box", "nslookup", "ext."+c.ns+".svc.cluster.local").Both(), clusterIP(c.Host, c.ns, "web"))
	})
	if out := c.look("get", "http://ext/", "10"); !strings.Contains(out, "web-") {
		t.Errorf("through the name: %s", out)
	}
}

func serviceAffinity(t *testing.T, c cluster) {
	c.three("sessionAffinity: ClientIP\n  ports: [{port: 80, targetPort: 8000}]")
	if out := c.look("get", "http://web/", "30"); answers(out) != 1 {
		t.Errorf("one client was answered by\n%s", out)
	}
}

func serviceUDP(t *testing.T, c cluster) {
	c.three("ports: [{port: 53, targetPort: 9000, protocol: UDP}]")
	first := strings.TrimSpace(c.look("udp", "web:53"))
	contains(t, first, "web-")
	c.K("delete", "pod", first, "--now")
	contains(t, c.look("udp", "web:53"), "web-")
}

func serviceExternalIPs(_ *testing.T, c cluster) {
	c.three("externalIPs: [192.0.2.80]\n  ports: [{port: 80, targetPort: 8000}]")
	c.seesPods("client", "http://192.0.2.80/", 3)
}

// serviceByHand has endpoints that a person wrote, mirrored into a slice.
func serviceByHand(t *testing.T, c cluster) {
	c.Pod("client", "myapp:1.4.2", "")
	c.Ready("client")
	ip := c.Get("pod/client", "{.status.podIP}")
	c.Apply("apiVersion: v1\nkind: Service\nmetadata: {name: hand}\nspec: {ports: [{port: 80}]}\n---\n" +
		"apiVersion: v1\nkind: Endpoints\nmetadata: {name: hand}\nsubsets: [{addresses: [{ip: " + ip + "}], ports: [{port: 8000}]}]\n")
	contains(t, c.look("get", "http://hand/", "1"), "client")
}

func serviceManyPorts(t *testing.T, c cluster) {
	c.three("ports: [{name: a, port: 80, targetPort: 8000}, {name: b, port: 81, targetPort: 8080}, {name: c, port: 80, targetPort: 9000, protocol: UDP}]")
	contains(t, c.look("get", "http://web:81/", "5"), "web-")
	contains(t, c.look("udp", "web:80"), "web-")
}
