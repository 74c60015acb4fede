package encryption

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
)

// providers are the ciphers that keys can be made for.
var providers = []string{"secretbox", "aescbc", "aesgcm"}

// keyBytes is the size of every key that is made here.
const keyBytes = 32

// keyring is orch's own keys for Secrets. On disk it is an EncryptionConfiguration, so
// that upstream's API server could read the store with it:
//
//	encrypting:      [key3] [key2] [identity]    key3 is newest and first: key2 waits to be unused
//	prepared:        [key2] [key3] [identity]    key3 is known, nothing is written with it yet
//	not encrypting:  [identity] [key2]
type keyring struct {
	keys []key
	// off writes in plain.
	off bool
}

type key struct{ provider, name, secret string }

// number orders keys by when they were made; 0 for names that are not ours.
func (k key) number() int {
	n, err := strconv.Atoi(strings.TrimPrefix(k.name, "key"))
	if err != nil {
		return 0
	}
	return n
}

func (r keyring) newest() int {
	n := 0
	for _, k := range r.keys {
		n = max(n, k.number())
	}
	return n
}

// prepared tells that a newer key stands ready behind the one that is written with.
func (r keyring) prepared() bool { return len(r.keys) > 1 && r.keys[0].number() < r.newest() }

// with gives the ring with one more key, first or last.
func (r keyring) with(provider string, first bool) keyring {
	raw := make([]byte, keyBytes)
	_, _ = rand.Read(raw) // it never fails: it ends the program instead
	k := key{provider: provider, name: fmt.Sprintf("key%d", r.newest()+1), secret: base64.StdEncoding.EncodeToString(raw)}
	if first {
		return keyring{append([]key{k}, r.keys...), r.off}
	}
	return keyring{append(append([]key(nil), r.keys...), k), r.off}
}

// turned puts the prepared key in front.
func (r keyring) turned() keyring {
	out := keyring{off: r.off}
	for _, k := range r.keys {
		if k.number() == r.newest() {
			out.keys = append([]key{k}, out.keys...)
		} else {
			out.keys = append(out.keys, k)
		}
	}
	return out
}

// spent is the ring without the keys that nothing is sealed with once every value has
// been written anew.
func (r keyring) spent() keyring {
	if r.prepared() {
		return r
	}
	return keyring{r.keys[:1:1], r.off}
}

func (r keyring) config() *configv1.EncryptionConfiguration {
	var list []configv1.ProviderConfiguration
	for _, k := range r.keys {
		keys := []configv1.Key{{Name: k.name, Secret: k.secret}}
		var p configv1.ProviderConfiguration
		switch k.provider {
		case "aescbc":
			p.AESCBC = &configv1.AESConfiguration{Keys: keys}
		case "aesgcm":
			p.AESGCM = &configv1.AESConfiguration{Keys: keys}
		default:
			p.Secretbox = &configv1.SecretboxConfiguration{Keys: keys}
		}
		list = append(list, p)
	}
	identity := configv1.ProviderConfiguration{Identity: &configv1.IdentityConfiguration{}}
	if r.off {
		list = append([]configv1.ProviderConfiguration{identity}, list...)
	} else {
		list = append(list, identity)
	}
	return &configv1.EncryptionConfiguration{
		TypeMeta:  metav1.TypeMeta{Kind: "EncryptionConfiguration", APIVersion: configVersion},
		Resources: []configv1.ResourceConfiguration{{Resources: []string{"secrets"}, Providers: list}},
	}
}

// ringFrom reads a ring back.
func ringFrom(c *configv1.EncryptionConfiguration) (keyring, error) {
	var r keyring
	if len(c.Resources) != 1 || len(c.Resources[0].Resources) != 1 || c.Resources[0].Resources[0] != "secrets" {
		return r, errors.New("it is not about secrets alone; give a configuration of your own by --encryption-provider-config")
	}
	add := func(provider string, keys []configv1.Key) {
		for _, k := range keys {
			r.keys = append(r.keys, key{provider, k.Name, k.Secret})
		}
	}
	for i, p := range c.Resources[0].Providers {
		switch {
		case p.Secretbox != nil:
			add("secretbox", p.Secretbox.Keys)
		case p.AESCBC != nil:
			add("aescbc", p.AESCBC.Keys)
		case p.AESGCM != nil:
			add("aesgcm", p.AESGCM.Keys)
		case p.Identity != nil && i == 0:
			r.off = true
		}
	}
	if len(r.keys) == 0 {
		return r, errors.New("there is no key in it")
	}
	return r, nil
}

// loadRing reads the file; ok is false where there is none.
func loadRing(path string) (r keyring, ok bool, err error) {
	c, err := Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err == nil {
		r, err = ringFrom(c)
	}
	if err != nil {
		return r, false, fmt.Errorf("loading the keys of secrets from %s: %w: restore the file from a backup, without it the secrets cannot be read", path, err)
	}
	return r, true, nil
}

// save writes the file so that it is there, whole, after a power cut: no key may be
// used before.
func (r keyring) save(path string) error {
	raw, err := json.MarshalIndent(r.config(), "", "  ")
	if err != nil {
		return fmt.Errorf("writing the keys of secrets: %w", err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("writing the keys of secrets: %w", err)
	}
	f, err := os.CreateTemp(dir, ".keys-") // mode 0600
	if err != nil {
		return fmt.Errorf("writing the keys of secrets: %w", err)
	}
	_, err = f.Write(append(raw, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(dir)
	} else {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	if err != nil {
		return fmt.Errorf("writing the keys of secrets: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
