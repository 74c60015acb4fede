package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"orch/runtime/engine"
	"orch/runtime/image"
)

func imagesCommand() *cobra.Command {
	c := &cobra.Command{Use: "images", Short: "Pack, import and list container images, with no registry",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q for images", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(packCommand(), importCommand(), listCommand())
	return c
}

func packCommand() *cobra.Command {
	var o image.PackOptions
	var out string
	c := &cobra.Command{
		Use:   "pack --name NAME[:TAG] --output FILE SOURCE",
		Short: "Make an image archive (OCI, tar) of a static program or a root file system",
		Long: "Make an image archive (OCI, tar) of SOURCE: one static program, which becomes the\n" +
			"image's only file and its entrypoint, or a folder, which becomes its root file\n" +
			"system. The same input gives the same bytes. Put the archive into\n" +
			"<data-dir>/agent/images, or give it to 'orch images import'.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("images pack needs one SOURCE: a program or a folder")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			o.Source = args[0]
			if len(o.Names) == 0 || out == "" {
				return usagef("images pack needs --name and --output")
			}
			return packTo(out, o, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&o.Names, "name", "n", nil, "name of the image; may be given again")
	f.StringVarP(&out, "output", "o", "", "archive to write; - for standard output")
	f.StringArrayVar(&o.Entrypoint, "entrypoint", nil, "word of the entrypoint; may be given again (default: the program)")
	f.StringArrayVar(&o.Cmd, "cmd", nil, "word of the default arguments; may be given again")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "KEY=value of the environment; may be given again")
	f.StringSliceVarP(&o.Ports, "port", "p", nil, "port that it listens on, such as 8080 or 53/udp")
	f.StringVarP(&o.User, "user", "u", "", "user that it runs as (default root)")
	f.StringVarP(&o.WorkingDir, "workdir", "w", "", "working directory")
	f.StringVar(&o.Platform, "platform", "", "platform, such as linux/arm64 (default: this machine's)")
	f.StringToStringVar(&o.Links, "link", nil, "further name of a file, as /bin/sh=/bin/busybox; may be given again")
	return c
}

// packTo writes the archive whole or not at all.
func packTo(out string, o image.PackOptions, stdout io.Writer) error {
	if out == "-" {
		return image.Pack(o, stdout)
	}
	f, err := os.CreateTemp(dirOf(out), ".orch-pack-*")
	if err != nil {
		return fmt.Errorf("packing %s: %w", o.Source, err)
	}
	defer os.Remove(f.Name())
	err = image.Pack(o, f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chmod(f.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(f.Name(), out)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "packed %s as %s into %s\n", o.Source, strings.Join(o.Names, ", "), out)
	return err
}

func dirOf(path string) string {
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		return path[:i]
	}
	return "."
}

// withImages opens the image store of the running orch.
func withImages(ctx context.Context, socket string, f func(context.Context, *image.Store) error) error {
	if _, err := os.Stat(socket); err != nil {
		return fmt.Errorf("no orch with a node agent runs here (%s): start orch server or orch agent; of one with --data-dir DIR name the socket by --address DIR/agent/run/containerd/containerd.sock", socket)
	}
	c, err := containerd.New(socket, containerd.WithDefaultNamespace(namespace))
	if err != nil {
		return fmt.Errorf("reaching containerd at %s: %w", socket, err)
	}
	defer c.Close()
	return f(namespaces.WithNamespace(ctx, namespace), image.NewStore(image.Config{Client: c, Snapshotter: "overlayfs"}))
}

func importCommand() *cobra.Command {
	var socket string
	c := &cobra.Command{
		Use: "import FILE...", Short: "Import image archives (docker or OCI; tar, tar.gz, tar.zst)",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("images import needs the archives to import")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			return withImages(c.Context(), socket, func(ctx context.Context, s *image.Store) error {
				for _, path := range args {
					if err := importFile(ctx, s, path, c.OutOrStdout()); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	c.Flags().StringVarP(&socket, "address", "a", Socket, "containerd's socket")
	return c
}

func importFile(ctx context.Context, s *image.Store, path string, out io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := s.Import(ctx, f, true)
	if err != nil {
		return fmt.Errorf("importing %s: %w", path, err)
	}
	for _, i := range got {
		fmt.Fprintf(out, "imported %s\n", strings.Join(i.Names, ", "))
	}
	return nil
}

func listCommand() *cobra.Command {
	var socket string
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the images of this host", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withImages(c.Context(), socket, func(ctx context.Context, s *image.Store) error {
				images, err := s.List(ctx)
				if err != nil {
					return err
				}
				return printImages(c.OutOrStdout(), images)
			})
		}}
	c.Flags().StringVarP(&socket, "address", "a", Socket, "containerd's socket")
	return c
}

func printImages(out io.Writer, images []engine.Image) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tSIZE\tPINNED")
	for _, i := range images {
		names := i.Names
		if len(names) == 0 {
			names = i.Digests
		}
		if len(names) == 0 {
			names = []string{"<none>"}
		}
		for _, name := range names {
			fmt.Fprintf(w, "%s\t%.19s\t%s\t%v\n", name, i.ID, resource.NewQuantity(i.Bytes>>20<<20, resource.BinarySI), i.Pinned)
		}
	}
	return w.Flush()
}
