// Package settings reads the file of --admission-control-config-file: an
// AdmissionConfiguration with what single admission plugins are told. It owns the forms
// and their checks and refuses what it does not know; the plugins own what comes of it.
//
// Start reading at Load, then readers: the plugins that can be told something.
package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	psaconfig "k8s.io/pod-security-admission/admission/api"
	"k8s.io/pod-security-admission/admission/api/load"
	psavalidation "k8s.io/pod-security-admission/admission/api/validation"
	psa "k8s.io/pod-security-admission/api"
	"sigs.k8s.io/yaml"
)

// Settings of all plugins. The zero value is what plugins do without a file, but for
// Security: see Default.
type Settings struct {
	Security Security
	// Limited are resources that may be used only where a quota covers them.
	Limited []Limited
	// Events bound the rate of events; EventRateLimit needs at least one.
	Events []EventLimit
	// Mutating and Validating are whom the server shows itself as to webhooks; nil: as nobody.
	Mutating, Validating *Identities
}

// Security is what PodSecurity holds pods to where labels say nothing, and whom it
// leaves alone.
type Security struct {
	Defaults psa.Policy
	Exempt   psaconfig.PodSecurityExemptions
}

// Limited is a resource of a kind that takes a quota to use.
type Limited struct {
	APIGroup      string                                   `json:"apiGroup,omitempty"`
	Resource      string                                   `json:"resource"`
	MatchContains []string                                 `json:"matchContains,omitempty"`
	MatchScopes   []core.ScopedResourceSelectorRequirement `json:"matchScopes,omitempty"`
}

// EventLimit lets Burst events pass, and QPS a second after that: of all, or of each
// namespace, user, or source and object, of which CacheSize are remembered.
type EventLimit struct {
	Type      LimitType `json:"type"`
	QPS       int32     `json:"qps"`
	Burst     int32     `json:"burst"`
	CacheSize int32     `json:"cacheSize,omitempty"`
}

// LimitType says what an EventLimit counts by.
type LimitType string

// The types, as the file names them.
const (
	ByServer    LimitType = "Server"
	ByNamespace LimitType = "Namespace"
	ByUser      LimitType = "User"
	BySource    LimitType = "SourceAndObject"
)

// Default is what goes without a file.
func Default() Settings {
	free := psa.LevelVersion{Level: psa.LevelPrivileged, Version: psa.LatestVersion()}
	return Settings{Security: Security{Defaults: psa.Policy{Enforce: free, Audit: free, Warn: free}}}
}

const configGroup = "apiserver.config.k8s.io/v1"

// file is the form of the whole.
type file struct {
	metav1.TypeMeta `json:",inline"`
	Plugins         []plugin `json:"plugins"`
}

type plugin struct {
	Name string `json:"name"`
	// Path is a further file, relative to this one; Configuration goes before it.
	Path          string          `json:"path,omitempty"`
	Configuration json.RawMessage `json:"configuration,omitempty"`
}

// readers are the plugins that can be told something, by upstream's names.
var readers = map[string]func(*Settings, []byte) error{
	"PodSecurity":                readSecurity,
	"ResourceQuota":              readQuota,
	"EventRateLimit":             readEvents,
	"MutatingAdmissionWebhook":   func(s *Settings, b []byte) (err error) { s.Mutating, err = readWebhooks(b); return err },
	"ValidatingAdmissionWebhook": func(s *Settings, b []byte) (err error) { s.Validating, err = readWebhooks(b); return err },
}

// Load reads the file; an empty path gives the defaults.
func Load(path string) (Settings, error) {
	if path == "" {
		return Default(), nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return Settings{}, fmt.Errorf("unable to read admission control configuration: %w", err)
	}
	s, err := parse(raw, filepath.Dir(path))
	if err != nil {
		return Settings{}, fmt.Errorf("reading the admission control configuration %s: %w", path, err)
	}
	return s, nil
}

func parse(raw []byte, dir string) (Settings, error) {
	s := Default()
	var f file
	if err := decode(raw, &f, "AdmissionConfiguration", configGroup, "apiserver.k8s.io/v1alpha1"); err != nil {
		return s, err
	}
	seen := map[string]bool{}
	for i, p := range f.Plugins {
		at := fmt.Sprintf("plugins[%d]", i)
		read := readers[p.Name]
		switch {
		case read == nil:
			return s, fmt.Errorf("%s: there is nothing to configure of a plugin %q; of these there is: %s", at, p.Name, strings.Join(slices.Sorted(maps.Keys(readers)), ", "))
		case seen[p.Name]:
			return s, fmt.Errorf("%s: the plugin %s is there twice", at, p.Name)
		}
		seen[p.Name] = true
		text, err := p.text(dir)
		if err == nil && len(text) > 0 {
			err = read(&s, text)
		}
		if err != nil {
			return s, fmt.Errorf("%s (%s): %w", at, p.Name, err)
		}
	}
	return s, nil
}

func (p plugin) text(dir string) ([]byte, error) {
	switch {
	case len(p.Configuration) > 0 && string(p.Configuration) != "null":
		return p.Configuration, nil
	case p.Path == "":
		return nil, nil
	case filepath.IsAbs(p.Path):
		return os.ReadFile(p.Path)
	}
	return os.ReadFile(filepath.Join(dir, p.Path))
}

// decode reads a document strictly, which must be of the kind in one of the versions.
func decode(raw []byte, into any, kind string, versions ...string) error {
	var t metav1.TypeMeta
	if err := yaml.Unmarshal(raw, &t); err != nil {
		return err
	}
	if t.Kind != kind || !slices.Contains(versions, t.APIVersion) {
		return fmt.Errorf("it is a %q of %q, expected a %s of %s", t.Kind, t.APIVersion, kind, versions[0])
	}
	return yaml.UnmarshalStrict(raw, into)
}

func readSecurity(s *Settings, raw []byte) error {
	c, err := load.LoadFromData(raw)
	if err != nil {
		return err
	}
	if err := psavalidation.ValidatePodSecurityConfiguration(c).ToAggregate(); err != nil {
		return err
	}
	s.Security.Exempt = c.Exemptions
	s.Security.Defaults, err = psaconfig.ToPolicy(c.Defaults)
	return err
}

func readQuota(s *Settings, raw []byte) error {
	var c struct {
		metav1.TypeMeta  `json:",inline"`
		LimitedResources []Limited `json:"limitedResources"`
	}
	err := decode(raw, &c, "ResourceQuotaConfiguration", configGroup)
	if err != nil { // the names of before
		if decode(raw, &c, "Configuration", "resourcequota.admission.k8s.io/v1beta1", "resourcequota.admission.k8s.io/v1alpha1") != nil {
			return err
		}
	}
	for i, l := range c.LimitedResources {
		if l.Resource == "" {
			return fmt.Errorf("limitedResources[%d].resource: Required value", i)
		}
	}
	s.Limited = c.LimitedResources
	return nil
}

func readEvents(s *Settings, raw []byte) error {
	var c struct {
		metav1.TypeMeta `json:",inline"`
		Limits          []EventLimit `json:"limits"`
	}
	if err := decode(raw, &c, "Configuration", "eventratelimit.admission.k8s.io/v1alpha1"); err != nil {
		return err
	}
	var errs []error
	bad := func(i int, text string, args ...any) {
		errs = append(errs, fmt.Errorf("limits[%d].%s", i, fmt.Sprintf(text, args...)))
	}
	if len(c.Limits) == 0 {
		errs = append(errs, errors.New("limits: Invalid value: must not be empty"))
	}
	for i, l := range c.Limits {
		if types := []LimitType{BySource, ByNamespace, ByServer, ByUser}; !slices.Contains(types, l.Type) {
			bad(i, "type: Unsupported value: %q: supported values: %q", l.Type, types)
		}
		if l.Burst <= 0 {
			bad(i, "burst: Invalid value: %d: must be positive", l.Burst)
		}
		if l.QPS <= 0 {
			bad(i, "qps: Invalid value: %d: must be positive", l.QPS)
		}
		if l.Type != ByServer && l.CacheSize < 0 {
			bad(i, "cacheSize: Invalid value: %d: must not be negative", l.CacheSize)
		}
	}
	s.Events = c.Limits
	return errors.Join(errs...)
}
