package server

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	accounts "os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"orch/api/hostaddress"
	"orch/server/access"
	"orch/server/audit"
)

// Config of the control plane. AddFlags fills it; New reads it and changes nothing.
// Texts are as a person wrote them; resolved has them parsed.
type Config struct {
	DataDir string
	// Token is a join token or its secret part; TokenFile is where to read it.
	Token, TokenFile string
	BindAddress      string
	// HTTPSPort 0 takes any free one (tests).
	HTTPSPort        int
	AdvertiseAddress string
	NodeIP           []string
	NodeName         string
	TLSSAN           []string
	// WriteKubeconfig empty writes none.
	WriteKubeconfig, WriteKubeconfigMode string
	// WriteKubeconfigGroup is a name or number; empty leaves the file to root's group.
	WriteKubeconfigGroup     string
	DisableAgent             bool
	ClusterCIDR, ServiceCIDR string
	// ClusterDNS empty is the tenth address of ServiceCIDR.
	ClusterDNS, ClusterDomain string
	ServiceNodePortRange      string
	Disable                   []string
	// Admission plugins, by upstream's names, beside those that are on by default.
	EnableAdmissionPlugins, DisableAdmissionPlugins []string
	// AdmissionConfig is a file with what plugins are told.
	AdmissionConfig string
	// GPUTaint keeps pods that ask for no GPU off nodes that have some.
	GPUTaint bool
	// MIGPlanner has idle GPUs partitioned for pods that wait.
	MIGPlanner bool
	// NoSecretsEncryption makes no keys for Secrets at the first start; SecretsProvider is the cipher
	// of new keys, EncryptionConfig a file for further resources.
	// ResetSecretsEncryption gives up Secrets whose key is lost.
	ResetSecretsEncryption            bool
	NoSecretsEncryption               bool
	SecretsProvider, EncryptionConfig string
	Audit                             audit.Config
	Access                            access.Options

	// Version is what /version says, such as v1.37.0+orch.1.
	Version, Commit, BuildDate string
}

// AddFlags declares the flags of `orch server` with their defaults.
func (c *Config) AddFlags(f *pflag.FlagSet) {
	f.StringVarP(&c.DataDir, "data-dir", "d", "/var/lib/orch", "folder for the state of this host")
	f.StringVarP(&c.Token, "token", "t", "", "secret that nodes join with (default: drawn once, kept in <data-dir>/server/token)")
	f.StringVar(&c.TokenFile, "token-file", "", "file to read the token from")
	f.StringVar(&c.BindAddress, "bind-address", "0.0.0.0", "address that the API listens on")
	f.IntVar(&c.HTTPSPort, "https-listen-port", 6443, "port that the API listens on")
	f.StringVar(&c.AdvertiseAddress, "advertise-address", "", "address under which pods and nodes reach the API (default: node-ip)")
	f.StringSliceVarP(&c.NodeIP, "node-ip", "i", nil, "address of this host in the cluster (default: found on its interfaces)")
	f.StringVar(&c.NodeName, "node-name", "", "name of this node (default: host name)")
	f.StringSliceVar(&c.TLSSAN, "tls-san", nil, "further names or addresses for the API's certificate")
	f.StringVarP(&c.WriteKubeconfig, "write-kubeconfig", "o", "/etc/orch/orch.yaml", "where to write the administrator's kubeconfig")
	f.StringVar(&c.WriteKubeconfigMode, "write-kubeconfig-mode", "0600", "file mode of the kubeconfig")
	f.StringVar(&c.WriteKubeconfigGroup, "write-kubeconfig-group", "", "group that the kubeconfig belongs to, such as one whose members may use it with mode 0640")
	f.BoolVar(&c.DisableAgent, "disable-agent", false, "run no node on this host")
	f.StringVar(&c.ClusterCIDR, "cluster-cidr", "10.42.0.0/16", "addresses of pods")
	f.StringVar(&c.ServiceCIDR, "service-cidr", "10.43.0.0/16", "addresses of Services")
	f.StringVar(&c.ClusterDNS, "cluster-dns", "", "address of the cluster's DNS (default: the tenth of service-cidr, 10.43.0.10)")
	f.StringVar(&c.ClusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	f.StringVar(&c.ServiceNodePortRange, "service-node-port-range", "30000-32767", "ports for Services of type NodePort")
	f.BoolVar(&c.GPUTaint, "gpu-taint", false, "taint the nodes that have GPUs with nvidia.com/gpu=present:NoSchedule; pods that ask for NVIDIA's resources get the toleration (admission plugin ExtendedResourceToleration)")
	f.BoolVar(&c.MIGPlanner, "gpu-mig-planner", false, "partition idle GPUs (MIG) for pods that wait for nvidia.com/gpu or nvidia.com/mig-*, on nodes without the label nvidia.com/mig.config")
	f.StringSliceVar(&c.Disable, "disable", nil, "packaged parts to leave out: "+strings.Join(disableable, ", "))
	f.BoolFunc("secrets-encryption", "keep Secrets encrypted in the datastore; false makes no keys at the first start (default true)", func(v string) error {
		on, err := strconv.ParseBool(v)
		c.NoSecretsEncryption = !on
		return err
	})
	f.BoolVar(&c.ResetSecretsEncryption, "secrets-encryption-reset", false, "where the key of encrypted Secrets is lost: delete them and make a new key, instead of refusing to start")
	f.StringVar(&c.SecretsProvider, "secrets-encryption-provider", "secretbox", "cipher of new keys for Secrets: secretbox, aescbc or aesgcm")
	c.addAPIFlags(f)
	f.Var(apiArgs{f}, "kube-apiserver-arg", "a flag of kube-apiserver that orch knows too, without dashes, such as audit-log-path=/var/log/audit.log")
}

// addAPIFlags declares the flags that are kube-apiserver's.
func (c *Config) addAPIFlags(f *pflag.FlagSet) {
	f.StringSliceVar(&c.EnableAdmissionPlugins, "enable-admission-plugins", nil, "admission plugins that are off by default: AlwaysPullImages, DenyServiceExternalIPs, EventRateLimit, ExtendedResourceToleration, OwnerReferencesPermissionEnforcement")
	f.StringSliceVar(&c.DisableAdmissionPlugins, "disable-admission-plugins", nil, "admission plugins to leave out, such as PodSecurity")
	f.StringVar(&c.AdmissionConfig, "admission-control-config-file", "", "file with an AdmissionConfiguration: what PodSecurity, ResourceQuota, EventRateLimit and the webhook plugins are told")
	f.StringVar(&c.EncryptionConfig, "encryption-provider-config", "", "file with an EncryptionConfiguration for further resources")
	c.Audit.AddFlags(f)
	c.Access.AddFlags(f)
}

// apiArgs is k3s' way to give a flag of kube-apiserver: it sets the flag of that name.
type apiArgs struct{ flags *pflag.FlagSet }

func (apiArgs) String() string { return "" }
func (apiArgs) Type() string   { return "flag=value" }

func (a apiArgs) Set(arg string) error {
	name, value, ok := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	if !ok {
		value = "true"
	}
	known := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(Config).addAPIFlags(known)
	if known.Lookup(name) == nil {
		return fmt.Errorf("orch does not know kube-apiserver's flag %q", name)
	}
	return a.flags.Set(name, value)
}

// disableable are the names that --disable knows, those of k3s.
var disableable = []string{"coredns", "servicelb", "traefik", "local-storage", "metrics-server", "runtimes"}

// resolved is a Config parsed and completed.
type resolved struct {
	Config
	bind, advertise, dns     netip.Addr
	nodeIPs                  []netip.Addr
	clusterCIDR, serviceCIDR netip.Prefix
	firstPort, lastPort      int
	kubeconfigMode           os.FileMode
	// kubeconfigGroup is -1 where it is left as it is.
	kubeconfigGroup int
}

// Validate says what is wrong and how to mend it.
func (c *Config) Validate() error {
	_, err := c.resolve()
	return err
}

func (c *Config) resolve() (*resolved, error) {
	r := &resolved{Config: *c}
	for _, step := range []func() error{r.resolvePlaces, r.resolveNode, r.resolveAddresses, r.resolveRanges} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *resolved) resolvePlaces() error {
	if r.DataDir == "" {
		return errors.New("--data-dir is empty")
	}
	dir, err := filepath.Abs(r.DataDir)
	if err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	r.DataDir = dir
	if r.Token != "" && r.TokenFile != "" {
		return errors.New("--token and --token-file exclude each other")
	}
	if r.TokenFile != "" {
		b, err := os.ReadFile(r.TokenFile)
		if err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
		r.Token = strings.TrimSpace(string(b))
	}
	mode, err := strconv.ParseUint(r.WriteKubeconfigMode, 8, 32)
	if r.WriteKubeconfigMode == "" {
		mode, err = 0o600, nil
	}
	if err != nil || mode > 0o777 {
		return fmt.Errorf("--write-kubeconfig-mode %q is no file mode such as 0600", r.WriteKubeconfigMode)
	}
	r.kubeconfigMode = os.FileMode(mode)
	if r.kubeconfigGroup, err = groupID(r.WriteKubeconfigGroup); err != nil {
		return fmt.Errorf("--write-kubeconfig-group: %w", err)
	}
	for _, d := range r.Disable {
		if !slices.Contains(disableable, d) {
			return fmt.Errorf("--disable: there is no part %q; known are %s", d, strings.Join(disableable, ", "))
		}
	}
	return nil
}

// groupID takes a group's name or number; -1 if there is none.
func groupID(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := accounts.LookupGroup(group)
	if err != nil {
		return -1, fmt.Errorf("there is no group %q on this host", group)
	}
	return strconv.Atoi(g.Gid)
}

func (r *resolved) resolveNode() error {
	if r.NodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("finding the host name: %w; give --node-name", err)
		}
		r.NodeName = host
	}
	r.NodeName = strings.ToLower(r.NodeName)
	if bad := validation.IsDNS1123Subdomain(r.NodeName); len(bad) > 0 {
		return fmt.Errorf("node name %q: %s; give another by --node-name", r.NodeName, bad[0])
	}
	if bad := validation.IsDNS1123Subdomain(r.ClusterDomain); len(bad) > 0 {
		return fmt.Errorf("--cluster-domain %q: %s", r.ClusterDomain, bad[0])
	}
	return nil
}

func (r *resolved) resolveAddresses() (err error) {
	if r.BindAddress == "" {
		r.BindAddress = "0.0.0.0"
	}
	if r.bind, err = netip.ParseAddr(r.BindAddress); err != nil {
		return fmt.Errorf("--bind-address %q is no IP address", r.BindAddress)
	}
	if r.HTTPSPort < 0 || r.HTTPSPort > 65535 {
		return fmt.Errorf("--https-listen-port %d is no port", r.HTTPSPort)
	}
	for _, s := range r.NodeIP {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("--node-ip %q is no IP address", s)
		}
		r.nodeIPs = append(r.nodeIPs, ip)
	}
	if len(r.nodeIPs) == 0 {
		r.nodeIPs = []netip.Addr{hostAddress()}
	}
	switch {
	case r.AdvertiseAddress != "":
		if r.advertise, err = netip.ParseAddr(r.AdvertiseAddress); err != nil {
			return fmt.Errorf("--advertise-address %q is no IP address", r.AdvertiseAddress)
		}
	case !r.bind.IsUnspecified() && len(r.NodeIP) == 0:
		r.advertise = r.bind
	default:
		r.advertise = r.nodeIPs[0]
	}
	return nil
}

// hostAddress is where others reach this host; loopback if nobody does.
func hostAddress() netip.Addr {
	if ip := hostaddress.Outward(); ip.IsValid() {
		return ip
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func (r *resolved) resolveRanges() (err error) {
	if r.clusterCIDR, err = netip.ParsePrefix(r.ClusterCIDR); err != nil {
		return fmt.Errorf("--cluster-cidr %q is no range such as 10.42.0.0/16", r.ClusterCIDR)
	}
	if r.serviceCIDR, err = netip.ParsePrefix(r.ServiceCIDR); err != nil {
		return fmt.Errorf("--service-cidr %q is no range such as 10.43.0.0/16", r.ServiceCIDR)
	}
	r.clusterCIDR, r.serviceCIDR = r.clusterCIDR.Masked(), r.serviceCIDR.Masked()
	if r.clusterCIDR.Overlaps(r.serviceCIDR) {
		return fmt.Errorf("--cluster-cidr %s and --service-cidr %s overlap", r.clusterCIDR, r.serviceCIDR)
	}
	if r.ClusterDNS == "" {
		r.dns = r.serviceCIDR.Addr()
		for range 10 {
			r.dns = r.dns.Next()
		}
		r.ClusterDNS = r.dns.String()
	} else if r.dns, err = netip.ParseAddr(r.ClusterDNS); err != nil {
		return fmt.Errorf("--cluster-dns %q is no IP address", r.ClusterDNS)
	}
	if !r.serviceCIDR.Contains(r.dns) || r.dns == r.serviceCIDR.Addr() || r.dns == r.serviceCIDR.Addr().Next() {
		return fmt.Errorf("--cluster-dns %s must lie in --service-cidr %s, behind its first address", r.dns, r.serviceCIDR)
	}
	lo, hi, ok := strings.Cut(strings.ReplaceAll(r.ServiceNodePortRange, ":", "-"), "-")
	first, err1 := strconv.Atoi(lo)
	last, err2 := strconv.Atoi(hi)
	if !ok || err1 != nil || err2 != nil || first < 1 || last > 65535 || first > last {
		return fmt.Errorf("--service-node-port-range %q is no range such as 30000-32767", r.ServiceNodePortRange)
	}
	r.firstPort, r.lastPort = first, last
	return nil
}

func (r *resolved) without(part string) bool { return slices.Contains(r.Disable, part) }
