package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"orch/gpu/report"
)

// gpuOptions are those of the commands that print tables of GPUs.
type gpuOptions struct {
	format, sortBy string
	watch          bool
	interval       time.Duration
}

func gpuStatusCommand(a *gpuAsker) *cobra.Command {
	o := gpuOptions{}
	c := &cobra.Command{Use: "status [NODE...]", Short: "The cards and MIG devices of the nodes, how they are and who holds them"}
	c.Flags().StringVarP(&o.format, "output", "o", "", "wide, json or yaml")
	c.RunE = func(c *cobra.Command, args []string) error { return a.table(c, args, o, statusTable) }
	return c
}

func topCommand() *cobra.Command {
	top := &cobra.Command{Use: "top", Short: "What is used now", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	a, o := &gpuAsker{}, gpuOptions{}
	c := &cobra.Command{Use: "gpu [NODE...]", Short: "How busy the GPUs are and who keeps them so"}
	c.Flags().StringVar(&a.kubeconfig, "kubeconfig", "", "the kubeconfig (default: KUBECONFIG, then "+Kubeconfig+"; a host without one asks its own agent)")
	c.Flags().StringVar(&a.socket, "socket", nodeSocket, "socket of this host's agent")
	c.Flags().StringVarP(&o.format, "output", "o", "", "json or yaml instead of a table")
	c.Flags().StringVar(&o.sortBy, "sort-by", "", "utilization or memory, the most first, instead of the order of the nodes")
	c.Flags().BoolVarP(&o.watch, "watch", "w", false, "print again and again until interrupted")
	c.Flags().DurationVar(&o.interval, "interval", 2*time.Second, "how often --watch prints")
	c.RunE = func(c *cobra.Command, args []string) error { return a.table(c, args, o, topTable) }
	top.AddCommand(c)
	return top
}

// table asks the nodes and prints, once or again and again.
func (a *gpuAsker) table(c *cobra.Command, names []string, o gpuOptions, print func(io.Writer, []report.Node, gpuOptions) error) error {
	if err := oneOf(o.format, "", "wide", "json", "yaml"); err != nil {
		return err
	}
	if o.sortBy != "" && o.sortBy != "utilization" && o.sortBy != "memory" {
		return usagef("--sort-by %q: it may be utilization or memory", o.sortBy)
	}
	if o.watch && o.interval < time.Second {
		return usagef("--interval %s: it is 1s at least", o.interval)
	}
	if err := a.open(); err != nil {
		return err
	}
	for {
		err := a.once(c, names, o, print)
		if err != nil || !o.watch {
			return err
		}
		select {
		case <-c.Context().Done():
			return nil
		case <-time.After(o.interval):
		}
		fmt.Fprintln(c.OutOrStdout())
	}
}

func (a *gpuAsker) once(c *cobra.Command, names []string, o gpuOptions, print func(io.Writer, []report.Node, gpuOptions) error) error {
	ctx, cancel := context.WithTimeout(c.Context(), gpuTimeout)
	defer cancel()
	nodes, err := a.nodes(ctx, names)
	if err != nil {
		return err
	}
	asked := a.ask(ctx, nodes)
	silent := 0
	for _, n := range asked {
		if n.Report == nil {
			silent++
			fmt.Fprintf(c.ErrOrStderr(), "orch: node %s does not say: %s\n", n.Object.Name, n.Silent)
		}
	}
	if silent == len(asked) {
		return errors.New("no node answers")
	}
	var reports []report.Report
	for _, n := range asked {
		if n.Report != nil {
			reports = append(reports, *n.Report)
		}
	}
	if done, err := structured(c.OutOrStdout(), o.format, map[string]any{"nodes": reports}); done {
		return err
	}
	for _, r := range reports {
		for _, why := range sayings(r, len(names) > 0) {
			fmt.Fprintf(c.ErrOrStderr(), "orch: node %s: %s\n", r.Node, why)
		}
	}
	if !slices.ContainsFunc(reports, func(r report.Report) bool { return len(r.Cards) > 0 }) {
		_, err := fmt.Fprintln(c.ErrOrStderr(), "orch: there is no NVIDIA GPU on "+nodesOf(len(reports))+"; `orch gpu doctor` says what was looked for")
		return err
	}
	return print(c.OutOrStdout(), asked, o)
}

func nodesOf(n int) string {
	if n == 1 {
		return "the node"
	}
	return fmt.Sprintf("any of the %d nodes", n)
}

// sayings is what must be known beside the table.
func sayings(r report.Report, named bool) []string {
	var out []string
	for _, f := range r.Findings {
		out = append(out, f.Message)
	}
	if r.Layout != "" {
		out = append(out, r.Layout)
	}
	if r.Figures != "" && len(r.Findings) == 0 {
		out = append(out, "there are no figures: "+r.Figures)
	}
	if named && len(r.Cards) == 0 && len(out) == 0 {
		out = append(out, "it has no NVIDIA GPU")
	}
	return out
}

// gpuRow is a card or a MIG device in a table.
type gpuRow struct {
	report.Unit
	node, id, what, pci, driver string
}

func rows(nodes []report.Node) []gpuRow {
	var out []gpuRow
	for _, n := range nodes {
		if n.Report == nil {
			continue
		}
		for _, g := range n.Report.Cards {
			out = append(out, gpuRow{g.Unit, n.Report.Node, fmt.Sprint(g.Index), g.Model, g.PCI, n.Report.Driver})
			for _, d := range g.Devices {
				out = append(out, gpuRow{d.Unit, n.Report.Node, fmt.Sprintf("%d:%d", g.Index, d.Index), "MIG " + d.Profile, g.PCI, n.Report.Driver})
			}
		}
	}
	return out
}

func statusTable(out io.Writer, nodes []report.Node, o gpuOptions) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	head := []string{"NODE", "GPU", "MODEL", "MEMORY", "UTIL", "TEMP", "HEALTH", "SHARING", "HELD BY"}
	if o.format == "wide" {
		head = append(head, "RESOURCE", "POWER", "PCI", "DRIVER", "UUID")
	}
	fmt.Fprintln(w, strings.Join(head, "\t"))
	var sick []string
	for _, r := range rows(nodes) {
		cells := []string{r.node, r.id, orDash(r.what), memoryOf(r.Unit), number(r.Utilisation, "%"), number(r.Temperature, "C"), r.Health, sharing(r.Unit), heldBy(r.Unit, o.format == "wide")}
		if o.format == "wide" {
			cells = append(cells, orDash(r.Resource), number(r.PowerWatts, "W"), orDash(r.pci), orDash(r.driver), orDash(r.UUID))
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
		if r.Sentence != "" && !slices.Contains(sick, r.Sentence) {
			sick = append(sick, r.Sentence)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range sick {
		fmt.Fprintln(out, s)
	}
	return nil
}

func topTable(out io.Writer, nodes []report.Node, o gpuOptions) error {
	list := rows(nodes)
	slices.SortStableFunc(list, func(a, b gpuRow) int {
		switch o.sortBy {
		case "utilization":
			return cmp.Compare(value(b.Utilisation), value(a.Utilisation))
		case "memory":
			return cmp.Compare(used(b.Unit), used(a.Unit))
		}
		return 0
	})
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "NODE\tGPU\tMODEL\tUTIL\tMEMORY\tMEMORY%\tTEMP\tPOWER\tHELD BY")
	for _, r := range list {
		share := "-"
		if r.UsedBytes != nil && r.MemoryBytes != nil && *r.MemoryBytes > 0 {
			share = fmt.Sprintf("%.0f%%", 100*float64(*r.UsedBytes)/float64(*r.MemoryBytes))
		}
		fmt.Fprintln(w, strings.Join([]string{r.node, r.id, orDash(r.what), number(r.Utilisation, "%"), memoryOf(r.Unit), share,
			number(r.Temperature, "C"), number(r.PowerWatts, "W"), heldBy(r.Unit, false)}, "\t"))
	}
	return w.Flush()
}

func value(v *float64) float64 {
	if v == nil {
		return -1
	}
	return *v
}

func used(u report.Unit) uint64 {
	if u.UsedBytes == nil {
		return 0
	}
	return *u.UsedBytes
}

func orDash(s string) string { return cmp.Or(s, "-") }

func number(v *float64, unit string) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.0f%s", *v, unit)
}

// memoryOf is what is used of what there is, in MiB as nvidia-smi counts.
func memoryOf(u report.Unit) string {
	total := "-"
	if u.MemoryBytes != nil {
		total = fmt.Sprintf("%dMiB", *u.MemoryBytes>>20)
	}
	if u.UsedBytes == nil {
		return total
	}
	return fmt.Sprintf("%d/%s", *u.UsedBytes>>20, total)
}

func sharing(u report.Unit) string {
	if u.Shares > 1 {
		return fmt.Sprintf("%d of %d shares", len(u.Holders), u.Shares)
	}
	parts := 0
	for _, h := range u.Holders {
		if h.Part() {
			parts++
		}
	}
	if parts > 0 {
		return fmt.Sprintf("parts: %d", parts)
	}
	return "-"
}

// heldBy names containers; in full also what they have of the device and what keeps them
// within that.
func heldBy(u report.Unit, full bool) string {
	var out []string
	for _, h := range u.Holders {
		name := h.Namespace + "/" + h.Pod + "/" + h.Container
		if h.Claim != "" {
			name = "claim:" + h.Namespace + "/" + h.Claim
			if h.Pod != "" {
				name += "=" + strings.TrimSuffix(h.Pod+"/"+h.Container, "/")
			}
		}
		if full && h.Share != "" {
			name += " (" + h.Share + ", " + h.Enforced + ")"
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return orDash(strings.Join(out, ","))
}
