package server

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"orch/datastore/memory"
)

func TestKubeconfigGroup(t *testing.T) {
	s := start(t, memory.New(), func(c *Config) { c.WriteKubeconfigGroup, c.WriteKubeconfigMode = "12", "640" })
	i, err := os.Stat(s.KubeconfigPath())
	if err != nil {
		t.Fatal(err)
	}
	if gid := i.Sys().(*syscall.Stat_t).Gid; gid != 12 || i.Mode().Perm() != 0o640 {
		t.Errorf("group %d, mode %v", gid, i.Mode())
	}
}

// TestConfigIsRefused: one clear sentence that names the flag.
func TestConfigIsRefused(t *testing.T) {
	good := func() *Config {
		return &Config{DataDir: t.TempDir(), BindAddress: "0.0.0.0", NodeName: "one", ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16",
			ClusterDomain: "cluster.local", ServiceNodePortRange: "30000-32767"}
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no such group", func(c *Config) { c.WriteKubeconfigGroup = "nobody-has-this" }, `--write-kubeconfig-group: there is no group "nobody-has-this"`},
		{"mode", func(c *Config) { c.WriteKubeconfigMode = "rw" }, `--write-kubeconfig-mode "rw"`},
		{"two tokens", func(c *Config) { c.Token, c.TokenFile = "a", "b" }, "--token and --token-file exclude each other"},
		{"no token file", func(c *Config) { c.TokenFile = "/nowhere" }, "--token-file: open /nowhere"},
		{"node name", func(c *Config) { c.NodeName = "a_b" }, `node name "a_b"`},
		{"address", func(c *Config) { c.BindAddress = "here" }, `--bind-address "here"`},
		{"pod addresses", func(c *Config) { c.ClusterCIDR = "10.42.0.0" }, "--cluster-cidr"},
		{"they meet the Services'", func(c *Config) { c.ClusterCIDR = "10.43.0.0/20" }, "overlap"},
		{"ports", func(c *Config) { c.ServiceNodePortRange = "5-1" }, "--service-node-port-range"},
		{"unknown part", func(c *Config) { c.Disable = []string{"x"} }, `--disable: there is no part "x"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good()
			c.change(cfg)
			if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want one line with %q", err, c.want)
			}
		})
	}
}
