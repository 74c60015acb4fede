package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// defaultConfig is read when it exists; DIR/config.yaml.d/*.yaml beside it follow.
const defaultConfig = "/etc/orch/config.yaml"

func addConfigFlag(f *pflag.FlagSet) {
	f.StringP("config", "c", defaultConfig, "YAML file with flag names as keys; files in FILE.d are read after it")
}

// complete sets every flag that the command line leaves open, from the environment
// (ORCH_ and the flag's name in capitals, - as _; else k3s' name for it) or else from the
// config files. Files are read in order: a later one wins, a key with a + behind it appends.
func complete(f *pflag.FlagSet) error {
	given := givenFlags{}
	f.Visit(func(flag *pflag.Flag) { given.add(flag.Name) })
	if err := fromEnvironment(f, given); err != nil {
		return err
	}
	values, err := readConfig(f.Lookup("config").Value.String(), f.Changed("config"))
	if err != nil {
		return err
	}
	for _, v := range values {
		flag := f.Lookup(v.key)
		if flag == nil {
			return usagef("%s: unknown key %q", v.file, v.key)
		}
		if given[flag.Name] {
			continue
		}
		for _, s := range v.values {
			if err := f.Set(flag.Name, s); err != nil {
				return usagef("%s: key %q: %w", v.file, v.key, err)
			}
		}
	}
	return nil
}

// givenFlags are the flags that need no value from a weaker place.
type givenFlags map[string]bool

// instead are flags that say the same thing in two ways: one given on the command line
// makes the other one from the environment or a file void.
var instead = map[string]string{"token": "token-file", "token-file": "token"}

func (g givenFlags) add(name string) {
	g[name] = true
	if other := instead[name]; other != "" {
		g[other] = true
	}
}

// fromEnvironment sets what is not given, and notes it.
func fromEnvironment(f *pflag.FlagSet, given givenFlags) error {
	var errs []error
	var found []string
	f.VisitAll(func(flag *pflag.Flag) {
		if given[flag.Name] {
			return
		}
		for _, name := range environment(flag.Name) {
			v, ok := os.LookupEnv(name)
			if !ok {
				continue
			}
			found = append(found, flag.Name)
			if err := f.Set(flag.Name, v); err != nil {
				errs = append(errs, usagef("environment variable %s: %w", name, err))
			}
			return
		}
	})
	for _, name := range found {
		given.add(name)
	}
	return errors.Join(errs...)
}

// k3sNames are the flags that k3s takes from the environment, by what stands behind
// K3S_ there; ORCH_ and the same works too. Other K3S_ variables mean nothing here.
var k3sNames = map[string]string{
	"config":                 "CONFIG_FILE",
	"data-dir":               "DATA_DIR",
	"node-name":              "NODE_NAME",
	"resolv-conf":            "RESOLV_CONF",
	"server":                 "URL",
	"token":                  "TOKEN",
	"token-file":             "TOKEN_FILE",
	"write-kubeconfig":       "KUBECONFIG_OUTPUT",
	"write-kubeconfig-group": "KUBECONFIG_GROUP",
	"write-kubeconfig-mode":  "KUBECONFIG_MODE",
}

// environment lists the variables that may set a flag, the strongest first.
func environment(flag string) []string {
	names := []string{"ORCH_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))}
	if k3s := k3sNames[flag]; k3s != "" {
		if own := "ORCH_" + k3s; own != names[0] {
			names = append(names, own)
		}
		names = append(names, "K3S_"+k3s)
	}
	return names
}

// setting is one key of the config files, merged.
type setting struct {
	key, file string
	values    []string
}

// readConfig merges the main file and its drop-ins. A missing main file is an
// error only when it was asked for.
func readConfig(path string, required bool) ([]setting, error) {
	files := []string{path}
	drops, err := filepath.Glob(filepath.Join(path+".d", "*.yaml"))
	if err != nil {
		return nil, fmt.Errorf("reading %s.d: %w", path, err)
	}
	slices.Sort(drops)
	merged := map[string]setting{}
	var order []string
	for i, file := range append(files, drops...) {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) && i == 0 && !required {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the config file: %w", err)
		}
		var content map[string]any
		if err := yaml.Unmarshal(b, &content); err != nil {
			return nil, usagef("%s: %w", file, err)
		}
		for _, key := range slices.Sorted(maps.Keys(content)) { // "key" before "key+"
			v := content[key]
			values, err := scalars(v)
			if err != nil {
				return nil, usagef("%s: key %q: %w", file, key, err)
			}
			name, appends := strings.CutSuffix(key, "+")
			s := setting{name, file, values}
			if appends {
				s.values = append(slices.Clone(merged[name].values), values...)
			}
			if _, ok := merged[name]; !ok {
				order = append(order, name)
			}
			merged[name] = s
		}
	}
	slices.Sort(order)
	out := make([]setting, 0, len(order))
	for _, name := range order {
		out = append(out, merged[name])
	}
	return out, nil
}

// scalars turns a YAML value into what a flag takes: one string, or one a list item.
func scalars(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case []any:
		var out []string
		for _, item := range v {
			s, err := scalars(item)
			if err != nil {
				return nil, err
			}
			out = append(out, s...)
		}
		return out, nil
	case map[string]any:
		return nil, errors.New("a mapping where a value or a list is expected")
	case float64:
		if v == float64(int64(v)) {
			return []string{fmt.Sprint(int64(v))}, nil
		}
	}
	return []string{fmt.Sprint(v)}, nil
}
