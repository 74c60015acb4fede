// Package smi runs nvidia-smi of the driver's own files, for what NVML has no call. It owns the
// words that the program is given, and refuses to know where its files lie (gpu/cdi) and what
// is wanted of a card (gpu/params). Start reading at Program.SetTimeSlice.
package smi

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Name of the program, in the driver's files.
const Name = "nvidia-smi"

// limit bounds one run; a driver that hangs does not hold a pod for longer.
const limit = 15 * time.Second

// maxAnswer bounds what is told of an answer, in bytes.
const maxAnswer = 512

// Program is nvidia-smi, and what its environment needs to find the driver's library.
type Program struct {
	Path string
	Env  []string
}

// TimeSlices are the lengths that nvidia-smi knows, by its numbers: how long one process has a
// card while others wait for it.
var TimeSlices = []string{"Default", "Short", "Medium", "Long"}

// SetTimeSlice sets a card's time slice to one of TimeSlices. It stays until it is set again, or
// the driver is loaded anew.
func (p Program) SetTimeSlice(ctx context.Context, card, length string) error {
	for i, name := range TimeSlices {
		if name == length {
			return p.run(ctx, "compute-policy", "-i", card, "--set-timeslice", strconv.Itoa(i))
		}
	}
	return fmt.Errorf("no time slice is called %q", length)
}

func (p Program) run(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Path, args...)
	cmd.Env, cmd.WaitDelay = p.Env, time.Second
	out, err := cmd.CombinedOutput()
	said := strings.Join(strings.Fields(string(out[:min(len(out), maxAnswer)])), " ")
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s %s: no answer in %s", Name, args[0], limit)
	case err != nil && said != "":
		return fmt.Errorf("%s %s: %s (%w)", Name, args[0], said, err)
	case err != nil:
		return fmt.Errorf("%s %s: %w", Name, args[0], err)
	}
	return nil
}
