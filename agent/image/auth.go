package image

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	core "k8s.io/api/core/v1"

	"orch/runtime/engine"
)

type dockerConfig struct {
	Auths map[string]dockerAuth `json:"auths"`
}

type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// Auths picks the credentials in pull secrets that fit an image, the longest
// path first. A secret that cannot be read is an error; other kinds are skipped.
func Auths(image string, secrets []*core.Secret) ([]engine.Auth, error) {
	var out []engine.Auth
	var bad error
	for _, s := range secrets {
		found, err := fromSecret(image, s)
		if err != nil {
			bad = fmt.Errorf("reading pull secret %s/%s: %w", s.Namespace, s.Name, err)
		}
		out = append(out, found...)
	}
	return out, bad
}

func fromSecret(image string, s *core.Secret) ([]engine.Auth, error) {
	var config dockerConfig
	switch s.Type {
	case core.SecretTypeDockerConfigJson:
		if err := json.Unmarshal(s.Data[core.DockerConfigJsonKey], &config); err != nil {
			return nil, err
		}
	case core.SecretTypeDockercfg:
		if err := json.Unmarshal(s.Data[core.DockerConfigKey], &config.Auths); err != nil {
			return nil, err
		}
	default:
		return nil, nil
	}
	best, found := -1, engine.Auth{}
	for key, a := range config.Auths {
		n, ok := fits(key, image)
		if !ok || n <= best {
			continue
		}
		auth, err := a.decode()
		if err != nil {
			return nil, err
		}
		best, found = n, auth
	}
	if best < 0 {
		return nil, nil
	}
	return []engine.Auth{found}, nil
}

func (a dockerAuth) decode() (engine.Auth, error) {
	out := engine.Auth{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	if a.Auth == "" || a.Username != "" {
		return out, nil
	}
	raw, err := base64.StdEncoding.DecodeString(a.Auth)
	if err != nil {
		return out, err
	}
	user, password, ok := strings.Cut(string(raw), ":")
	if !ok {
		return out, fmt.Errorf("auth is not user:password")
	}
	out.Username, out.Password = user, strings.TrimRight(password, "\x00")
	return out, nil
}

// fits tells whether a registry key (registry.example.com/team, *.example.com,
// https://index.docker.io/v1/) covers an image, and how closely.
func fits(key, image string) (length int, ok bool) {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(key, "/"), "/v1"), "/v2")
	keyHost, keyPath, _ := strings.Cut(key, "/")
	host, path := split(image)
	if dockerHub(keyHost) {
		keyHost = "docker.io"
	}
	if !hostFits(keyHost, host) || keyPath != "" && path != keyPath && !strings.HasPrefix(path, keyPath+"/") {
		return 0, false
	}
	return len(key), true
}

func dockerHub(host string) bool {
	return host == "index.docker.io" || host == "registry-1.docker.io" || host == "registry.hub.docker.com"
}

// split gives the registry and the repository of a reference.
func split(image string) (host, path string) {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndex(image, ":"); i > strings.LastIndex(image, "/") {
		image = image[:i]
	}
	host, path, ok := strings.Cut(image, "/")
	if ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		if dockerHub(host) {
			host = "docker.io"
		}
		return host, path
	}
	if !ok {
		image = "library/" + image
	}
	return "docker.io", image
}

// hostFits compares labels; a * stands for part of one label.
func hostFits(pattern, host string) bool {
	p, h := strings.Split(pattern, "."), strings.Split(host, ".")
	if len(p) != len(h) {
		return false
	}
	for i := range p {
		before, after, star := strings.Cut(p[i], "*")
		if p[i] != h[i] && (!star || !strings.HasPrefix(h[i], before) || !strings.HasSuffix(h[i], after)) {
			return false
		}
	}
	return true
}
