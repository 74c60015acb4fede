package devices

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// A ledger is version 1 as long as nothing is in it that an orch which knows no claims
// would give to somebody else; with claims it is version 2.
const (
	ledgerVersion = 1
	claimsVersion = 2
)

// ledger says who holds what. It is a value: a change makes a new one, which counts
// once it is on the disk.
type ledger struct {
	Version int                      `json:"version"`
	Pods    map[types.UID]podDevices `json:"pods"`
	Claims  map[types.UID]Claim      `json:"claims,omitempty"`
}

type podDevices struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Containers have ids by resource.
	Containers map[string]map[string][]string `json:"containers"`
	// Answers are what the providers said of those ids when they were asked to prepare
	// them, by container and resource. An older orch drops them and they are asked again.
	Answers map[string]map[string][]byte `json:"answers,omitempty"`
}

func readLedger(path string) (ledger, error) {
	empty := ledger{Version: ledgerVersion, Pods: map[types.UID]podDevices{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return empty, fmt.Errorf("reading the device ledger: %w", err)
	}
	l := empty
	if err := json.Unmarshal(b, &l); err != nil {
		return empty, fmt.Errorf("reading the device ledger %s: %w; drain the node and delete the file", path, err)
	}
	if l.Version != ledgerVersion && l.Version != claimsVersion {
		return empty, fmt.Errorf("reading the device ledger %s: it has version %d, this orch knows %d; use the newer orch, or drain the node and delete the file", path, l.Version, claimsVersion)
	}
	if l.Pods == nil {
		l.Pods = empty.Pods
	}
	return l, nil
}

// write puts the ledger on the disk: the file is whole and new, or whole and old.
func (l ledger) write(path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing the device ledger: %w", err)
		}
	}()
	if l.Version = ledgerVersion; len(l.Claims) > 0 {
		l.Version = claimsVersion
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (l ledger) without(gone func(types.UID) bool) ledger {
	out := ledger{Version: l.Version, Pods: make(map[types.UID]podDevices, len(l.Pods)), Claims: l.Claims}
	for uid, p := range l.Pods {
		if !gone(uid) {
			out.Pods[uid] = p
		}
	}
	return out
}

func (l ledger) with(uid types.UID, p podDevices) ledger {
	out := l.without(func(u types.UID) bool { return u == uid })
	out.Pods[uid] = p
	return out
}

// knows tells whether a pod holds something: most pods of a node do not.
func (l ledger) knows(pod types.UID) bool {
	if _, ok := l.Pods[pod]; ok {
		return true
	}
	for _, c := range l.Claims {
		if _, ok := c.Pods[pod]; ok {
			return true
		}
	}
	return false
}

func (l ledger) holdings() []Holding {
	var out []Holding
	for uid, p := range l.Pods {
		for container, held := range p.Containers {
			for name, ids := range held {
				out = append(out, Holding{UID: uid, Namespace: p.Namespace, Pod: p.Name, Container: container, Name: name, IDs: slices.Clone(ids)})
			}
		}
	}
	for _, c := range l.Claims {
		out = append(out, c.holdings()...)
	}
	slices.SortFunc(out, func(a, b Holding) int {
		return strings.Compare(a.key(), b.key())
	})
	return out
}

// holdings of a claim are those of the containers that use it; one of the claim alone where
// no container does.
func (c Claim) holdings() []Holding {
	var out []Holding
	for _, driver := range sorted(c.Drivers) {
		for _, d := range c.Drivers[driver].Devices {
			if d.Part == "" {
				continue
			}
			of := ClaimHolding{UID: c.UID, Name: c.Name, Driver: driver, Pool: d.Pool, Device: d.Device, Admin: d.Admin}
			used := false
			for uid, p := range c.Pods {
				for container, requests := range p.Containers {
					if slices.ContainsFunc(requests, func(r ClaimRequest) bool { return d.For(r.Request) }) {
						used = true
						out = append(out, Holding{UID: uid, Namespace: c.Namespace, Pod: p.Name, Container: container, IDs: []string{d.Part}, Claim: of})
					}
				}
			}
			for uid, p := range c.Pods {
				if !used {
					out = append(out, Holding{UID: uid, Namespace: c.Namespace, Pod: p.Name, IDs: []string{d.Part}, Claim: of})
				}
			}
			if len(c.Pods) == 0 {
				out = append(out, Holding{Namespace: c.Namespace, IDs: []string{d.Part}, Claim: of})
			}
		}
	}
	return out
}

func (h Holding) key() string {
	key := []string{h.Namespace, h.Pod, string(h.UID), h.Container, h.Name}
	if h.Claimed() {
		key = append(key, h.Claim.Name, h.Claim.Device)
	}
	return strings.Join(key, "/")
}
