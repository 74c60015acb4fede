// Command nvcdi prints the CDI file that NVIDIA's own generator makes on this machine,
// for the suite to compare orch's with. It needs cgo, and is a module of its own so that
// nothing of orch depends on it.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/NVIDIA/nvidia-container-toolkit/pkg/nvcdi"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	generator, err := nvcdi.New(nvcdi.WithMode(nvcdi.ModeNvml), nvcdi.WithNVIDIACDIHookPath("/none"))
	if err != nil {
		return fmt.Errorf("making the generator: %w", err)
	}
	spec, err := generator.GetSpec("all")
	if err != nil {
		return fmt.Errorf("generating: %w", err)
	}
	return json.NewEncoder(os.Stdout).Encode(spec.Raw())
}
