package mps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const (
	// askLimit bounds one question: the daemon answers at once, or hangs.
	askLimit = 5 * time.Second
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 64 << 10
)

// command is a limit to be set, and the question whose answer shows that it is.
type command struct {
	set, get string
	holds    func(answer string) bool
}

// commands of a service's limits.
func commands(s Service) []command {
	var out []command
	if p := s.ThreadPercent; p > 0 {
		out = append(out, command{fmt.Sprintf("set_default_active_thread_percentage %d", p), "get_default_active_thread_percentage", func(answer string) bool {
			f, err := strconv.ParseFloat(answer, 64)
			return err == nil && math.Abs(f-float64(p)) < 1
		}})
	}
	for i, mib := range s.MemoryMiB {
		if mib > 0 && i < len(s.Devices) {
			// The daemon answers in a unit of its choice: that there is a limit is what can be seen.
			out = append(out, command{fmt.Sprintf("set_default_device_pinned_mem_limit %d %dM", i, mib), fmt.Sprintf("get_default_device_pinned_mem_limit %d", i), isNumber})
		}
	}
	return out
}

// isNumber tells that an answer begins with a number above 0.
func isNumber(answer string) bool { return answer != "" && answer[0] >= '1' && answer[0] <= '9' }

// obey sets a limit and reads it back.
func (d *daemon) obey(ctx context.Context, c command) error {
	if _, err := d.ask(ctx, c.set); err != nil {
		return err
	}
	answer, err := d.ask(ctx, c.get)
	if err != nil {
		return err
	}
	if !c.holds(answer) {
		return fmt.Errorf("it was told %q and answers %q to %q", c.set, answer, c.get)
	}
	return nil
}

// ping asks something that changes nothing.
func (d *daemon) ping(ctx context.Context) error {
	_, err := d.ask(ctx, "get_default_active_thread_percentage")
	return err
}

// ask gives the daemon one command through the control program.
func (d *daemon) ask(ctx context.Context, text string) (string, error) {
	program, err := d.config.Program()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program.Path)
	cmd.Env = d.env(program)
	cmd.Stdin = strings.NewReader(text + "\n")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &limited{&out, maxAnswer}, &limited{&out, maxAnswer}
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	answer := strings.TrimSpace(out.String())
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("no answer to %q in %s", text, askLimit)
	case err != nil && answer != "":
		return "", fmt.Errorf("%q: %s", text, answer)
	case err != nil:
		return "", fmt.Errorf("%q: %w", text, err)
	}
	return answer, nil
}

func (d *daemon) env(p Program) []string {
	return append([]string{"CUDA_MPS_PIPE_DIRECTORY=" + d.places.Pipe, "CUDA_MPS_LOG_DIRECTORY=" + d.places.Log}, p.Env...)
}

// limited drops what is beyond its limit.
type limited struct {
	to   io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.left)
	l.left -= n
	_, err := l.to.Write(b[:n])
	return len(b), err
}

// stop ends the daemon, whoever started it, and takes its folders away.
func (d *daemon) stop(ctx context.Context) error {
	s, _ := d.wanted()
	p, err := d.find(s)
	if err == nil && p != nil {
		defer p.close()
		_, quit := d.ask(ctx, "quit")
		if !p.gone(ctx, askLimit) {
			err = errors.Join(quit, p.kill())
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, d.exclusive(ctx, s, false), d.clear())
}
