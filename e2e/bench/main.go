// Command bench measures orch from outside, as its users see it: the rate and the
// latency of the API's verbs, scheduling, real pods, boot, restart, and what an
// idle server takes. It starts the servers it measures, each on a fresh data
// directory, and prints a table with the target beside each figure: the rows of
// docs/benchmarks.md. scripts/bench prepares what it needs.
//
// It owns no target of its own: figure.go holds those that were agreed. Start
// reading at suites.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// bench is one call of the program.
type bench struct {
	orch   string   // the binary
	dir    string   // parent of the data directories
	flags  []string // further flags of every server
	image  string   // of the real pods
	images string   // folder with its archive
	load   int      // ConfigMaps of one run
	table  table
}

// suite measures some figures once.
type suite struct {
	name string
	run  func(*bench, context.Context) error
}

// suites in the order in which they run.
var suites = []suite{
	{"boot", (*bench).boot},
	{"restart", (*bench).restart},
	{"api", (*bench).api},
	{"schedule", (*bench).schedule},
	{"pods", (*bench).pods},
	{"idle", (*bench).idle},
	{"memory", (*bench).memory},
	{"bulk", (*bench).bulk},
	{"fanout", (*bench).fanout},
	{"crds", (*bench).crds},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	b := &bench{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&b.orch, "orch", "dist/orch", "the binary to measure")
	f.StringVar(&b.dir, "dir", os.TempDir(), "where data directories are made; a real disk, or fsync costs nothing")
	f.StringVar(&b.image, "image", "pause:1", "image of the real pods: a program that ends on SIGTERM")
	f.StringVar(&b.images, "images", "", "folder with archives of images, for the nodes")
	f.IntVar(&b.load, "n", 2000, "ConfigMaps of one run")
	runs := f.Int("runs", 3, "how often each suite runs; the median counts")
	only := f.String("only", "", "suites to run, by commas (default: all)")
	flags := f.String("flags", "", "further flags of every server, by spaces")
	if err := f.Parse(args); err != nil {
		return err
	}
	b.flags = strings.Fields(*flags)
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	for _, s := range chosen {
		for i := range *runs {
			fmt.Fprintf(os.Stderr, "== %s, run %d of %d\n", s.name, i+1, *runs)
			if err := s.run(b, ctx); err != nil {
				return fmt.Errorf("measuring %s: %w", s.name, err)
			}
		}
	}
	return b.table.print(os.Stdout)
}

func choose(only string) ([]suite, error) {
	if only == "" {
		return suites, nil
	}
	var out []suite
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(suites, func(s suite) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no suite %q", name)
		}
		out = append(out, suites[i])
	}
	return out, nil
}
