package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"orch/api"
)

// encryptActions are the subcommands that change something, with their help.
var encryptActions = []struct{ name, short string }{
	{"enable", "Encrypt Secrets from now on, and those that are stored"},
	{"disable", "Write Secrets in plain from now on, and those that are stored"},
	{"prepare", "Make a new key that is not written with yet"},
	{"rotate", "Write with the prepared key, or with a new one, from now on"},
	{"rotate-keys", "Write with a new key, rewrite everything stored, and forget the old key"},
	{"reencrypt", "Rewrite what is stored with another key, and forget keys that are out of use"},
}

func secretsEncryptCommand() *cobra.Command {
	var kubeconfig string
	c := &cobra.Command{Use: "secrets-encrypt", Short: "Show and change how Secrets are encrypted in the datastore", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", administrator(), "the administrator's kubeconfig (default: KUBECONFIG, then "+Kubeconfig+")")
	var output string
	status := &cobra.Command{Use: "status", Short: "Say how Secrets are encrypted", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		if output != "text" && output != "json" {
			return usagef("--output %q: known are text and json", output)
		}
		return encryptStatus(c.Context(), kubeconfig, output, c.OutOrStdout())
	}}
	status.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	c.AddCommand(status)
	for _, a := range encryptActions {
		c.AddCommand(&cobra.Command{Use: a.name, Short: a.short, Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
			return encryptDo(c.Context(), kubeconfig, a.name, c.OutOrStdout())
		}})
	}
	return c
}

func encryptStatus(ctx context.Context, kubeconfig, output string, out io.Writer) error {
	server, err := administratorAccess(kubeconfig)
	if err != nil {
		return err
	}
	var s api.EncryptionStatus
	if err := server.get(ctx, api.PathEncryption, &s); err != nil {
		return err
	}
	if output == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(s)
	}
	on := "Disabled"
	if s.Enabled {
		on = "Enabled"
	}
	fmt.Fprintf(out, "Encryption Status: %s\nCurrent Rotation Stage: %s\n", on, s.Stage)
	if s.File != "" {
		fmt.Fprintf(out, "Decided by: %s\n", s.File)
	}
	for _, p := range s.Progress {
		fmt.Fprintln(out, progressLine(p))
	}
	if s.Error != "" {
		fmt.Fprintf(out, "Last Error: %s\n", s.Error)
	}
	if len(s.Keys) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprint(w, "\nActive\tKey Type\tName\n------\t--------\t----\n")
	for _, k := range s.Keys {
		mark := ""
		if k.Active {
			mark = "*"
		}
		fmt.Fprintf(w, " %s\t%s\t%s\n", mark, k.Provider, k.Name)
	}
	return w.Flush()
}

func progressLine(p api.EncryptionProgress) string {
	text := fmt.Sprintf("%s: %d looked at, %d rewritten", p.Resource, p.Done, p.Changed)
	if p.Failed > 0 {
		text += fmt.Sprintf(", %d unreadable", p.Failed)
	}
	return text
}

// encryptDo shows the progress of an action until it is over.
func encryptDo(ctx context.Context, kubeconfig, action string, out io.Writer) error {
	server, err := administratorAccess(kubeconfig)
	if err != nil {
		return err
	}
	body, err := server.call(ctx, http.MethodPost, api.PathEncryption, api.EncryptionAction{Action: action})
	if err != nil {
		return err
	}
	defer body.Close()
	for lines := json.NewDecoder(body); ; {
		var p api.EncryptionProgress
		if err := lines.Decode(&p); err != nil {
			return fmt.Errorf("the server went away (%w); what has begun goes on when it is back: see orch secrets-encrypt status", err)
		}
		switch {
		case p.Error != "":
			return errors.New(p.Error)
		case p.Finished:
			fmt.Fprintf(out, "%s: done\n", action)
			return nil
		}
		fmt.Fprintln(out, progressLine(p))
	}
}
