package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	cnitypes "github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"orch/network/netns"
	"orch/network/rules"
)

// call is one invocation of a plugin: what a process would find in its
// environment and standard input.
type call struct {
	command, id, netns, ifname, args string
	conf                             []byte
	environ                          []string
}

// plugin is a built-in plugin type. Its result is nil for all but ADD.
type plugin func(ctx context.Context, c *call) (*current.Result, error)

// executor finds and runs plugins for libcni; it implements invoke.Exec.
type executor struct {
	version.PluginDecoder
	n       *Network
	builtin map[string]plugin
}

var _ invoke.Exec = (*executor)(nil)

// builtinPath marks a plugin that is a function.
const builtinPath = "builtin:"

var supported = version.VersionsStartingFrom("0.3.0")

var protocols = map[string]rules.Proto{"tcp": rules.TCP, "udp": rules.UDP, "sctp": rules.SCTP, "TCP": rules.TCP, "UDP": rules.UDP, "SCTP": rules.SCTP, "": rules.TCP}

func newExecutor(n *Network) *executor {
	e := &executor{n: n}
	e.builtin = map[string]plugin{"bridge": e.bridge, "host-local": e.hostLocal, "portmap": e.portmap, "loopback": e.loopback, "bandwidth": e.bandwidth}
	return e
}

// FindInPath prefers the built-in types.
func (e *executor) FindInPath(name string, paths []string) (string, error) {
	if e.builtin[name] != nil {
		return builtinPath + name, nil
	}
	path, err := invoke.FindInPath(name, paths)
	if err != nil {
		return "", fmt.Errorf("network plugin %q is neither built in nor in %s: %w", name, strings.Join(paths, ":"), err)
	}
	return path, nil
}

// ExecPlugin calls the function, or runs the program in the node's namespace.
func (e *executor) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	name, is := strings.CutPrefix(path, builtinPath)
	if !is {
		return e.process(ctx, path, stdin, environ)
	}
	c := readCall(stdin, environ)
	if c.command == "VERSION" {
		var out bytes.Buffer
		err := supported.Encode(&out)
		return out.Bytes(), err
	}
	result, err := e.builtin[name](ctx, c)
	if unsupported := (errUnsupported{}); errors.As(err, &unsupported) {
		// The configuration asks for more than the function can; the program may.
		if program, ferr := invoke.FindInPath(name, e.n.cfg.BinDirs); ferr == nil {
			return e.process(ctx, program, stdin, environ)
		}
	}
	if err != nil || result == nil {
		return nil, err
	}
	return encode(result, c.conf)
}

// errUnsupported names an option that a built-in plugin doesn't have.
type errUnsupported struct{ plugin, option string }

func (e errUnsupported) Error() string {
	return fmt.Sprintf("the built-in plugin %s does not know the option %q (remedy: put the plugin's program into /opt/cni/bin)", e.plugin, e.option)
}

// refuse returns errUnsupported when the configuration has one of the options.
func refuse(name string, conf []byte, options ...string) error {
	var have map[string]json.RawMessage
	if err := json.Unmarshal(conf, &have); err != nil {
		return fmt.Errorf("reading the configuration of plugin %s: %w", name, err)
	}
	for _, o := range options {
		switch strings.TrimSpace(string(have[o])) {
		case "", "false", "null", "0", `""`, "[]":
		default:
			return errUnsupported{name, o}
		}
	}
	return nil
}

func readCall(stdin []byte, environ []string) *call {
	c := &call{conf: stdin, environ: environ}
	for _, kv := range environ {
		switch k, v, _ := strings.Cut(kv, "="); k {
		case "CNI_COMMAND":
			c.command = v
		case "CNI_CONTAINERID":
			c.id = v
		case "CNI_NETNS":
			c.netns = v
		case "CNI_IFNAME":
			c.ifname = v
		case "CNI_ARGS":
			c.args = v
		}
	}
	return c
}

// encode writes a result in the version that the configuration speaks.
func encode(result *current.Result, conf []byte) ([]byte, error) {
	var want struct{ CNIVersion string }
	if err := json.Unmarshal(conf, &want); err != nil {
		return nil, fmt.Errorf("reading a plugin configuration: %w", err)
	}
	if want.CNIVersion == "" {
		want.CNIVersion = "0.3.0" // the oldest that we speak
	}
	r, err := result.GetAsVersion(want.CNIVersion)
	if err != nil {
		return nil, fmt.Errorf("converting a plugin result: %w", err)
	}
	return json.Marshal(r)
}

// previous reads the result of the plugin before in the chain; nil when there is none.
func previous(conf []byte) (*current.Result, error) {
	var c cnitypes.PluginConf
	if err := json.Unmarshal(conf, &c); err != nil {
		return nil, fmt.Errorf("reading a plugin configuration: %w", err)
	}
	if err := version.ParsePrevResult(&c); err != nil {
		return nil, fmt.Errorf("reading the previous plugin's result: %w", err)
	}
	if c.PrevResult == nil {
		return nil, nil
	}
	return current.NewResultFromResult(c.PrevResult)
}

// process runs a plugin program. Its errors are JSON on the standard output.
func (e *executor) process(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, bytes.NewReader(stdin), &out, &errs
	err := netns.Do(e.n.cfg.NetNS, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err == nil {
		return out.Bytes(), nil
	}
	var said cnitypes.Error
	if json.Unmarshal(out.Bytes(), &said) == nil && said.Msg != "" {
		return nil, &said
	}
	return nil, fmt.Errorf("running network plugin %s: %w: %s", path, err, strings.TrimSpace(errs.String()+" "+out.String()))
}

// delegate calls the address plugin that a configuration names.
func (e *executor) delegate(ctx context.Context, kind string, c *call) (*current.Result, error) {
	path, err := e.FindInPath(kind, e.n.cfg.BinDirs)
	if err != nil {
		return nil, err
	}
	out, err := e.ExecPlugin(ctx, path, c.conf, c.environ)
	if err != nil || c.command != "ADD" {
		return nil, err
	}
	var head struct{ CNIVersion string }
	if err := json.Unmarshal(c.conf, &head); err != nil {
		return nil, fmt.Errorf("reading a plugin configuration: %w", err)
	}
	if head.CNIVersion == "" {
		head.CNIVersion = "0.3.0"
	}
	r, err := version.NewResult(head.CNIVersion, out)
	if err != nil {
		return nil, fmt.Errorf("reading the result of plugin %s: %w", kind, err)
	}
	return current.NewResultFromResult(r)
}
