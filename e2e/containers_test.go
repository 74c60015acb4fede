package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// containerTests are about what one container gets and how it ends.
var containerTests = map[string]func(*testing.T, cluster){
	"a memory hog":              memoryHog,
	"a CPU limit":               cpuLimit,
	"crash loop":                crashLoop,
	"images that cannot be had": badImages,
	"a program that is missing": badCommand,
	"liveness":                  liveness,
	"readiness":                 readiness,
	"probes of all kinds":       allProbes,
	"restart policies":          restartPolicies,
	"security context":          securityContext,
	"privileged":                privileged,
	"environment":               environment,
	"termination message":       terminationMessage,
	"hooks":                     hooks,
	"deadline":                  deadline,
	"init containers":           initContainers,
}

const status0 = "{.status.containerStatuses[0]"

// memoryHog also says that a neighbour within its limits is left alone.
func memoryHog(t *testing.T, c cluster) {
	c.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: hog}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - {name: main, image: "myapp:1.4.2", args: [hog], resources: {limits: {memory: 64Mi}}}
  - {name: neighbour, image: "busybox:1.36", command: [sleep, "3600"], resources: {limits: {memory: 64Mi}}}
`)
	c.Gets("pod/hog", `{.status.containerStatuses[?(@.name=="main")].lastState.terminated.reason}`, "OOMKilled")
	equal(t, "exit code", c.Get("pod/hog", `{.status.containerStatuses[?(@.name=="main")].lastState.terminated.exitCode}`), "137")
	c.Eventually(patience, "it is restarted", func() error {
		if n := c.Get("pod/hog", `{.status.containerStatuses[?(@.name=="main")].restartCount}`); n == "0" || n == "" {
			return fmt.Errorf("%q restarts", n)
		}
		return nil
	})
	equal(t, "the neighbour's restarts", c.Get("pod/hog", `{.status.containerStatuses[?(@.name=="neighbour")].restartCount}`), "0")
}

var throttled = regexp.MustCompile(`nr_throttled (\d+)`)

func cpuLimit(t *testing.T, c cluster) {
	c.Pod("spin", "myapp:1.4.2", "args: [spin]\nresources: {limits: {cpu: 100m, memory: 64Mi}}")
	c.Ready("spin")
	contains(t, c.Exec("spin", "/myapp", "cgroup").Stdout, "cpu 10000", "memory 67108864")
	c.Eventually(patience, "the kernel throttles it", func() error {
		m := throttled.FindStringSubmatch(c.Exec("spin", "/myapp", "cgroup").Stdout)
		if m == nil {
			return fmt.Errorf("no cpu.stat")
		}
		if n, _ := strconv.Atoi(m[1]); n < 5 {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
	equal(t, "QoS class", c.Get("pod/spin", "{.status.qosClass}"), "Guaranteed")
}

func crashLoop(t *testing.T, c cluster) {
	c.Pod("crash", "busybox:1.36", "command: [sh, -c, 'exit 3']")
	// Each in one look: the next start comes in its time, however slow the looks are.
	c.Eventually(patience, "it waits, and says why", func() error {
		return missing(c.Get("pod/crash", "{range .status.containerStatuses[*]}{.state.waiting.reason} {.lastState.terminated.exitCode} {.lastState.terminated.reason}: {.state.waiting.message}{end}"),
			"CrashLoopBackOff 3 Error: back-off ", "0s restarting failed container=main pod=crash_"+c.ns)
	})
	c.saysAll([]string{"get", "pod", "crash"}, "CrashLoopBackOff", "0/1")
	c.Says("Back-off restarting failed container main in pod crash_", "events")
}

// badImages: there is no registry and no DNS on the host.
func badImages(t *testing.T, c cluster) {
	c.Pod("absent", "registry.example/absent:1", "imagePullPolicy: IfNotPresent")
	c.Pod("never", "absent:1", "imagePullPolicy: Never")
	c.Pod("badname", "Not//An-Image", "")
	c.Gets("pod/never", status0+".state.waiting.reason}", "ErrImageNeverPull")
	contains(t, c.Get("pod/never", status0+".state.waiting.message}"), `Container image "absent:1" is not present with pull policy of Never`)
	c.Gets("pod/badname", status0+".state.waiting.reason}", "InvalidImageName")
	c.Eventually(patience, "the pull fails", func() error {
		got := c.Get("pod/absent", status0+".state.waiting.reason}")
		if got != "ErrImagePull" && got != "ImagePullBackOff" {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	c.Eventually(patience, "it waits, and says why", func() error {
		return missing(c.Get("pod/absent", "{range .status.containerStatuses[*]}{.state.waiting.reason}: {.state.waiting.message}{end}"), `ImagePullBackOff: Back-off pulling image "registry.example/absent:1"`)
	})
	c.Says(`Failed to pull image "registry.example/absent:1"`, "events")
	equal(t, "phase", c.Get("pod/absent", "{.status.phase}"), "Pending")
}

func badCommand(t *testing.T, c cluster) {
	c.Pod("nothing", "busybox:1.36", "command: [/no/such/program]", "restartPolicy: Never")
	c.Gets("pod/nothing", "{.status.phase}", "Failed")
	equal(t, "reason", c.Get("pod/nothing", status0+".state.terminated.reason}"), "StartError")
	equal(t, "exit code", c.Get("pod/nothing", status0+".state.terminated.exitCode}"), "128")
	contains(t, c.Get("pod/nothing", status0+".state.terminated.message}"), "/no/such/program", "no such file or directory")
}

func liveness(t *testing.T, c cluster) {
	c.Pod("sick", "myapp:1.4.2", "livenessProbe: {httpGet: {path: /health, port: 8000}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 2}")
	c.Ready("sick")
	ip := c.Get("pod/sick", "{.status.podIP}")
	get(c.Host, "http://"+ip+":8000/sick")
	c.Gets("pod/sick", status0+".restartCount}", "1")
	c.Says("Liveness probe failed: HTTP probe failed with statuscode: 500", "events")
	c.Says("Container main failed liveness probe, will be restarted", "events")
	equal(t, "the pod's address", c.Get("pod/sick", "{.status.podIP}"), ip)
}

func readiness(t *testing.T, c cluster) {
	c.Pod("web", "myapp:1.4.2", "readinessProbe: {httpGet: {path: /ready, port: 8000}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 1}")
	c.K("expose", "pod", "web", "--port=80", "--target-port=8000")
	c.Ready("web")
	ip := c.Get("pod/web", "{.status.podIP}")
	c.Gets("endpoints/web", "{.subsets[0].addresses[0].ip}", ip)
	service := "http://" + clusterIP(c.Host, c.ns, "web") + "/"
	eventuallySays(c.Host, service, "web")
	get(c.Host, "http://"+ip+":8000/unready")
	c.Gets("endpoints/web", "{.subsets[0].notReadyAddresses[0].ip}", ip)
	c.Gets("endpointslice", "{.items[0].endpoints[0].conditions.ready}", "false")
	c.Gets("pod/web", `{.status.conditions[?(@.type=="Ready")].reason}`, "ContainersNotReady")
	c.Eventually(patience, "the Service refuses", func() error {
		if s, err := get(c.Host, service); err == nil {
			return fmt.Errorf("it answers %q", s)
		}
		return nil
	})
	equal(t, "restarts", c.Get("pod/web", status0+".restartCount}"), "0")
}

func allProbes(t *testing.T, c cluster) {
	c.Pod("tcp", "myapp:1.4.2", "readinessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1}")
	c.Pod("exec", "busybox:1.36", "command: [sleep, '3600']\nreadinessProbe: {exec: {command: [cat, /tmp/ok]}, periodSeconds: 1, timeoutSeconds: 10}")
	c.Pod("closed", "myapp:1.4.2", "readinessProbe: {tcpSocket: {port: 1}, periodSeconds: 1}")
	c.Pod("startup", "myapp:1.4.2", "startupProbe: {exec: {command: [/myapp, cgroup]}, periodSeconds: 1, timeoutSeconds: 10}\nlivenessProbe: {httpGet: {path: /health, port: 8000, httpHeaders: [{name: X, value: z}]}}")
	c.Ready("tcp", "startup")
	c.Says("Readiness probe failed: dial tcp", "events", "--for", "pod/closed")
	c.Says("Readiness probe failed: cat: can't open '/tmp/ok': No such file or directory", "events", "--for", "pod/exec")
	c.K("exec", "exec", "--", "touch", "/tmp/ok")
	c.Ready("exec")
	equal(t, "closed", c.Get("pod/closed", status0+".ready}"), "false")
}

func restartPolicies(t *testing.T, c cluster) {
	for _, p := range []struct{ name, policy, code, phase string }{
		{"never-ok", "Never", "0", "Succeeded"}, {"never-bad", "Never", "1", "Failed"}, {"onfailure-ok", "OnFailure", "0", "Succeeded"},
	} {
		c.Pod(p.name, "busybox:1.36", "command: [sh, -c, 'exit "+p.code+"']", "restartPolicy: "+p.policy)
		c.Gets("pod/"+p.name, "{.status.phase}", p.phase)
		equal(t, p.name, c.Get("pod/"+p.name, status0+".restartCount}"), "0")
	}
	c.Pod("onfailure-bad", "busybox:1.36", "command: [sh, -c, '[ -e /s/x ] || { touch /s/x; exit 1; }']\nvolumeMounts: [{name: s, mountPath: /s}]", "restartPolicy: OnFailure", "volumes: [{name: s, emptyDir: {}}]")
	c.Gets("pod/onfailure-bad", "{.status.phase}", "Succeeded")
	equal(t, "restarts", c.Get("pod/onfailure-bad", status0+".restartCount}"), "1")
	contains(t, c.K("get", "pods"), "Completed", "Error")
}

func securityContext(t *testing.T, c cluster) {
	c.Pod("secure", "busybox:1.36", "command: [sleep, '3600']\nsecurityContext: {runAsUser: 1000, runAsGroup: 3000, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}\nvolumeMounts: [{name: data, mountPath: /data}]",
		"securityContext: {fsGroup: 2000, runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}", "volumes: [{name: data, emptyDir: {}}]")
	c.Pod("plain", "busybox:1.36", "command: [sleep, '3600']")
	c.Ready("secure", "plain")
	contains(t, c.Exec("secure", "id").Stdout, "uid=1000", "gid=3000", "2000")
	status := c.Exec("secure", "cat", "/proc/1/status").Stdout
	contains(t, status, "NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "Uid:\t1000", "Gid:\t3000")
	contains(t, c.Exec("secure", "touch", "/file").Stderr, "Read-only file system")
	contains(t, c.Exec("secure", "sh", "-c", "touch /data/f; stat -c '%u %g' /data/f").Stdout, "1000 2000")
	contains(t, c.Exec("secure", "stat", "-c", "%A", "/data").Stdout, "drwxrwsrwx")
	contains(t, c.Exec("plain", "cat", "/proc/1/status").Stdout, "NoNewPrivs:\t0", "Seccomp:\t0", "CapEff:\t00000000a80425fb", "Uid:\t0")
	c.Pod("root", "busybox:1.36", "command: [sleep, '3600']", "securityContext: {runAsNonRoot: true}")
	c.Gets("pod/root", status0+".state.waiting.reason}", "CreateContainerConfigError")
	contains(t, c.Get("pod/root", status0+".state.waiting.message}"), "container has runAsNonRoot and image will run as root")
}

func privileged(t *testing.T, c cluster) {
	c.Pod("strong", "busybox:1.36", "command: [sleep, '3600']\nsecurityContext: {privileged: true}\nvolumeMounts: [{name: host, mountPath: /host}]",
		"hostPID: true", "volumes: [{name: host, hostPath: {path: /proc/sys, type: Directory}}]")
	c.Pod("added", "busybox:1.36", "command: [sleep, '3600']\nsecurityContext: {capabilities: {add: [NET_ADMIN], drop: [CHOWN]}}")
	c.Ready("strong", "added")
	if n := len(strings.Split(c.Exec("strong", "ps").Stdout, "\n")); n < 10 {
		t.Errorf("hostPID shows %d processes", n)
	}
	contains(t, c.Exec("strong", "cat", "/proc/1/comm").Stdout, "")
	contains(t, c.Exec("strong", "ls", "/host").Stdout, "kernel", "net")
	contains(t, c.Exec("added", "cat", "/proc/1/status").Stdout, "CapEff:\t00000000a80435fa")
}

func environment(t *testing.T, c cluster) {
	c.K("create", "configmap", "conf", "--from-literal=A=from-map", "--from-literal=B=b")
	c.K("create", "secret", "generic", "sec", "--from-literal=S=hidden")
	c.Pod("env", "busybox:1.36", `command: [sh, -c, "env; echo args $0 $1", "$(NAME)", "$(MISSING) $$(NAME)"]
env: [{name: NAME, value: ann}, {name: GREETING, value: "hi $(NAME)"}, {name: A1, valueFrom: {configMapKeyRef: {name: conf, key: A}}}, {name: S1, valueFrom: {secretKeyRef: {name: sec, key: S}}}, {name: OPT, valueFrom: {configMapKeyRef: {name: none, key: A, optional: true}}}, {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}, {name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}, {name: LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}, {name: MEM, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}]
envFrom: [{prefix: P_, configMapRef: {name: conf}}]
resources: {limits: {memory: 64Mi}}`, "restartPolicy: Never")
	c.Gets("pod/env", "{.status.phase}", "Succeeded")
	out := c.K("logs", "env")
	contains(t, out, "NAME=ann\n", "GREETING=hi ann\n", "A1=from-map\n", "S1=hidden\n", "POD=env\n", "IP=10.42.", "NODE="+c.Name+"\n", "HOST="+c.IP.String()+"\n", "LABEL=env\n", "MEM=64\n", "P_B=b\n",
		"KUBERNETES_SERVICE_HOST=10.43.0.1\n", "KUBERNETES_SERVICE_PORT=443\n", "HOSTNAME=env\n", "args ann $(MISSING) $(NAME)\n")
	if strings.Contains(out, "OPT=") {
		t.Error("an optional key that is missing became a variable")
	}
	c.Pod("lacks", "busybox:1.36", "env: [{name: X, valueFrom: {secretKeyRef: {name: later, key: k}}}]\ncommand: [sleep, '3600']")
	c.Gets("pod/lacks", status0+".state.waiting.reason}", "CreateContainerConfigError")
	contains(t, c.Get("pod/lacks", status0+".state.waiting.message}"), `secret "later" not found`)
	c.K("create", "secret", "generic", "later", "--from-literal=k=v")
	c.Ready("lacks")
}

func terminationMessage(t *testing.T, c cluster) {
	c.Pod("file", "busybox:1.36", "command: [sh, -c, 'echo why > /dev/termination-log; exit 2']", "restartPolicy: Never")
	c.Pod("fallback", "busybox:1.36", "command: [sh, -c, 'echo last words; exit 2']\nterminationMessagePolicy: FallbackToLogsOnError", "restartPolicy: Never")
	c.Pod("own", "busybox:1.36", "command: [sh, -c, 'echo mine > /tmp/m; exit 0']\nterminationMessagePath: /tmp/m", "restartPolicy: Never")
	for pod, want := range map[string]string{"file": "why", "fallback": "last words", "own": "mine"} {
		c.Eventually(patience, "message of "+pod, func() error { return missing(c.Get("pod/"+pod, status0+".state.terminated.message}"), want) })
	}
}

func hooks(t *testing.T, c cluster) {
	c.Pod("hooked", "busybox:1.36", "command: [sh, -c, 'trap \"echo term; exit\" TERM; echo main; sleep 3600 & wait']\nvolumeMounts: [{name: out, mountPath: /out}]\n"+
		"lifecycle: {postStart: {exec: {command: [sh, -c, 'echo started > /out/post']}}, preStop: {exec: {command: [sh, -c, 'echo stopping > /out/pre; sleep 1']}}}",
		"volumes: [{name: out, hostPath: {path: "+t.TempDir()+", type: Directory}}]", "terminationGracePeriodSeconds: 5")
	c.Ready("hooked")
	equal(t, "postStart", c.Exec("hooked", "cat", "/out/post").Stdout, "started")
	follow := c.Go("logs", "-f", "hooked")
	c.SaysRunning(follow, "main")
	start := time.Now()
	c.K("delete", "pod", "hooked")
	if took := time.Since(start); took < time.Second {
		t.Errorf("deleted in %v: preStop was not waited for", took)
	}
	c.SaysRunning(follow, "term")
	c.Pod("badhook", "busybox:1.36", "command: [sleep, '3600']\nlifecycle: {postStart: {exec: {command: [sh, -c, 'exit 4']}}}")
	c.Says("FailedPostStartHook", "events")
}

func deadline(t *testing.T, c cluster) {
	c.Pod("late", "busybox:1.36", "command: [sleep, '3600']", "activeDeadlineSeconds: 2", "restartPolicy: Never")
	c.Gets("pod/late", "{.status.phase}", "Failed")
	equal(t, "reason", c.Get("pod/late", "{.status.reason}"), "DeadlineExceeded")
	contains(t, c.Get("pod/late", "{.status.message}"), "Pod was active on the node longer than the specified deadline")
}

func initContainers(t *testing.T, c cluster) {
	c.Pod("ordered", "busybox:1.36", "command: [sh, -c, 'cat /w/log; sleep 3600']\nvolumeMounts: [{name: w, mountPath: /w}]",
		"volumes: [{name: w, emptyDir: {medium: Memory}}]",
		"initContainers: [{name: first, image: 'busybox:1.36', command: [sh, -c, 'sleep 0.5; echo one >> /w/log'], volumeMounts: [{name: w, mountPath: /w}]}, {name: second, image: 'busybox:1.36', command: [sh, -c, 'echo two >> /w/log'], volumeMounts: [{name: w, mountPath: /w}]}]")
	c.Ready("ordered")
	c.Says("one\ntwo", "logs", "ordered")
	equal(t, "reasons", c.Get("pod/ordered", "{.status.initContainerStatuses[*].state.terminated.reason}"), "Completed Completed")
	c.Pod("stuck", "busybox:1.36", "command: [sleep, '3600']", "restartPolicy: Never", "initContainers: [{name: first, image: 'busybox:1.36', command: ['false']}]")
	c.Gets("pod/stuck", "{.status.phase}", "Failed")
	contains(t, c.K("get", "pod", "stuck"), "Init:Error")
}
