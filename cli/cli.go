// Package cli is the command line: the tree of commands, where flags come from
// (arguments, then ORCH_ environment, then config files), and the way to
// the kubectl and ctr that orch carries (cli/tools). It knows no server internals: what runs a server or an agent
// comes in as a Program. Start at Program and New.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Part is a long-running command: it declares flags and then runs until ctx ends.
type Part interface {
	AddFlags(*pflag.FlagSet)
	Run(ctx context.Context) error
}

// Program is what main gives to the command line.
type Program struct {
	Version string
	// Server and Agent make the parts behind `orch server` and `orch agent`.
	Server, Agent func() Part
	// Join tells an agent part where to go: the positional URL of `orch agent join`.
	Join func(p Part, url string) error

	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// usageError marks mistakes in how a command was called: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Main runs the command that args ask for and returns the exit code: 0 fine, 1
// failed with one line that says why, 2 wrong usage. args[0] chooses the embedded
// kubectl or ctr when it has their name.
func Main(ctx context.Context, p Program, args []string) int {
	switch filepath.Base(args[0]) {
	case "kubectl":
		return kubectl(p, args[1:])
	case "ctr":
		return ctr(p, args[1:])
	}
	if len(args) > 1 {
		switch args[1] { // these parse their arguments themselves
		case "kubectl":
			return kubectl(p, args[2:])
		case "ctr":
			return ctr(p, args[2:])
		}
	}
	root := New(p)
	root.SetArgs(args[1:])
	c, err := root.ExecuteContextC(ctx)
	return outcome(p.Stderr, c.CommandPath(), err)
}

// outcome says on stderr what became of the command, and gives the exit code.
func outcome(stderr io.Writer, command string, err error) int {
	var usage usageError
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "orch: %v\nRun '%s --help' for usage.\n", err, command)
		return 2
	}
	fmt.Fprintf(stderr, "orch: %v\n", err)
	return 1
}

// New builds the tree of commands.
func New(p Program) *cobra.Command {
	root := &cobra.Command{
		Use:           "orch",
		Short:         "A whole Kubernetes-compatible cluster in one executable",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       p.Version,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(serverCommand(p), agentCommand(p), imagesCommand(), statusCommand(), secretsEncryptCommand(), tokenCommand(), gpuCommand(), topCommand(), versionCommand(p),
		elsewhere("kubectl", "The embedded kubectl, using the cluster of this host"),
		elsewhere("ctr", "The embedded containerd client, using the containerd of this host"))
	return root
}

// elsewhere lists a command in the help that Main runs before cobra sees it.
func elsewhere(name, short string) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, DisableFlagParsing: true, RunE: func(*cobra.Command, []string) error {
		return fmt.Errorf("running %s: not reached through the command tree", name)
	}}
}

func versionCommand(p Program) *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		_, err := fmt.Fprintf(c.OutOrStdout(), "orch version %s\n", p.Version)
		return err
	}}
}

func serverCommand(p Program) *cobra.Command {
	part := p.Server()
	c := &cobra.Command{Use: "server", Short: "Run the control plane and, unless --disable-agent, a node agent", Args: noArgs}
	part.AddFlags(c.Flags())
	addConfigFlag(c.Flags())
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := complete(c.Flags()); err != nil {
			return err
		}
		return part.Run(c.Context())
	}
	return c
}

func agentCommand(p Program) *cobra.Command {
	part := p.Agent()
	run := func(c *cobra.Command) error {
		if err := complete(c.Flags()); err != nil {
			return err
		}
		return part.Run(c.Context())
	}
	c := &cobra.Command{Use: "agent", Short: "Run a node agent that joins a server", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return run(c) }}
	part.AddFlags(c.PersistentFlags())
	addConfigFlag(c.PersistentFlags())
	c.AddCommand(&cobra.Command{
		Use: "join https://HOST:6443 --token T", Short: "Join the server at this URL", Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("agent join needs the URL of one server, as https://HOST:6443")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := p.Join(part, args[0]); err != nil {
				return usageError{err}
			}
			return run(c)
		},
	})
	return c
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument, got %q", c.CommandPath(), args[0])
	}
	return nil
}
