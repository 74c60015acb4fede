package oci

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// process sets what runs, where and with which environment.
func process(in Input, out *specs.Spec) error {
	s, p := in.Spec, out.Process
	command, args := s.Command, s.Args
	if len(command) == 0 {
		command = in.Image.Entrypoint
		if len(args) == 0 {
			args = in.Image.Cmd
		}
	}
	p.Args = slices.Concat(command, args)
	if len(p.Args) == 0 {
		return errors.New("no command specified")
	}
	p.Cwd = "/"
	if in.Image.WorkingDir != "" {
		p.Cwd = in.Image.WorkingDir
	}
	if s.WorkingDir != "" {
		p.Cwd = s.WorkingDir
	}
	if !strings.HasPrefix(p.Cwd, "/") {
		p.Cwd = "/" + p.Cwd
	}
	env := []string{defaultPath}
	if s.TTY {
		env = append(env, "TERM=xterm")
	}
	env = mergeEnv(env, in.Image.Env)
	if s.Hostname != "" {
		env = mergeEnv(env, []string{"HOSTNAME=" + s.Hostname})
	}
	p.Env = mergeEnv(env, s.Env)
	return nil
}

// MergeEnv adds entries to env; a later value of a name takes the earlier one's place.
func MergeEnv(env, more []string) []string { return mergeEnv(slices.Clone(env), more) }

func mergeEnv(env, more []string) []string {
	at := make(map[string]int, len(env)+len(more))
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		at[name] = i
	}
	for _, e := range more {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := at[name]; ok {
			env[i] = e
			continue
		}
		at[name] = len(env)
		env = append(env, e)
	}
	return env
}

// account is a line of /etc/passwd.
type account struct {
	name     string
	uid, gid uint32
}

// group is a line of /etc/group.
type group struct {
	name    string
	gid     uint32
	members []string
}

// user finds who the process is: the spec's numbers, else the image's USER,
// with the groups that the image's /etc/group gives.
func user(in Input, out *specs.Spec) error {
	accounts, err := readTable(in, "/etc/passwd", parseAccount)
	if err != nil {
		return err
	}
	groups, err := readTable(in, "/etc/group", parseGroup)
	if err != nil {
		return err
	}
	u := &out.Process.User
	var name string
	if name, err = primary(in, accounts, groups, u); err != nil {
		return err
	}
	all := []uint32{u.GID}
	if !in.Spec.User.StrictGroups && name != "" {
		for _, g := range groups {
			if slices.Contains(g.members, name) {
				all = append(all, g.gid)
			}
		}
	}
	for _, g := range in.Spec.User.Groups {
		all = append(all, uint32(g))
	}
	for _, g := range all {
		if !slices.Contains(u.AdditionalGids, g) {
			u.AdditionalGids = append(u.AdditionalGids, g)
		}
	}
	return nil
}

// primary sets uid and gid and returns the account's name, empty if it has none.
func primary(in Input, accounts []account, groups []group, u *specs.User) (string, error) {
	userPart, groupPart, _ := strings.Cut(in.Image.User, ":")
	if in.Spec.User.UID != nil {
		userPart, groupPart = strconv.FormatInt(*in.Spec.User.UID, 10), ""
	}
	if userPart == "" {
		userPart = "0"
	}
	var name string
	if n, err := strconv.ParseUint(userPart, 10, 32); err == nil {
		u.UID = uint32(n)
		for _, a := range accounts {
			if a.uid == u.UID {
				name, u.GID = a.name, a.gid
				break
			}
		}
	} else {
		i := slices.IndexFunc(accounts, func(a account) bool { return a.name == userPart })
		if i < 0 {
			return "", fmt.Errorf("container spec: image has no user %q in /etc/passwd", userPart)
		}
		name, u.UID, u.GID = userPart, accounts[i].uid, accounts[i].gid
	}
	switch {
	case in.Spec.User.GID != nil:
		u.GID = uint32(*in.Spec.User.GID)
	case groupPart == "":
	default:
		if n, err := strconv.ParseUint(groupPart, 10, 32); err == nil {
			u.GID = uint32(n)
			break
		}
		i := slices.IndexFunc(groups, func(g group) bool { return g.name == groupPart })
		if i < 0 {
			return "", fmt.Errorf("container spec: image has no group %q in /etc/group", groupPart)
		}
		u.GID = groups[i].gid
	}
	return name, nil
}

// readTable reads a colon-separated file of the image; lines that make no sense are left out.
func readTable[T any](in Input, path string, parse func([]string) (T, bool)) ([]T, error) {
	if in.ReadFile == nil {
		return nil, nil
	}
	b, err := in.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("container spec: reading %s of the image: %w", path, err)
	}
	var out []T
	for line := range bytes.Lines(b) {
		text := strings.TrimSpace(string(line))
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if v, ok := parse(strings.Split(text, ":")); ok {
			out = append(out, v)
		}
	}
	return out, nil
}

func parseAccount(f []string) (account, bool) {
	if len(f) < 4 {
		return account{}, false
	}
	uid, err1 := strconv.ParseUint(f[2], 10, 32)
	gid, err2 := strconv.ParseUint(f[3], 10, 32)
	return account{f[0], uint32(uid), uint32(gid)}, err1 == nil && err2 == nil
}

func parseGroup(f []string) (group, bool) {
	if len(f) < 4 {
		return group{}, false
	}
	gid, err := strconv.ParseUint(f[2], 10, 32)
	return group{f[0], uint32(gid), strings.Split(f[3], ",")}, err == nil
}
