package settings

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"orch/server/webhook"
)

// Identities are the users of a kubeconfig whose names are those of webhooks:
//
//	webhook.example.com:8443    by URL; the port may be left out if it is 443
//	name.namespace.svc          a Service
//	*.example.com, *            patterns, the longest first
//
// else the user of the current context, else nobody.
type Identities struct{ config *clientcmdapi.Config }

// readWebhooks reads what a webhook plugin is told: where the kubeconfig is.
func readWebhooks(raw []byte) (*Identities, error) {
	var c struct {
		metav1.TypeMeta    `json:",inline"`
		KubeConfigFile     string `json:"kubeConfigFile"`
		StaticManifestsDir string `json:"staticManifestsDir,omitempty"`
	}
	err := decode(raw, &c, "WebhookAdmissionConfiguration", configGroup)
	if err != nil { // the names of before
		if decode(raw, &c, "WebhookAdmission", "apiserver.config.k8s.io/v1alpha1") != nil {
			return nil, err
		}
	}
	switch {
	case c.StaticManifestsDir != "":
		return nil, errors.New("staticManifestsDir needs the feature ManifestBasedAdmissionControlConfig, which is off in this version of Kubernetes")
	case c.KubeConfigFile == "":
		return nil, nil
	case !filepath.IsAbs(c.KubeConfigFile):
		return nil, fmt.Errorf("kubeConfigFile: Invalid value: %q: must be an absolute file path", c.KubeConfigFile)
	}
	config, err := (&clientcmd.ClientConfigLoadingRules{ExplicitPath: c.KubeConfigFile}).Load()
	if err != nil {
		return nil, fmt.Errorf("kubeConfigFile: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(config.AuthInfos)) { // what is wrong is said now, not when the first webhook is called
		if _, err := identity(config.AuthInfos[name]); err != nil {
			return nil, fmt.Errorf("kubeConfigFile %s: user %s: %w", c.KubeConfigFile, name, err)
		}
	}
	return &Identities{config}, nil
}

// For gives the identity for a webhook at host:port. Files of tokens are read anew.
func (i *Identities) For(target string) (webhook.Identity, error) {
	if i == nil {
		return webhook.Identity{}, nil
	}
	u := i.user(target)
	if u == nil {
		return webhook.Identity{}, nil
	}
	return identity(u)
}

func (i *Identities) user(target string) *clientcmdapi.AuthInfo {
	names := patterns(target)
	if host, port, err := net.SplitHostPort(target); err == nil && port == "443" {
		names = append(names, patterns(host)...)
	}
	for _, n := range append(names, "*") {
		if u := i.config.AuthInfos[n]; u != nil {
			return u
		}
	}
	if c := i.config.Contexts[i.config.CurrentContext]; c != nil {
		return i.config.AuthInfos[c.AuthInfo]
	}
	return nil
}

// patterns are the name itself and those with a star for its first parts.
func patterns(name string) []string {
	out := []string{name}
	for parts := strings.Split(name, "."); len(parts) > 1; {
		parts = parts[1:]
		out = append(out, "*."+strings.Join(parts, "."))
	}
	return out
}

func identity(u *clientcmdapi.AuthInfo) (id webhook.Identity, err error) {
	switch {
	case u.Exec != nil:
		return id, errors.New("exec plugins are not supported here: use a token file or a certificate")
	case u.AuthProvider != nil:
		return id, errors.New("auth provider not supported")
	case u.Impersonate != "" || u.ImpersonateUID != "" || len(u.ImpersonateGroups) > 0 || len(u.ImpersonateUserExtra) > 0:
		return id, errors.New("impersonation is not supported here")
	}
	read := func(data []byte, path string) string {
		if len(data) > 0 || path == "" || err != nil {
			return string(data)
		}
		data, err = os.ReadFile(path)
		return string(data)
	}
	id = webhook.Identity{
		Certificate: read(u.ClientCertificateData, u.ClientCertificate), Key: read(u.ClientKeyData, u.ClientKey),
		Token: strings.TrimSpace(read([]byte(u.Token), u.TokenFile)), User: u.Username, Password: u.Password,
	}
	if err == nil && (id.Certificate == "") != (id.Key == "") {
		err = errors.New("a certificate needs its key, and a key its certificate")
	}
	return id, err
}
