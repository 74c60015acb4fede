//go:build cgo

package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"orch/gpu/device"
	"orch/gpu/nvml/wire"
)

func main() {
	libraries := flag.String("libraries", "libnvidia-ml.so.1", "names or paths to try, with commas between")
	without := flag.String("without", "", "functions to do without, with commas between")
	flag.Parse()
	debug.SetGCPercent(50) // the heap is a few hundred kB of JSON; resident size is the budget
	if err := serve(strings.Split(*libraries, ","), strings.Split(*without, ","), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(1)
	}
}

// output serialises lines: replies and events come from two threads.
type output struct {
	mu  sync.Mutex
	enc *json.Encoder
}

func (o *output) send(l wire.Line) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.enc.Encode(l)
}

// serve opens the driver, says so, and answers until in ends.
func serve(libraries, without []string, in io.Reader, out io.Writer) error {
	w := &output{enc: json.NewEncoder(out)}
	s, path, bad := open(libraries, without)
	if err := w.send(wire.Line{Hello: &wire.Hello{Version: wire.Version, Library: path, Problem: bad}}); err != nil || bad != nil {
		return err
	}
	requests := make(chan wire.Request)
	go read(in, requests)
	for r := range requests {
		line := wire.Line{ID: r.ID}
		result, bad := s.answer(r, w)
		if bad != nil {
			line.Problem = bad
		} else if b, err := json.Marshal(result); err != nil {
			line.Problem = &device.Problem{Op: string(r.Op), Code: device.CodeProtocol, Text: err.Error()}
		} else {
			line.Result = b
		}
		if err := w.send(line); err != nil {
			return fmt.Errorf("answering: %w", err)
		}
	}
	return nil
}

// read hands the requests over. When the agent is gone the process ends at once, in
// the middle of a call if need be: nobody waits for it, and it holds device nodes.
func read(in io.Reader, to chan<- wire.Request) {
	if err := wire.Read(in, func(r wire.Request) { to <- r }); err != nil {
		fmt.Fprintln(os.Stderr, "helper: reading a request:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// open tries the libraries in turn; the first that is there decides.
func open(libraries, without []string) (*session, string, *device.Problem) {
	bad := &device.Problem{Op: "nvmlInit", Code: device.CodeLibraryNotFound, Text: "no library given"}
	for _, path := range libraries {
		lib := nvml.New(nvml.WithLibraryPath(path))
		ret := lib.Init()
		switch ret {
		case nvml.SUCCESS:
			return newSession(lib, without), path, nil
		case nvml.ERROR_LIBRARY_NOT_FOUND:
			bad = &device.Problem{Op: "nvmlInit", Code: int(ret), Text: "libnvidia-ml.so.1 was not found"}
		default:
			return nil, path, &device.Problem{Op: "nvmlInit", Code: int(ret), Text: ret.Error()}
		}
	}
	return nil, "", bad
}
