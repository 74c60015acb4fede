package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// kubeconfigFile is what `orch status` understands of a kubeconfig: addresses, certificates
// and tokens. For other ways to log in there is `orch kubectl`.
type kubeconfigFile struct {
	CurrentContext string `json:"current-context"`
	Contexts       []struct {
		Name    string
		Context struct{ Cluster, User string }
	}
	Clusters []struct {
		Name    string
		Cluster struct {
			Server string
			CA     string `json:"certificate-authority"`
			CAData []byte `json:"certificate-authority-data"`
		}
	}
	Users []struct {
		Name string
		User struct {
			Cert     string `json:"client-certificate"`
			CertData []byte `json:"client-certificate-data"`
			Key      string `json:"client-key"`
			KeyData  []byte `json:"client-key-data"`
			Token    string
		}
	}
}

// serverAccess reads from one API server.
type serverAccess struct {
	url, token string
	http       *http.Client
}

// administratorAccess is accessFrom for commands of administrators, who may be elsewhere or not be root.
func administratorAccess(path string) (*serverAccess, error) {
	a, err := accessFrom(path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w: %s", path, err, unreadable(err))
	}
	return a, nil
}

// unreadable says what to do about a kubeconfig that cannot be read.
func unreadable(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "run this as root, or name a kubeconfig of your own by --kubeconfig"
	}
	return "is orch server running on this host?"
}

// accessFrom reads the current context of a kubeconfig.
func accessFrom(path string) (*serverAccess, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var k kubeconfigFile
	if err := yaml.Unmarshal(text, &k); err != nil {
		return nil, err
	}
	conf, a := &tls.Config{MinVersion: tls.VersionTLS12}, &serverAccess{}
	for _, c := range k.Contexts {
		if c.Name == k.CurrentContext {
			err = errors.Join(k.cluster(a, conf, c.Context.Cluster, filepath.Dir(path)), k.user(a, conf, c.Context.User, filepath.Dir(path)))
		}
	}
	if err == nil && a.url == "" {
		err = errors.New("it has no current context, or no cluster for it")
	}
	a.http = &http.Client{Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment}}
	return a, err
}

func (k *kubeconfigFile) cluster(a *serverAccess, conf *tls.Config, name, dir string) error {
	for _, c := range k.Clusters {
		if c.Name != name {
			continue
		}
		a.url = strings.TrimRight(c.Cluster.Server, "/")
		ca, err := dataOr(c.Cluster.CAData, c.Cluster.CA, dir)
		if len(ca) > 0 {
			conf.RootCAs = x509.NewCertPool()
			conf.RootCAs.AppendCertsFromPEM(ca)
		}
		return err
	}
	return nil
}

func (k *kubeconfigFile) user(a *serverAccess, conf *tls.Config, name, dir string) error {
	for _, u := range k.Users {
		if u.Name != name {
			continue
		}
		a.token = u.User.Token
		cert, err1 := dataOr(u.User.CertData, u.User.Cert, dir)
		key, err2 := dataOr(u.User.KeyData, u.User.Key, dir)
		if err := errors.Join(err1, err2); err != nil || len(cert) == 0 {
			return err
		}
		pair, err := tls.X509KeyPair(cert, key)
		conf.Certificates = []tls.Certificate{pair}
		return err
	}
	return nil
}

// dataOr is data, or else the content of the file, which is named from dir.
func dataOr(data []byte, file, dir string) ([]byte, error) {
	if len(data) > 0 || file == "" {
		return data, nil
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	return os.ReadFile(file)
}

// get reads what lies at a path of the server.
func (a *serverAccess) get(ctx context.Context, path string, into any) error {
	body, err := a.call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	return json.NewDecoder(body).Decode(into)
}

// maxRefusal bounds what is read of an answer that is an error.
const maxRefusal = 64 << 10

// refusal is the sentence of an API server's error, which is for people; of others the
// status and the beginning of what they answered.
func refusal(status string, body []byte) error {
	var said struct{ Message string }
	if json.Unmarshal(body, &said) == nil && said.Message != "" {
		return errors.New(said.Message)
	}
	return fmt.Errorf("%s: %s", status, strings.TrimSpace(string(body[:min(len(body), 512)])))
}

// call sends JSON (nil: nothing) and gives the body of a good answer, to be closed.
func (a *serverAccess) call(ctx context.Context, method, path string, send any) (io.ReadCloser, error) {
	var body io.Reader
	if send != nil {
		b, err := json.Marshal(send)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, a.url+path, body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	if send != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if a.token != "" {
		r.Header.Set("Authorization", "Bearer "+a.token)
	}
	answer, err := a.http.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		defer answer.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(answer.Body, maxRefusal)) // the status says it all if this fails
		return nil, refusal(answer.Status, text)
	}
	return answer.Body, nil
}
