package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"orch/api"
)

const (
	bootstrapPrefix = "bootstrap-token-"
	tokenSecrets    = "/api/v1/namespaces/kube-system/secrets"
	tokenAlphabet   = "abcdefghijklmnopqrstuvwxyz0123456789"
)

var tokenForm = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)

func tokenCommand() *cobra.Command {
	var kubeconfig string
	c := &cobra.Command{Use: "token", Short: "Make, list and delete tokens that nodes join with", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", administrator(), "the administrator's kubeconfig (default: KUBECONFIG, then "+Kubeconfig+")")
	var n newToken
	create := &cobra.Command{Use: "create [TOKEN]", Short: "Make a token, of an own form abcdef.0123456789abcdef or drawn", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				n.token = args[0]
			}
			return n.create(c.Context(), kubeconfig, c.OutOrStdout())
		}}
	create.Flags().DurationVar(&n.ttl, "ttl", 24*time.Hour, "how long it may be used (0: for ever)")
	create.Flags().StringVar(&n.description, "description", "", "what it is for")
	create.Flags().StringSliceVar(&n.groups, "groups", []string{"system:bootstrappers:orch:default-node-token"}, "groups of who logs in with it")
	create.Flags().StringSliceVar(&n.usages, "usages", []string{"signing", "authentication"}, "what it may be used for: signing, authentication")
	list := &cobra.Command{Use: "list", Short: "List tokens", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		return listTokens(c.Context(), kubeconfig, c.OutOrStdout())
	}}
	remove := &cobra.Command{Use: "delete ID|TOKEN...", Short: "Delete tokens", Args: cobra.MinimumNArgs(1), RunE: func(c *cobra.Command, args []string) error {
		return deleteTokens(c.Context(), kubeconfig, args, c.OutOrStdout())
	}}
	generate := &cobra.Command{Use: "generate", Short: "Print a token that could be made", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		_, err := fmt.Fprintln(c.OutOrStdout(), drawToken())
		return err
	}}
	var replacement string
	rotate := &cobra.Command{Use: "rotate", Short: "Replace the server's own join token", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		return rotateToken(c.Context(), kubeconfig, replacement, c.OutOrStdout())
	}}
	rotate.Flags().StringVar(&replacement, "new-token", "", "the secret to use from now on (default: drawn)")
	c.AddCommand(create, list, remove, generate, rotate)
	return c
}

func drawToken() string {
	draw := func(n int) string {
		b := make([]byte, 0, n)
		for len(b) < n {
			var r [1]byte
			_, _ = rand.Read(r[:])       // it never fails: it ends the program instead
			if i := int(r[0]); i < 252 { // 7 times the alphabet: each letter is as likely
				b = append(b, tokenAlphabet[i%len(tokenAlphabet)])
			}
		}
		return string(b)
	}
	return draw(6) + "." + draw(16)
}

// newToken is what `orch token create` was told.
type newToken struct {
	token, description string
	ttl                time.Duration
	groups, usages     []string
}

func (n *newToken) create(ctx context.Context, kubeconfig string, out io.Writer) error {
	if n.token == "" {
		n.token = drawToken()
	}
	m := tokenForm.FindStringSubmatch(n.token)
	if m == nil {
		return usagef("the bootstrap token is not of the form %q", tokenForm)
	}
	s := core.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: bootstrapPrefix + m[1], Namespace: api.NamespaceSystem},
		Type: core.SecretTypeBootstrapToken, StringData: map[string]string{"token-id": m[1], "token-secret": m[2]},
	}
	for _, u := range n.usages {
		if u != "signing" && u != "authentication" {
			return usagef("--usages: there is no %q; known are signing and authentication", u)
		}
		s.StringData["usage-bootstrap-"+u] = "true"
	}
	if n.ttl > 0 {
		s.StringData["expiration"] = time.Now().Add(n.ttl).UTC().Format(time.RFC3339)
	}
	if n.description != "" {
		s.StringData["description"] = n.description
	}
	if len(n.groups) > 0 {
		s.StringData["auth-extra-groups"] = strings.Join(n.groups, ",")
	}
	server, err := administratorAccess(kubeconfig)
	if err != nil {
		return err
	}
	hash, err := server.caHash(ctx)
	if err != nil {
		return err
	}
	body, err := server.call(ctx, http.MethodPost, tokenSecrets, s)
	if err != nil {
		return err
	}
	body.Close()
	_, err = fmt.Fprintf(out, "K10%s::%s\n", hash, n.token)
	return err
}

// caHash is what tokens begin with: the hash of the CA that nodes are to trust.
func (a *serverAccess) caHash(ctx context.Context) (string, error) {
	body, err := a.call(ctx, http.MethodGet, api.PathCACerts, nil)
	if err != nil {
		return "", err
	}
	defer body.Close()
	ca, err := io.ReadAll(io.LimitReader(body, 1<<20))
	h := sha256.Sum256(ca)
	return hex.EncodeToString(h[:]), err
}

func listTokens(ctx context.Context, kubeconfig string, out io.Writer) error {
	server, err := administratorAccess(kubeconfig)
	if err != nil {
		return err
	}
	var l core.SecretList
	if err := server.get(ctx, tokenSecrets+"?fieldSelector=type%3D"+strings.ReplaceAll(string(core.SecretTypeBootstrapToken), "/", "%2F"), &l); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "TOKEN\tTTL\tEXPIRES\tUSAGES\tDESCRIPTION")
	for i := range l.Items {
		d := l.Items[i].Data
		ttl, expires := "<forever>", "<never>"
		if at, err := time.Parse(time.RFC3339, string(d["expiration"])); err == nil {
			ttl, expires = "<expired>", at.Format(time.RFC3339)
			if left := time.Until(at); left > 0 {
				ttl = duration.HumanDuration(left)
			}
		}
		var usages []string
		for k, v := range d {
			if u, ok := strings.CutPrefix(k, "usage-bootstrap-"); ok && string(v) == "true" {
				usages = append(usages, u)
			}
		}
		slices.Sort(usages)
		description := string(d["description"])
		if description == "" {
			description = "<none>"
		}
		// The id tells tokens apart; the rest is for their holders.
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", d["token-id"], ttl, expires, strings.Join(usages, ","), description)
	}
	return w.Flush()
}

func deleteTokens(ctx context.Context, kubeconfig string, tokens []string, out io.Writer) error {
	server, err := administratorAccess(kubeconfig)
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if i := strings.LastIndex(t, "::"); i >= 0 {
			t = t[i+2:]
		}
		id, _, _ := strings.Cut(t, ".")
		body, err := server.call(ctx, http.MethodDelete, tokenSecrets+"/"+bootstrapPrefix+id, nil)
		if err != nil {
			return fmt.Errorf("deleting token %s: %w", id, err)
		}
		body.Close()
		fmt.Fprintf(out, "bootstrap token %q deleted\n", id)
	}
	return nil
}

func rotateToken(ctx context.Context, kubeconfig, replacement string, out io.Writer) error {
	server, err := administratorAccess(kubeconfig)
	if err != nil {
		return err
	}
	body, err := server.call(ctx, http.MethodPost, api.PathToken, api.TokenRotation{Secret: replacement})
	if err != nil {
		return err
	}
	defer body.Close()
	var answer api.TokenRotation
	if err := json.NewDecoder(body).Decode(&answer); err != nil {
		return fmt.Errorf("reading the server's answer: %w", err)
	}
	_, err = fmt.Fprintf(out, "Token rotated; the new one is in %s on the server. Nodes that have joined stay.\n", answer.File)
	return err
}
