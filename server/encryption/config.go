package encryption

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"

	"orch/server/encryption/kms"
)

// configVersion is the one form of the file that is read.
const configVersion = "apiserver.config.k8s.io/v1"

// kmsTimeout is upstream's for one call of a plugin.
const kmsTimeout = 3 * time.Second

// Load reads an EncryptionConfiguration and checks it.
func Load(path string) (*configv1.EncryptionConfiguration, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the encryption configuration: %w", err)
	}
	c, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("reading the encryption configuration %s: %w", path, err)
	}
	return c, nil
}

// Parse reads YAML or JSON strictly. Errors never show a key.
func Parse(raw []byte) (*configv1.EncryptionConfiguration, error) {
	var c configv1.EncryptionConfiguration
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return nil, errors.New(redact(err.Error()))
	}
	if c.Kind != "EncryptionConfiguration" || c.APIVersion != configVersion {
		return nil, fmt.Errorf("it is a %q of %q, expected an EncryptionConfiguration of %s", c.Kind, c.APIVersion, configVersion)
	}
	complete(&c)
	return &c, validate(&c)
}

// complete fills in upstream's defaults.
func complete(c *configv1.EncryptionConfiguration) {
	for i := range c.Resources {
		for _, p := range c.Resources[i].Providers {
			if p.KMS == nil {
				continue
			}
			if p.KMS.Timeout == nil {
				p.KMS.Timeout = &metav1.Duration{Duration: kmsTimeout}
			}
			if p.KMS.APIVersion == "" {
				p.KMS.APIVersion = "v1"
			}
		}
	}
}

// redact keeps the decoder's quotes of the file out of messages: they could be keys.
func redact(text string) string {
	if i := strings.IndexAny(text, "\"'`"); i >= 0 {
		return text[:i] + "..."
	}
	return text
}

// Texts of upstream's validation.
const (
	errOneProvider  = "more than one provider specified in a single element, should split into different list elements"
	errStar         = "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"
	errEventsGroup  = "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file"
	errExtensions   = "'extensions' group has been removed and cannot be used for encryption"
	errOverlap      = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked"
	errCapital      = "resource name should not contain capital letters"
	errAcrossGroups = "encrypting the same resource across groups is not supported"
	errDuplicate    = "the same resource cannot be specified multiple times"
	errBase64       = "secrets must be base64 encoded"
	errKMSv1        = "KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead."
)

func validate(c *configv1.EncryptionConfiguration) error {
	var errs []error
	bad := func(path, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
	}
	plugins := map[string]bool{}
	if len(c.Resources) == 0 {
		bad("resources", "at least one resources is required")
	}
	for i, rc := range c.Resources {
		at := fmt.Sprintf("resources[%d]", i)
		if len(rc.Resources) == 0 {
			bad(at+".resources", "at least one resource is required")
		}
		if len(rc.Providers) == 0 {
			bad(at+".providers", "at least one provider is required")
		}
		validateNames(at, rc.Resources, bad)
		for j, p := range rc.Providers {
			path := fmt.Sprintf("%s.providers[%d]", at, j)
			validateProvider(path, p, bad)
			if p.KMS != nil {
				validateKMS(path+".kms", p.KMS, plugins[p.KMS.Name], bad)
				plugins[p.KMS.Name] = true
			}
		}
	}
	return errors.Join(errs...)
}

func validateNames(at string, names []string, bad func(path, format string, args ...any)) {
	for i, name := range names {
		path := fmt.Sprintf("%s.resources[%d]", at, i)
		gr := schema.ParseGroupResource(name)
		switch {
		case name == "*":
			bad(path, "%s", errStar)
		case name != strings.ToLower(name):
			bad(path, "%s", errCapital)
		case gr.Group == "events.k8s.io":
			bad(path, "%s", errEventsGroup)
		case gr.Group == "extensions":
			bad(path, "%s", errExtensions)
		case gr.Group == "*" && gr.Resource != "*":
			bad(path, "%s", errAcrossGroups)
		case slices.Index(names, name) < i:
			bad(path, "%s", errDuplicate)
		}
		if gr.Resource != "*" && (slices.Contains(names, "*."+gr.Group) || slices.Contains(names, "*.*")) ||
			gr.Resource == "*" && gr.Group != "*" && slices.Contains(names, "*.*") {
			bad(path, "%s", errOverlap)
		}
	}
}

func validateProvider(at string, p configv1.ProviderConfiguration, bad func(path, format string, args ...any)) {
	n := 0
	if p.AESGCM != nil {
		n++
		validateKeys(at+".aesgcm.keys", p.AESGCM.Keys, []int{16, 24, 32}, bad)
	}
	if p.AESCBC != nil {
		n++
		validateKeys(at+".aescbc.keys", p.AESCBC.Keys, []int{32}, bad)
	}
	if p.Secretbox != nil {
		n++
		validateKeys(at+".secretbox.keys", p.Secretbox.Keys, []int{32}, bad)
	}
	if p.Identity != nil {
		n++
	}
	if p.KMS != nil {
		n++
	}
	switch {
	case n > 1:
		bad(at, "%s", errOneProvider)
	case n == 0:
		bad(at, "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity")
	}
}

// validateKMS holds the name of a plugin to be one: it is part of every value.
func validateKMS(at string, c *configv1.KMSConfiguration, taken bool, bad func(path, format string, args ...any)) {
	switch {
	case c.Name == "":
		bad(at+".name", "name is a mandatory field for a provider")
	case strings.Contains(c.Name, ":"):
		bad(at+".name", "invalid KMS provider name %s, must not contain ':'", c.Name)
	case taken:
		bad(at+".name", "duplicate KMS provider name %s, names must be unique", c.Name)
	}
	if c.Timeout.Duration <= 0 {
		bad(at+".timeout", "timeout should be a positive value")
	}
	if c.Endpoint == "" {
		bad(at+".endpoint", "endpoint is a mandatory field for a kms")
	} else if _, err := kms.Socket(c.Endpoint); err != nil {
		bad(at+".endpoint", "%s", err)
	}
	switch c.APIVersion {
	case "v2":
		if c.CacheSize != nil {
			bad(at+".cachesize", "cachesize is not supported in v2")
		}
	case "v1":
		bad(at+".apiVersion", "%s", errKMSv1)
	default:
		bad(at+".apiVersion", "unsupported apiVersion %s for KMS provider, only v2 is supported", c.APIVersion)
	}
}

func validateKeys(at string, keys []configv1.Key, sizes []int, bad func(path, format string, args ...any)) {
	if len(keys) == 0 {
		bad(at, "at least one key is required")
	}
	for i, k := range keys {
		path := fmt.Sprintf("%s[%d]", at, i)
		if k.Name == "" {
			bad(path+".name", "name is a mandatory field for a key")
		}
		if k.Secret == "" {
			bad(path+".secret", "secret is a mandatory field for a key")
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(k.Secret)
		if err != nil {
			bad(path+".secret", "%s", errBase64)
		} else if !slices.Contains(sizes, len(raw)) {
			bad(path+".secret", "secret is not of the expected length, got %d, expected one of %v", len(raw), sizes)
		}
	}
}
