package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"orch/gpu/device"
	"orch/gpu/report"
)

// gpuTimeout bounds a question to a node; a driver that hangs is given up by then.
const gpuTimeout = 70 * time.Second

// nodeSocket is where the agent of this host answers for its GPUs.
const nodeSocket = "/run/orch/" + report.Socket

// gpuAsker is where GPUs are asked for: at a server, or at the agent of this host.
type gpuAsker struct {
	kubeconfig, socket string
	server             *serverAccess // nil: the agent of this host, through its socket
	local              *http.Client
}

func gpuCommand() *cobra.Command {
	a := &gpuAsker{}
	c := &cobra.Command{Use: "gpu", Short: "How the GPUs are, and why a pod has none", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.PersistentFlags().StringVar(&a.kubeconfig, "kubeconfig", "", "the kubeconfig (default: KUBECONFIG, then "+Kubeconfig+"; a host without one asks its own agent)")
	c.PersistentFlags().StringVar(&a.socket, "socket", nodeSocket, "socket of this host's agent")
	c.AddCommand(gpuStatusCommand(a), gpuDoctorCommand(a), gpuRecordCommand(a))
	return c
}

// open finds out whom to ask.
func (a *gpuAsker) open() error {
	path := cmp.Or(a.kubeconfig, administrator())
	server, err := accessFrom(path)
	if err == nil {
		a.server = server
		return nil
	}
	if a.kubeconfig != "" {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if _, missing := os.Stat(a.socket); missing != nil {
		return fmt.Errorf("reading %s: %w, and no agent listens at %s: is orch running on this host?", path, err, a.socket)
	}
	a.local = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", a.socket)
	}}}
	return nil
}

// nodes are those of these names, all if there are none.
func (a *gpuAsker) nodes(ctx context.Context, names []string) ([]core.Node, error) {
	if a.server == nil {
		if len(names) > 0 {
			return nil, errors.New("this host has no kubeconfig, so it can be asked about itself only: leave the node's name out, or give --kubeconfig")
		}
		return []core.Node{{}}, nil
	}
	var list core.NodeList
	if err := a.server.get(ctx, "/api/v1/nodes", &list); err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	for _, name := range names {
		if !slices.ContainsFunc(list.Items, func(n core.Node) bool { return n.Name == name }) {
			return nil, fmt.Errorf("there is no node %q: `orch kubectl get nodes` lists them", name)
		}
	}
	if len(names) == 0 && len(list.Items) == 0 {
		return nil, errors.New("the cluster has no node yet")
	}
	return slices.DeleteFunc(list.Items, func(n core.Node) bool { return len(names) > 0 && !slices.Contains(names, n.Name) }), nil
}

// get reads a path of a node's own API.
func (a *gpuAsker) get(ctx context.Context, node, path string) (io.ReadCloser, error) {
	if a.server != nil {
		return a.server.call(ctx, http.MethodGet, "/api/v1/nodes/"+url.PathEscape(node)+"/proxy"+path, nil)
	}
	return (&serverAccess{url: "http://agent", http: a.local}).call(ctx, http.MethodGet, path, nil)
}

// ask reads the reports of nodes, all at once. A node that is silent has the reason instead.
func (a *gpuAsker) ask(ctx context.Context, nodes []core.Node) []report.Node {
	out := make([]report.Node, len(nodes))
	done := make(chan struct{}, len(nodes))
	slots := make(chan struct{}, maxAsked)
	for i := range nodes {
		go func() {
			slots <- struct{}{}
			out[i] = a.one(ctx, &nodes[i])
			<-slots
			done <- struct{}{}
		}()
	}
	for range nodes {
		<-done
	}
	return out
}

// maxAsked bounds how many nodes are asked at the same time.
const maxAsked = 32

func (a *gpuAsker) one(ctx context.Context, n *core.Node) report.Node {
	out := report.Node{Object: n}
	body, err := a.get(ctx, n.Name, report.Path)
	if err != nil {
		out.Silent = err.Error()
		return out
	}
	defer body.Close()
	var r report.Report
	if err := json.NewDecoder(body).Decode(&r); err != nil {
		out.Silent = "its answer is no report: " + err.Error()
		return out
	}
	out.Report = &r
	return out
}

func gpuRecordCommand(a *gpuAsker) *cobra.Command {
	var file string
	c := &cobra.Command{Use: "record [NODE]", Short: "Write what a node's driver answers to a file, for a bug report or --gpu-recording", Args: atMostOne}
	c.Flags().StringVarP(&file, "file", "f", "", "file to write, - for the output (default: gpu-NODE.json)")
	c.RunE = func(c *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(c.Context(), gpuTimeout)
		defer cancel()
		if err := a.open(); err != nil {
			return err
		}
		nodes, err := a.nodes(ctx, args)
		if err != nil {
			return err
		}
		if len(nodes) > 1 {
			return usagef("there are %d nodes: name the one to record", len(nodes))
		}
		return a.record(ctx, nodes[0].Name, file, c.OutOrStdout())
	}
	return c
}

func (a *gpuAsker) record(ctx context.Context, node, file string, out io.Writer) error {
	body, err := a.get(ctx, node, report.RecordPath)
	if err != nil {
		return err
	}
	defer body.Close()
	rec, err := device.ReadRecording(body)
	if err != nil {
		return err
	}
	if file == "-" {
		_, err := rec.WriteTo(out)
		return err
	}
	if node == "" {
		if node, err = os.Hostname(); err != nil {
			return err
		}
	}
	if file == "" {
		file = "gpu-" + node + ".json"
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("writing the recording: %w", err)
	}
	_, err = rec.WriteTo(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing the recording: %w", err)
	}
	note := ""
	if len(rec.Machine.GPUs) == 0 {
		note = "; it has no GPU"
	}
	_, err = fmt.Fprintf(out, "wrote %s: what the driver of node %s answered, with the UUIDs and serial numbers of %d cards and the processes on them%s\n", file, node, len(rec.Machine.GPUs), note)
	return err
}

func atMostOne(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%s takes one argument at most, got %q", c.CommandPath(), args)
	}
	return nil
}

func gpuDoctorCommand(a *gpuAsker) *cobra.Command {
	var namespace, node, format string
	c := &cobra.Command{Use: "doctor [POD]", Short: "Follow the chain from the driver to a pod, and say which link fails and what to do", Args: atMostOne}
	c.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of the pod")
	c.Flags().StringVar(&node, "node", "", "look at this node only")
	c.Flags().StringVarP(&format, "output", "o", "", "json or yaml instead of lines")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := oneOf(format, "", "json", "yaml"); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.Context(), gpuTimeout)
		defer cancel()
		if err := a.open(); err != nil {
			return err
		}
		pod := ""
		if len(args) > 0 {
			pod = strings.TrimPrefix(strings.TrimPrefix(args[0], "pods/"), "pod/")
			if ns, name, ok := strings.Cut(pod, "/"); ok {
				namespace, pod = ns, name
			}
		}
		chains, err := a.doctor(ctx, namespace, pod, node)
		if err != nil {
			return err
		}
		if err := printChains(c.OutOrStdout(), format, chains); err != nil {
			return err
		}
		if slices.ContainsFunc(chains, report.Chain.Failing) {
			return errors.New("a link of the chain fails, see above")
		}
		return nil
	}
	return c
}

// doctor examines a pod and its node, or else all nodes.
func (a *gpuAsker) doctor(ctx context.Context, namespace, pod, node string) ([]report.Chain, error) {
	if a.server == nil && pod != "" {
		return nil, errors.New("this host has no kubeconfig, so it knows of no pods: give --kubeconfig")
	}
	var names []string
	if node != "" {
		names = []string{node}
	}
	nodes, err := a.nodes(ctx, names)
	if err != nil {
		return nil, err
	}
	if pod == "" {
		live, err := a.live(ctx)
		if err != nil {
			return nil, err
		}
		return chainsOf(a.ask(ctx, nodes), live, a.server == nil), nil
	}
	var p core.Pod
	if err := a.server.get(ctx, "/api/v1/namespaces/"+url.PathEscape(namespace)+"/pods/"+url.PathEscape(pod), &p); err != nil {
		return nil, err
	}
	if p.Spec.NodeName != "" {
		nodes = slices.DeleteFunc(nodes, func(n core.Node) bool { return n.Name != p.Spec.NodeName })
	}
	asked := a.ask(ctx, nodes)
	chains := []report.Chain{report.ExaminePod(&p, asked)}
	if p.Spec.NodeName != "" {
		live, err := a.live(ctx)
		if err != nil {
			return nil, err
		}
		chains = append(chainsOf(asked, live, false), chains...)
	}
	return chains, nil
}

func chainsOf(nodes []report.Node, live func(string) bool, alone bool) []report.Chain {
	var out []report.Chain
	for _, n := range nodes {
		if alone { // the agent knows of its cards and its ledger, not what the cluster holds of the node
			n.Object = &core.Node{}
			if n.Report != nil {
				n.Object.Name = n.Report.Node
			}
			out = append(out, report.ExamineAlone(n))
			continue
		}
		out = append(out, report.ExamineNode(n, live))
	}
	return out
}

// live tells of a UID whether a pod has it.
func (a *gpuAsker) live(ctx context.Context) (func(string) bool, error) {
	if a.server == nil {
		return nil, nil //nolint:nilnil // nobody knows
	}
	var pods core.PodList
	if err := a.server.get(ctx, "/api/v1/pods", &pods); err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	uids := map[string]bool{}
	for i := range pods.Items {
		uids[string(pods.Items[i].UID)] = true
	}
	return func(uid string) bool { return uids[uid] }, nil
}

func oneOf(have string, may ...string) error {
	if slices.Contains(may, have) {
		return nil
	}
	return usagef("--output %q: it may be %s", have, strings.Join(may[1:], ", "))
}

// structured prints a value as JSON or YAML; false: it is to be printed for people.
func structured(out io.Writer, format string, v any) (bool, error) {
	switch format {
	case "json":
		e := json.NewEncoder(out)
		e.SetIndent("", "    ")
		return true, e.Encode(v)
	case "yaml":
		b, err := yaml.Marshal(v)
		if err == nil {
			_, err = out.Write(b)
		}
		return true, err
	}
	return false, nil
}

func printChains(out io.Writer, format string, chains []report.Chain) error {
	if done, err := structured(out, format, chains); done {
		return err
	}
	var b strings.Builder
	for _, c := range chains {
		fmt.Fprintln(&b, c.Of)
		for _, l := range c.Links {
			fmt.Fprintf(&b, "  %-8s %-12s %s\n", l.State, l.Name, l.Text)
			if l.Act != "" {
				fmt.Fprintf(&b, "  %-8s %-12s -> %s\n", "", "", l.Act)
			}
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}
