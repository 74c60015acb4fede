// Package wire is what gpu/nvml and its helper process say to each other: one JSON
// value a line, requests on the helper's standard input, replies on its standard
// output. The helper speaks first (Hello), then answers one request after the other
// under the id it came with; an Event may come between. It owns the vocabulary and its
// version and nothing else. Both ends come out of one build, so a version that
// differs means a foreign program, and is refused.
//
// Start reading at Request.
package wire

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"

	"orch/gpu/device"
)

// Version of this protocol. Both ends must have the same.
const Version = 2

// MaxLine bounds a line of either direction: a card with all profiles is 10 kB.
const MaxLine = 4 << 20

// Op is what is asked for.
type Op string

// Operations; behind each its arguments and the type of its result.
const (
	OpSystem       Op = "system"        // -> System
	OpCard         Op = "card"          // Index -> device.GPU without Peers
	OpPeers        Op = "peers"         // Index -> []device.Peer
	OpFigures      Op = "figures"       // UUID of a card -> []device.Figures: its own, then its MIG devices'
	OpProcesses    Op = "processes"     // UUID -> []device.Process
	OpWatch        Op = "watch"         // events flow from now on
	OpMIGMode      Op = "mig-mode"      // UUID, On -> bool: it took effect
	OpCreate       Op = "mig-create"    // UUID, Profile, At, Parts -> device.GPUInstance
	OpDestroy      Op = "mig-destroy"   // UUID, GI
	OpComputeMode  Op = "compute-mode"  // UUID, Mode
	OpMemoryLimits Op = "memory-limits" // UUID, Namespace, RequestBytes, LimitBytes
)

// Request is one line to the helper.
type Request struct {
	ID    uint64 `json:"id"`
	Op    Op     `json:"op"`
	Index int    `json:"index,omitempty"`
	UUID  string `json:"uuid,omitempty"`

	On           bool              `json:"on,omitempty"`
	Mode         string            `json:"mode,omitempty"`
	Profile      int               `json:"profile,omitempty"`
	At           *device.Placement `json:"at,omitempty"`
	Parts        []int             `json:"parts,omitempty"` // slices of the compute instances; none: one over all
	GI           int               `json:"gi,omitempty"`
	Namespace    string            `json:"namespace,omitempty"`
	RequestBytes uint64            `json:"requestBytes,omitempty"`
	LimitBytes   uint64            `json:"limitBytes,omitempty"`
}

// Line is one line from the helper: a Hello, an Event, or the reply to the request ID.
type Line struct {
	ID      uint64          `json:"id,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Problem *device.Problem `json:"problem,omitempty"`
	Event   *device.Event   `json:"event,omitempty"`
	Hello   *Hello          `json:"hello,omitempty"`
}

// Hello is the first line. A helper whose driver did not let it in says why and ends.
type Hello struct {
	Version int             `json:"version"`
	Library string          `json:"library,omitempty"`
	Problem *device.Problem `json:"problem,omitempty"`
}

// System is what belongs to no card.
type System struct {
	Driver  device.Driver `json:"driver"`
	Count   int           `json:"count"`
	Missing []string      `json:"missing,omitempty"`
}

// Read hands on each line of r until r ends. A line that is no JSON, or too long, is an
// error: what comes behind it cannot be trusted.
func Read[T any](r io.Reader, each func(T)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, MaxLine)
	for lines.Scan() {
		var v T
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			return fmt.Errorf("a line that is no JSON: %w", err)
		}
		each(v)
	}
	return lines.Err()
}
