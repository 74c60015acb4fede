package cni

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"orch/network/link"
	"orch/network/netns"
	"orch/network/nettest"
	"orch/network/rules"
)

var ctx = context.Background()

// bench is a node's namespace with a Network over it.
type bench struct {
	t    testing.TB
	cfg  Config
	node string
	dir  string
	net  *Network

	mu    sync.Mutex
	rules map[string]*rules.Pod
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, node: nettest.Namespace(t, "node"), dir: t.TempDir(), rules: map[string]*rules.Pod{}}
	b.cfg = Config{NetNS: b.node, ConfDir: b.dir + "/net.d", BinDirs: []string{b.dir + "/bin"}, CacheDir: b.dir + "/cache", IPAMDir: b.dir + "/ipam", PodCIDR: netip.MustParsePrefix("10.42.3.0/24"),
		ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"), ExtraAddrs: []netip.Addr{netip.MustParseAddr("10.43.0.10")}, MTU: 1450,
		Rules: func(id string, p *rules.Pod) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.rules[id] = p
			if p == nil {
				delete(b.rules, id)
			}
		}}
	b.restart()
	nettest.Must(t, b.net.Prepare(ctx))
	return b
}

// restart is what a new process would do.
func (b *bench) restart() {
	b.t.Helper()
	clear(b.rules)
	var err error
	b.net, err = New(b.cfg)
	nettest.Must(b.t, err)
}

func (b *bench) pod(name string) Pod {
	b.t.Helper()
	return Pod{ID: name, Namespace: "d", Name: name, UID: name, NetNS: nettest.Namespace(b.t, name)}
}

func (b *bench) setup(p Pod) Result {
	b.t.Helper()
	r, err := b.net.Setup(ctx, p)
	nettest.Must(b.t, err)
	return r
}

func (b *bench) conflist(text string) {
	b.t.Helper()
	nettest.Must(b.t, os.MkdirAll(b.cfg.ConfDir, 0o755))
	nettest.Must(b.t, os.WriteFile(filepath.Join(b.cfg.ConfDir, "10-user.conflist"), []byte(text), 0o644))
}

// files lists what is left in the state directories.
func (b *bench) files() []string {
	var all []string
	for _, pattern := range []string{"/ipam/*/10.*", "/cache/results/*"} {
		found, _ := filepath.Glob(b.dir + pattern)
		for _, f := range found {
			all = append(all, filepath.Base(f))
		}
	}
	return all
}

func (b *bench) devices() int {
	links, err := link.Dump(nettest.Open(b.t, b.node).Netlink().LinkList)
	nettest.Must(b.t, err)
	n := 0
	for _, l := range links {
		if l.Type() == "veth" {
			n++
		}
	}
	return n
}

func TestPod(t *testing.T) {
	b := newBench(t)
	one, two := b.pod("one"), b.pod("two")
	one.Ports = []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"}, {HostPort: 53, ContainerPort: 53, Protocol: "udp", HostIP: "127.0.0.1"}}
	r1, r2 := b.setup(one), b.setup(two)
	if r1.IPs[0].String() != "10.42.3.2" || r2.IPs[0].String() != "10.42.3.3" || r1.MAC != "0a:58:0a:2a:03:02" || r1.Interface != "eth0" {
		t.Errorf("%+v %+v", r1, r2)
	}
	want := &rules.Pod{IPs: r1.IPs, Ports: []rules.HostPort{{HostPort: 8080, Port: 80, Proto: rules.TCP}, {HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 53, Port: 53, Proto: rules.UDP}}}
	same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if d := cmp.Diff(map[string]*rules.Pod{"one": want}, b.rules, same); d != "" {
		t.Error(d)
	}
	nettest.Serve(t, two.NetNS, "tcp", ":80", "two")
	nettest.Serve(t, b.node, "tcp", "10.43.0.10:53", "dns")
	for _, addr := range []string{"10.42.3.3:80", "10.43.0.10:53"} {
		if answer, err := nettest.Ask(one.NetNS, "tcp", addr); err != nil || !strings.HasSuffix(answer, "10.42.3.2") {
			t.Errorf("%s: %q %v", addr, answer, err)
		}
	}
	nettest.Must(t, b.net.Check(ctx, one))
	if again := b.setup(one); cmp.Diff(r1, again, same) != "" {
		t.Errorf("second set-up: %+v", again)
	}

	// A new process knows the host ports, and takes apart what it didn't make.
	b.restart()
	if d := cmp.Diff(map[string]*rules.Pod{"one": want}, b.rules, same); d != "" {
		t.Error("after a restart", d)
	}
	for range 2 {
		nettest.Must(t, b.net.Teardown(ctx, one))
		nettest.Must(t, b.net.Teardown(ctx, two))
	}
	if left := b.files(); len(left) != 0 || b.devices() != 0 || len(b.rules) != 0 {
		t.Errorf("left: %v, %d devices, rules %v", left, b.devices(), b.rules)
	}
	if err := b.net.Check(ctx, one); err == nil {
		t.Error("a pod that is off the network checks well")
	}
}

// After a reboot the files are there and the namespaces are new.
func TestNewNamespace(t *testing.T) {
	b := newBench(t)
	p := b.pod("one")
	b.setup(p)
	nettest.Must(t, netns.Remove(p.NetNS))
	b.restart()
	nettest.Must(t, netns.Create(netns.Spec{Net: p.NetNS}))
	b.setup(p)
	nettest.Must(t, b.net.Check(ctx, p))
	if left := b.files(); len(left) != 2 || b.devices() != 1 {
		t.Errorf("%v, %d devices", left, b.devices())
	}
}

func TestNamespaceGoneBeforeTeardown(t *testing.T) {
	b := newBench(t)
	p := b.pod("one")
	b.setup(p)
	nettest.Must(t, netns.Remove(p.NetNS))
	nettest.Must(t, b.net.Teardown(ctx, p))
	if left := b.files(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestFailureLeavesNothing(t *testing.T) {
	b := newBench(t)
	if _, err := b.net.Setup(ctx, Pod{ID: "x", Namespace: "d", Name: "x", NetNS: b.dir + "/nowhere"}); err == nil || !strings.Contains(err.Error(), "d/x") {
		t.Errorf("%v", err)
	}
	if left := b.files(); len(left) != 0 || b.devices() != 0 {
		t.Errorf("left: %v, %d devices", left, b.devices())
	}
}

func TestKeep(t *testing.T) {
	b := newBench(t)
	live, dead := b.pod("live"), b.pod("dead")
	b.setup(live)
	dead.Ports = []PortMapping{{HostPort: 1, ContainerPort: 1, Protocol: "TCP"}}
	b.setup(dead)
	// Killed between taking an address and anything else.
	nettest.Must(t, os.WriteFile(b.dir+"/ipam/orch/10.42.3.9", []byte("killed\r\neth0"), 0o600))
	b.restart()
	nettest.Must(t, b.net.Keep(ctx, func(id string) bool { return id == "live" }))
	if d := cmp.Diff([]string{"10.42.3.2", "orch-live-eth0"}, b.files()); d != "" || b.devices() != 1 || len(b.rules) != 0 {
		t.Errorf("%s, %d devices, rules %v", d, b.devices(), b.rules)
	}
	nettest.Must(t, b.net.Check(ctx, live))
}

func TestExhausted(t *testing.T) {
	b := newBench(t)
	b.cfg.PodCIDR = netip.MustParsePrefix("10.42.3.0/30")
	b.restart()
	b.setup(b.pod("one"))
	if _, err := b.net.Setup(ctx, b.pod("two")); err == nil || !strings.Contains(err.Error(), "all of 10.42.3.1-10.42.3.2 are in use") {
		t.Errorf("%v", err)
	}
}

// A user's configuration wins; its unknown plugin type is executed, in the
// node's namespace, with the standard environment.
func TestUserConfiguration(t *testing.T) {
	b := newBench(t)
	nettest.Must(t, os.MkdirAll(b.dir+"/bin", 0o755))
	script := "#!/bin/sh\nin=$(cat)\necho \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS\" >> " + b.dir + "/log\nreadlink /proc/self/ns/net >> " + b.dir + "/log\n" +
		`[ "$CNI_COMMAND" = ADD ] || exit 0
[ -e ` + b.dir + `/fail ] && { echo '{"cniVersion":"1.0.0","code":999,"msg":"told to fail"}'; exit 1; }
echo "$in" | sed 's/.*"prevResult":\({.*}\),"type".*/\1/'` + "\n"
	nettest.Must(t, os.WriteFile(b.dir+"/bin/tuner", []byte(script), 0o755))
	b.conflist(`{"cniVersion":"1.0.0","name":"mine","plugins":[
		{"type":"bridge","bridge":"br9","isDefaultGateway":true,"ipMasq":true,"hairpinMode":true,"ipam":{"type":"host-local","subnet":"10.99.0.0/24","rangeStart":"10.99.0.50","routes":[{"dst":"1.2.3.0/24"}]}},
		{"type":"tuner"},{"type":"portmap","capabilities":{"portMappings":true}},{"type":"loopback"}]}`)
	p := b.pod("one")
	r := b.setup(p)
	if r.IPs[0].String() != "10.99.0.50" {
		t.Errorf("%+v", r)
	}
	if got := b.rules["one"]; got == nil || len(got.Masquerade) != 1 || got.Masquerade[0].String() != "10.99.0.0/24" {
		t.Errorf("rules %+v", got)
	}
	nettest.Must(t, b.net.Check(ctx, p))
	// The configuration that made it takes it apart, whatever stands there now.
	b.conflist(`{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"nothing"}]}`)
	if err := b.net.Keep(ctx, func(string) bool { return true }); err != nil {
		t.Error(err)
	}
	nettest.Must(t, b.net.Teardown(ctx, p))
	if left := b.files(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	log, _ := os.ReadFile(b.dir + "/log")
	if !strings.Contains(string(log), "ADD one eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=d;K8S_POD_NAME=one") || !strings.Contains(string(log), "DEL one") {
		t.Errorf("%s", log)
	}
	home, _ := os.Readlink("/proc/self/ns/net")
	if strings.Contains(string(log), home) {
		t.Error("the plugin ran in the test's namespace")
	}
	if _, err := b.net.Setup(ctx, b.pod("two")); err == nil || !strings.Contains(err.Error(), `network plugin "nothing" is neither built in nor in `) {
		t.Errorf("unknown plugin: %v", err)
	}
	b.conflist(`{"cniVersion":"1.0.0","name":"mine","plugins":[{"type":"bridge","bridge":"br9","ipam":{"type":"host-local","subnet":"10.99.0.0/24"}},{"type":"tuner"}]}`)
	nettest.Must(t, os.WriteFile(b.dir+"/fail", nil, 0o644))
	if _, err := b.net.Setup(ctx, b.pod("three")); err == nil || !strings.Contains(err.Error(), "told to fail") {
		t.Errorf("failing plugin: %v", err)
	}
	if left := b.files(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestBadConfiguration(t *testing.T) {
	for _, c := range []struct{ name, conf, want string }{
		{"not JSON", `{`, "10-user.conflist"},
		{"option of the program only", `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","vlan":7}]}`, `does not know the option "vlan"`},
		{"bad subnet", `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","ipam":{"type":"host-local","subnet":"10.0.0.1/24"}}]}`, "host bits set"},
		{"no ranges", `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","ipam":{"type":"host-local"}}]}`, "there are none"},
		{"portmap alone", `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"portmap"}]}`, "must come after"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.conflist(c.conf)
			if _, err := b.net.Setup(ctx, b.pod("p")); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestNotReady(t *testing.T) {
	n, err := New(Config{ConfDir: t.TempDir(), CacheDir: t.TempDir(), IPAMDir: t.TempDir()})
	nettest.Must(t, err)
	if err := n.Ready(); err == nil || !strings.Contains(err.Error(), "no pod range") {
		t.Errorf("%v", err)
	}
}

func TestBandwidth(t *testing.T) {
	b := newBench(t)
	p := b.pod("slow")
	p.IngressBits, p.EgressBits = 8e6, 16e6
	b.setup(p)
	for _, c := range []struct{ ns, device, want string }{{b.node, hostDevice("slow", "eth0"), "rate 8Mbit"}, {p.NetNS, "eth0", "rate 16Mbit"}} {
		if out := nettest.Command(t, c.ns, "tc", "qdisc", "show", "dev", c.device); !strings.Contains(out, "tbf") || !strings.Contains(out, c.want) {
			t.Error(out)
		}
	}
}

func TestThirtyAtOnce(t *testing.T) {
	b := newBench(t)
	pods := make([]Pod, 30)
	for i := range pods {
		pods[i] = b.pod(fmt.Sprintf("p%d", i))
	}
	start := time.Now()
	var wg sync.WaitGroup
	for _, p := range pods {
		wg.Go(func() {
			if _, err := b.net.Setup(ctx, p); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	up := time.Since(start)
	for _, p := range pods {
		wg.Go(func() {
			if err := b.net.Teardown(ctx, p); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("30 pods: up in %v, down in %v", up, time.Since(start)-up)
	if left := b.files(); len(left) != 0 || b.devices() != 0 {
		t.Errorf("left: %v, %d devices", left, b.devices())
	}
}

func BenchmarkSetup(b *testing.B) {
	n := newBench(b)
	p := n.pod("p")
	for b.Loop() {
		if _, err := n.net.Setup(ctx, p); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		nettest.Must(b, n.net.Teardown(ctx, p))
		b.StartTimer()
	}
}

func BenchmarkTeardown(b *testing.B) {
	n := newBench(b)
	p := n.pod("p")
	for b.Loop() {
		b.StopTimer()
		n.setup(p)
		b.StartTimer()
		if err := n.net.Teardown(ctx, p); err != nil {
			b.Fatal(err)
		}
	}
}
