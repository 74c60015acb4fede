package nvml

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"orch/gpu/device"
	"orch/gpu/nvml/wire"
)

// killWait is how long a killed helper may take to end; longer means that the kernel
// holds it in a driver call.
const killWait = 2 * time.Second

// maxStderr bounds what is kept of what a helper says before it ends.
const maxStderr = 4 << 10

// process is one helper.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	enc    *json.Encoder
	stderr *head
	// replies are Hello and the answers in order; closed when no more come.
	replies chan wire.Line
	// done is closed when the process is gone.
	done chan struct{}
}

// start runs the helper. Events go to deliver from the reading goroutine.
func start(config Config, without string, deliver func(device.Event)) (*process, error) {
	program, err := config.Program()
	if err != nil {
		return nil, fmt.Errorf("opening the NVML helper: %w", err)
	}
	defer program.Close() // the child has its own, or was executed from it
	p := &process{stderr: &head{}, replies: make(chan wire.Line, 1), done: make(chan struct{})}
	args := []string{"-libraries=" + strings.Join(libraries(config), ","), "-without=" + without}
	p.cmd = command(config, program, args)
	p.cmd.Stderr = p.stderr
	p.cmd.Env = append([]string{}, config.Env...)
	// The child is no part of the agent's group: a Ctrl-C is for the agent, which stops it.
	p.cmd.SysProcAttr.Setpgid = true
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("making the helper's pipes: %w", err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("making the helper's pipes: %w", err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the NVML helper: %w", explain(err))
	}
	p.enc = json.NewEncoder(p.in)
	go p.read(out, deliver)
	return p, nil
}

// command says how the helper is executed: from its descriptor; below another root; or
// by a loader, which opens it by the number that it has in the child.
func command(config Config, program *os.File, args []string) *exec.Cmd {
	if config.Loader != "" {
		cmd := exec.Command(config.Loader, append([]string{"--library-path", strings.Join(folders(config.Root), ":"), "/proc/self/fd/3"}, args...)...)
		cmd.ExtraFiles = []*os.File{program}
		cmd.SysProcAttr = &syscall.SysProcAttr{}
		return cmd
	}
	cmd := exec.Command(fmt.Sprintf("/proc/self/fd/%d", program.Fd()), args...)
	cmd.Args[0] = "orch-nvml"
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if config.Chroot {
		cmd.SysProcAttr.Chroot, cmd.Dir = config.Root, "/"
	}
	return cmd
}

// explain turns the start of a dynamic program on a host without its loader, which the
// kernel calls "no such file", into what it means.
func explain(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("this host has no glibc loader for it: %w", err)
	}
	return err
}

// read hands the lines on until the helper's output ends, then waits for its end.
func (p *process) read(out io.Reader, deliver func(device.Event)) {
	err := wire.Read(out, func(l wire.Line) {
		if l.Event != nil {
			deliver(*l.Event)
			return
		}
		p.replies <- l // one call at a time: there is room for its reply
	})
	if err != nil { // else it would wait for questions, and we for its end
		fmt.Fprintf(p.stderr, "reading its answer: %v\n", err)
		_ = p.cmd.Process.Kill() // it may be gone already
	}
	_ = p.cmd.Wait() // how it ended is in ProcessState
	close(p.done)
	close(p.replies)
}

func (p *process) send(r wire.Request) error { return p.enc.Encode(r) }

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the helper and tells whether it is gone.
func (p *process) kill() bool {
	p.in.Close()
	_ = p.cmd.Process.Kill() // it may be gone already
	for {
		select {
		case <-p.done:
			return true
		case <-p.replies: // a late answer must not keep read from ending
		case <-time.After(killWait):
			return false
		}
	}
}

// undefined is what the dynamic loader says before it ends a process with status 127.
var undefined = regexp.MustCompile(`undefined symbol: (nvml\w+)`)

// how tells how a helper ended that is gone, and which function it lacked.
func (p *process) how() (text, symbol string) {
	<-p.done
	said := p.stderr.String()
	state := p.cmd.ProcessState
	if m := undefined.FindStringSubmatch(said); m != nil && state.ExitCode() == 127 {
		symbol = m[1]
	}
	text = state.String()
	if line := firstLine(said); line != "" {
		text += ": " + line
	}
	return text, symbol
}

// firstLine is the first line that says something: Go's traces put the reason first.
func firstLine(s string) string {
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
	return ""
}

// head keeps the beginning of what is written, which has the reason; the rest is dropped.
type head struct {
	mu   sync.Mutex
	text []byte
}

func (t *head) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if room := maxStderr - len(t.text); room > 0 {
		t.text = append(t.text, b[:min(room, len(b))]...)
	}
	return len(b), nil
}

func (t *head) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
