package encryption

import (
	"strings"
	"testing"
)

const twoKeys = `{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":["secrets"],"providers":[
{"PROVIDER":{"keys":[{"name":"new","secret":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="},{"name":"old","secret":"ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="}]}},{"identity":{}}]}]}`

func TestCiphers(t *testing.T) {
	for _, provider := range providers {
		t.Run(provider, func(t *testing.T) {
			c, err := Parse([]byte(strings.Replace(twoKeys, "PROVIDER", provider, 1)))
			if err != nil {
				t.Fatal(err)
			}
			list, err := boxes(c.Resources[0].Providers, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, plain := range []string{"", "x", strings.Repeat("y", 15), strings.Repeat("z", 16), strings.Repeat("w", 5000)} {
				at := []byte("/registry/secrets/a/b")
				for i, b := range list[:2] {
					sealed, err := sealWith(list[i:], at, []byte(plain))
					if err != nil || !strings.HasPrefix(string(sealed), "k8s:enc:"+provider+":v1:") || !strings.HasPrefix(string(sealed), string(b.prefix)) {
						t.Fatalf("%.40q %v", sealed, err)
					}
					got, err := openWith(list, at, sealed)
					if err != nil || string(got) != plain {
						t.Errorf("%q came back as %q (%v)", plain, got, err)
					}
					if stale := staleIn(list, sealed); stale != (i == 1) {
						t.Errorf("key %d: stale is %v", i, stale)
					}
					again, _ := sealWith(list[i:], at, []byte(plain))
					if string(again) == string(sealed) {
						t.Error("sealing twice gives the same: the nonce is not random")
					}
					if _, err := openWith(list, []byte("/registry/secrets/a/c"), sealed); (err != nil) != (provider == "aesgcm") {
						t.Errorf("opening in another place: %v", err)
					}
					sealed[len(sealed)-1] ^= 1
					if _, err := openWith(list, at, sealed); provider != "aescbc" && err == nil {
						t.Error("a damaged value was opened")
					}
					for n := range min(len(sealed), 60) {
						_, _ = openWith(list, at, sealed[:n]) // must not panic
					}
				}
			}
			if got, err := openWith(list, nil, []byte("k8s\x00 from before")); err != nil || string(got) != "k8s\x00 from before" {
				t.Errorf("%q %v", got, err)
			}
		})
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	const head = `{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[`
	key := func(secret string) string { return `{"secretbox":{"keys":[{"name":"a","secret":"` + secret + `"}]}}` }
	good := key("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
	for _, tc := range []struct{ name, text, says string }{
		{"not ours", `{"kind":"Secret","apiVersion":"v1"}`, "expected an EncryptionConfiguration"},
		{"unknown field", head + `],"more":1}`, "unknown field"},
		{"nothing", head + `]}`, "at least one resources is required"},
		{"star", head + `{"resources":["*"],"providers":[` + good + `]}]}`, errStar},
		{"overlap", head + `{"resources":["secrets","*."],"providers":[` + good + `]}]}`, errOverlap},
		{"twice", head + `{"resources":["secrets","secrets"],"providers":[` + good + `]}]}`, errDuplicate},
		{"capital", head + `{"resources":["Secrets"],"providers":[` + good + `]}]}`, errCapital},
		{"short key", head + `{"resources":["secrets"],"providers":[` + key("c2hvcnQ=") + `]}]}`, "got 5, expected one of [32]"},
		{"no base64", head + `{"resources":["secrets"],"providers":[` + key("%%") + `]}]}`, errBase64},
		{"two in one", head + `{"resources":["secrets"],"providers":[{"identity":{},` + good[1:] + `]}]}`, errOneProvider},
		{"kms v1", head + kmsOf(`"name":"x","endpoint":"unix:///x"`), errKMSv1},
		{"kms v3", head + kmsOf(`"apiVersion":"v3","name":"x","endpoint":"unix:///x"`), "unsupported apiVersion v3"},
		{"kms without a name", head + kmsOf(`"apiVersion":"v2","endpoint":"unix:///x"`), "kms.name: name is a mandatory field"},
		{"kms with a colon", head + kmsOf(`"apiVersion":"v2","name":"a:b","endpoint":"unix:///x"`), "invalid KMS provider name a:b, must not contain ':'"},
		{"kms twice", head + kmsOf(`"apiVersion":"v2","name":"x","endpoint":"unix:///x"}},{"kms":{"apiVersion":"v2","name":"x","endpoint":"unix:///y"`), "duplicate KMS provider name x, names must be unique"},
		{"kms elsewhere", head + kmsOf(`"apiVersion":"v2","name":"x","endpoint":"tcp://x"`), `unsupported scheme "tcp" for KMS provider, only unix is supported`},
		{"kms nowhere", head + kmsOf(`"apiVersion":"v2","name":"x"`), "endpoint is a mandatory field for a kms"},
		{"kms without time", head + kmsOf(`"apiVersion":"v2","name":"x","endpoint":"unix:///x","timeout":"0s"`), "timeout should be a positive value"},
		{"kms with a cache", head + kmsOf(`"apiVersion":"v2","name":"x","endpoint":"unix:///x","cachesize":5`), "cachesize is not supported in v2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse([]byte(tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
			if err != nil && strings.Contains(err.Error(), "c2hvcnQ") {
				t.Error("the message shows a key")
			}
		})
	}
}

func kmsOf(fields string) string {
	return `{"resources":["secrets"],"providers":[{"kms":{` + fields + `}}]}]}`
}

// BenchmarkSeal is what a write of a Secret of 1 KiB costs more than one of another kind.
func BenchmarkSeal(b *testing.B) {
	list := benchBoxes(b)
	plain, at := make([]byte, 1<<10), []byte("/registry/secrets/default/some-secret")
	for b.Loop() {
		if _, err := sealWith(list, at, plain); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen is what loading it costs more; reads come from memory.
func BenchmarkOpen(b *testing.B) {
	list, at := benchBoxes(b), []byte("/registry/secrets/default/some-secret")
	sealed, err := sealWith(list, at, make([]byte, 1<<10))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := openWith(list, at, sealed); err != nil {
			b.Fatal(err)
		}
	}
}

func benchBoxes(b *testing.B) []box {
	b.Helper()
	list, err := boxes(keyring{}.with("secretbox", true).config().Resources[0].Providers, nil)
	if err != nil {
		b.Fatal(err)
	}
	return list
}
