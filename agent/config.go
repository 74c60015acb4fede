package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"orch/agent/node"
)

// DefaultDataDir is where orch keeps its data.
const DefaultDataDir = "/var/lib/orch"

// Version is what nodes give as kubeletVersion.
const Version = "v1.37.2+orch"

// Config of a node agent. It is read-only after New. An empty field has the
// default that Complete gives it.
type Config struct {
	NodeName       string
	NodeIP         string // comma-separated; the primary one first
	NodeExternalIP string
	NodeLabels     []string // key=value
	NodeTaints     []string // key=value:Effect

	// DataDir holds what is ours; RootDir, RunDir, LogDir and LinkDir are the
	// ecosystem's places, unless DataDir is not the default: then they lie below it,
	// so that several nodes can live on one machine.
	DataDir string
	RootDir string // /var/lib/kubelet
	RunDir  string // /run/orch
	LogDir  string // /var/log/pods
	LinkDir string // /var/log/containers

	ResolvConf    string
	ClusterDNS    []string
	ClusterDomain string
	MaxPods       int
	PodPidsLimit  int64
	// UnsafeSysctls are kernel parameters that pods may set beside the safe ones.
	UnsafeSysctls  []string
	SystemReserved map[string]string
	CgroupRoot     string

	ImageGCHighPercent, ImageGCLowPercent int
	ParallelPulls                         int
	LogMaxSize                            string
	LogMaxFiles                           int

	// Port of the node API; 0: it is reached through the tunnel only. Not a flag.
	Port int
	// Annotations of the Node that other parts of this node want. Not a flag.
	Annotations map[string]string
}

// AddFlags declares the agent's flags. Flags that the set has already (a server
// shares some with its agent) are left alone: the command copies their values.
func (c *Config) AddFlags(f *pflag.FlagSet) {
	own := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	own.StringVar(&c.DataDir, "data-dir", DefaultDataDir, "directory for the data of orch")
	own.StringVar(&c.NodeName, "node-name", "", "name of this node (default: host name)")
	own.StringVar(&c.NodeIP, "node-ip", "", "address of this node (default: that of the default route, else the first of an interface)")
	own.StringVar(&c.NodeExternalIP, "node-external-ip", "", "external address of this node")
	own.StringSliceVar(&c.NodeLabels, "node-label", nil, "label of this node, key=value; may be given again")
	own.StringSliceVar(&c.NodeTaints, "node-taint", nil, "taint that this node registers with, key=value:Effect; may be given again")
	own.StringVar(&c.RootDir, "root-dir", "", "directory for pods, plugins and volumes (default /var/lib/kubelet)")
	own.StringVar(&c.RunDir, "run-dir", "", "directory for what a reboot may take (default /run/orch)")
	own.StringVar(&c.LogDir, "pod-log-dir", "", "directory for the logs of containers (default /var/log/pods)")
	own.StringVar(&c.ResolvConf, "resolv-conf", "", "resolv.conf that pods with dnsPolicy Default get (default: the host's)")
	own.IntVar(&c.MaxPods, "max-pods", 110, "pods that this node can run")
	own.Int64Var(&c.PodPidsLimit, "pod-max-pids", 0, "processes that a container may have; 0 is no limit")
	own.StringSliceVar(&c.UnsafeSysctls, "allowed-unsafe-sysctls", nil, "kernel parameters, or patterns that end in *, that pods may set beside the safe ones")
	own.StringToStringVar(&c.SystemReserved, "system-reserved", nil, "resources kept from pods, as cpu=500m,memory=1Gi")
	own.StringVar(&c.CgroupRoot, "cgroup-root", "", "control group below which those of pods are made")
	own.IntVar(&c.ImageGCHighPercent, "image-gc-high-threshold", 85, "percentage of the disk in use at which unused images are deleted")
	own.IntVar(&c.ImageGCLowPercent, "image-gc-low-threshold", 80, "percentage of the disk in use at which deleting images stops")
	own.IntVar(&c.ParallelPulls, "max-parallel-image-pulls", 5, "images pulled at a time")
	own.StringVar(&c.LogMaxSize, "container-log-max-size", "10Mi", "size at which a container's log is rotated")
	own.IntVar(&c.LogMaxFiles, "container-log-max-files", 5, "files kept of a container's log")
	own.VisitAll(func(flag *pflag.Flag) {
		if f.Lookup(flag.Name) == nil {
			f.AddFlag(flag)
		}
	})
}

// Complete returns the config with defaults for what is empty.
func (c Config) Complete() (Config, error) {
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set(&c.DataDir, DefaultDataDir)
	set(&c.ClusterDomain, "cluster.local")
	place := func(s *string, usual, below string) {
		if c.DataDir != DefaultDataDir {
			usual = filepath.Join(c.DataDir, below)
		}
		set(s, usual)
	}
	place(&c.RootDir, "/var/lib/kubelet", "agent/kubelet")
	place(&c.RunDir, "/run/orch", "agent/run")
	place(&c.LogDir, "/var/log/pods", "agent/log/pods")
	place(&c.LinkDir, "/var/log/containers", "agent/log/containers")
	if c.ResolvConf == "" {
		c.ResolvConf = hostResolvConf()
	}
	if c.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("finding the host's name: %w; give --node-name", err)
		}
		c.NodeName = strings.ToLower(name)
	}
	if c.NodeIP == "" {
		ip, err := outwardIP()
		if err != nil {
			return c, err
		}
		c.NodeIP = ip
	}
	for _, n := range []struct {
		to    *int
		value int
	}{{&c.MaxPods, 110}, {&c.ImageGCHighPercent, 85}, {&c.ImageGCLowPercent, 80}, {&c.ParallelPulls, 5}, {&c.LogMaxFiles, 5}} {
		if *n.to == 0 {
			*n.to = n.value
		}
	}
	set(&c.LogMaxSize, "10Mi")
	return c, c.Validate()
}

// hostResolvConf avoids the stub of systemd-resolved, whose address means another
// thing inside a pod.
func hostResolvConf() string {
	const real = "/run/systemd/resolve/resolv.conf"
	b, err := os.ReadFile("/etc/resolv.conf")
	if err == nil && strings.Contains(string(b), "127.0.0.53") {
		if _, err := os.Stat(real); err == nil {
			return real
		}
	}
	return "/etc/resolv.conf"
}

// Validate says everything that is wrong, with the flag to mend it.
func (c Config) Validate() error {
	var bad []error
	add := func(format string, args ...any) { bad = append(bad, fmt.Errorf(format, args...)) }
	for _, m := range validation.IsDNS1123Subdomain(c.NodeName) {
		add("--node-name %q: %s", c.NodeName, m)
	}
	for _, ip := range append(addresses(c.NodeIP), addresses(c.NodeExternalIP)...) {
		if _, err := netip.ParseAddr(ip); err != nil {
			add("--node-ip %q is not an address", ip)
		}
	}
	if _, err := parseLabels(c.NodeLabels); err != nil {
		bad = append(bad, err)
	}
	if _, err := parseTaints(c.NodeTaints); err != nil {
		bad = append(bad, err)
	}
	if _, err := parseReserved(c.SystemReserved); err != nil {
		bad = append(bad, err)
	}
	if _, err := resource.ParseQuantity(c.LogMaxSize); err != nil {
		add("--container-log-max-size %q: %w", c.LogMaxSize, err)
	}
	if c.MaxPods < 1 {
		add("--max-pods %d: has to be at least 1", c.MaxPods)
	}
	if c.ImageGCLowPercent < 0 || c.ImageGCHighPercent > 100 || c.ImageGCLowPercent > c.ImageGCHighPercent {
		add("--image-gc-low-threshold %d and --image-gc-high-threshold %d: the low one has to be below the high one, both within 0 and 100", c.ImageGCLowPercent, c.ImageGCHighPercent)
	}
	for _, d := range []string{c.DataDir, c.RootDir, c.RunDir, c.LogDir} {
		if !filepath.IsAbs(d) {
			add("directory %q: has to be an absolute path", d)
		}
	}
	return errors.Join(bad...)
}

func addresses(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

func parseLabels(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, l := range list {
		k, v, _ := strings.Cut(l, "=")
		if m := append(validation.IsQualifiedName(k), validation.IsValidLabelValue(v)...); len(m) > 0 {
			return nil, fmt.Errorf("--node-label %q: %s", l, strings.Join(m, "; "))
		}
		out[k] = v
	}
	return out, nil
}

func parseTaints(list []string) ([]core.Taint, error) {
	var out []core.Taint
	for _, text := range list {
		t, err := node.Taint(text)
		if err != nil {
			return nil, fmt.Errorf("--node-taint: %w", err)
		}
		out = append(out, t)
	}
	return out, nil
}

func parseReserved(m map[string]string) (core.ResourceList, error) {
	out := core.ResourceList{}
	for name, text := range m {
		q, err := resource.ParseQuantity(text)
		if err != nil {
			return nil, fmt.Errorf("--system-reserved %s=%s: %w", name, text, err)
		}
		out[core.ResourceName(name)] = q
	}
	return out, nil
}
