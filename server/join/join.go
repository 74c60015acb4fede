// Package join lets a node into the cluster: it hands out the CA, checks the join
// token, remembers each node's password and signs its certificate. It never
// touches Node objects: the agent makes its own with the certificate it gets.
//
//	GET  /cacerts         the CA's PEM; the joiner compares its hash with the token's
//	POST /orch/v1/join    basic auth user:secret of the token, or, to renew, the
//	                      node's certificate; api.JoinRequest, api.JoinAnswer
//
// Start reading at Handler.ServeHTTP.
package join

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"orch/api"
	"orch/api/client"
)

const (
	maxBody = 64 << 10
	// A node password is drawn by the agent, so it needs no slow hash.
	hashRounds = 4096
)

// renewAfter leaves as much time as server/pki leaves for its own leaves.
const renewAfter = (365 - 120) * 24 * time.Hour

// Cluster is what must be the same on all nodes.
type Cluster struct {
	ClusterCIDR, ServiceCIDR, ClusterDNS, ClusterDomain, NodePortRange string
}

// Authority is server/pki.
type Authority interface {
	SignNode(node string, csr []byte) ([]byte, error)
	ServerCA() []byte
	ClientCA() []byte
}

// Config is not changed after New.
type Config struct {
	Authority Authority
	// Accepts tells whether user and secret are those of a join token.
	Accepts func(user, secret string) bool
	// Node tells which node's certificate a request comes with. A node may renew it
	// with a token that is wrong by now: tokens change and run out. May be nil.
	Node    func(*http.Request) (string, error)
	Client  *client.Client
	Cluster Cluster
	// Own is the name of the node in the server's process, which nobody may join
	// as; empty if there is none.
	Own string
	Log *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Handler serves joins.
type Handler struct{ cfg Config }

// New checks cfg.
func New(cfg Config) (*Handler, error) {
	if cfg.Authority == nil || cfg.Accepts == nil || cfg.Client == nil {
		return nil, errors.New("setting up join: Authority, Accepts and Client are required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Handler{cfg}, nil
}

// CACerts answers GET /cacerts.
func (h *Handler) CACerts(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "only GET is answered here")
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = w.Write(h.cfg.Authority.ServerCA()) // the client went away: nothing to do
}

// ServeHTTP answers POST /orch/v1/join.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		refuse(w, http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "only POST is answered here")
		return
	}
	anew, renewing := h.caller(r)
	if !anew && renewing == "" {
		refuse(w, http.StatusUnauthorized, metav1.StatusReasonUnauthorized, "the join token is wrong; take it from <data-dir>/server/token on a server")
		return
	}
	var q api.JoinRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&q); err != nil {
		refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, "reading the join request: "+err.Error())
		return
	}
	if !anew && renewing != q.NodeName {
		refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf("node %q cannot join as %q without the join token", renewing, q.NodeName))
		return
	}
	if problems := validation.IsDNS1123Subdomain(q.NodeName); len(problems) > 0 {
		refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, fmt.Sprintf("node name %q: %s", q.NodeName, strings.Join(problems, "; ")))
		return
	}
	if len(q.NodePassword) < 16 {
		refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, "the node password must have at least 16 characters")
		return
	}
	if q.NodeName == h.cfg.Own {
		refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf("node %q is the server's own; choose another --node-name", q.NodeName))
		return
	}
	cert, err := h.cfg.Authority.SignNode(q.NodeName, []byte(q.CSR))
	if err != nil {
		refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
		return
	}
	if err := h.remember(r.Context(), q.NodeName, q.NodePassword); err != nil {
		h.refuseNode(w, q.NodeName, err)
		return
	}
	said := "node joined"
	if renewing == q.NodeName {
		said = "node renewed its certificate"
	}
	h.cfg.Log.Info(said, "node", q.NodeName, "remote", r.RemoteAddr)
	w.Header().Set("Content-Type", "application/json")
	// A failed write means that the joiner is gone; it will try again.
	_ = json.NewEncoder(w).Encode(api.JoinAnswer{
		Certificate: string(cert) + string(h.cfg.Authority.ClientCA()), CA: string(h.cfg.Authority.ServerCA()),
		ClusterCIDR: h.cfg.Cluster.ClusterCIDR, ServiceCIDR: h.cfg.Cluster.ServiceCIDR, ClusterDNS: h.cfg.Cluster.ClusterDNS,
		ClusterDomain: h.cfg.Cluster.ClusterDomain, ServiceNodePortRange: h.cfg.Cluster.NodePortRange,
		RenewAfter: h.cfg.Now().Add(renewAfter),
	})
}

// caller tells whether a request has the join token, and which node's certificate it has.
func (h *Handler) caller(r *http.Request) (anew bool, renewing string) {
	user, secret, ok := r.BasicAuth()
	anew = ok && h.cfg.Accepts(user, secret)
	if h.cfg.Node != nil && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		asNode := r.Clone(r.Context())
		asNode.Header.Del("Authorization") // of the join token, which is no user's
		if node, err := h.cfg.Node(asNode); err == nil {
			renewing = node
		}
	}
	return anew, renewing
}

// errPassword: the name belongs to a node with another password.
var errPassword = errors.New("wrong node password")

func (h *Handler) refuseNode(w http.ResponseWriter, node string, err error) {
	if errors.Is(err, errPassword) {
		refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf(
			"node %q has joined before with another password; choose another --node-name, or run \"kubectl delete node %s\" if that node is gone", node, node))
		return
	}
	h.cfg.Log.Error("join failed", "node", node, "err", err)
	refuse(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, "the node's password could not be stored; see the server's log")
}

// SecretName is that of the Secret in kube-system that keeps a node's password.
func SecretName(node string) string { return node + ".node-password.orch" }

// remember checks the node's password, or stores it for a new name.
func (h *Handler) remember(ctx context.Context, node, password string) error {
	s, err := client.Get(ctx, h.cfg.Client, api.Secrets, api.NamespaceSystem, SecretName(node))
	if err == nil {
		if !matches(string(s.Data["hash"]), password) {
			return errPassword
		}
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("reading node password: %w", err)
	}
	hash, err := hashOf(password)
	if err != nil {
		return err
	}
	_, err = client.Create(ctx, h.cfg.Client, api.Secrets, &core.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: api.NamespaceSystem, Name: SecretName(node)},
		Data:       map[string][]byte{"hash": []byte(hash)}, Immutable: new(true),
	})
	if apierrors.IsAlreadyExists(err) {
		return h.remember(ctx, node, password) // two joins at once: the second must match the first
	}
	return err
}

func hashOf(password string) (string, error) {
	salt := make([]byte, 16)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("drawing salt: %w", err)
	}
	sum, err := pbkdf2.Key(sha256.New, password, salt, hashRounds, 32)
	if err != nil {
		return "", fmt.Errorf("hashing node password: %w", err)
	}
	b := base64.RawStdEncoding
	return "$1:" + b.EncodeToString(salt) + ":" + b.EncodeToString(sum), nil
}

func matches(hash, password string) bool {
	parts := strings.Split(hash, ":")
	if len(parts) != 3 || parts[0] != "$1" {
		return false
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[1])
	sum, err2 := base64.RawStdEncoding.DecodeString(parts[2])
	if err1 != nil || err2 != nil {
		return false
	}
	got, err := pbkdf2.Key(sha256.New, password, salt, hashRounds, 32)
	return err == nil && subtle.ConstantTimeCompare(got, sum) == 1
}

// refuse answers with a Status, which the agent shows to its user.
func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	b, err := json.Marshal(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	})
	if err == nil {
		_, _ = io.WriteString(w, string(b)+"\n")
	}
}
