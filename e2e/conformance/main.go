// Command conformance prints what ginkgo's JSON report of a conformance run says: a
// row per area with the numbers passed, failed and skipped, then every test that
// failed with the first line of why. It is all the code of this module, whose go.mod names what the suite
// is built from. Start reading at main.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// suite is the part of the report that counts.
type suite struct {
	SpecReports []spec
}

type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeText            string
	LeafNodeType            string
	State                   string
	RunTime                 time.Duration
	Failure                 struct{ Message string }
}

// tally counts the tests of one area.
type tally struct{ passed, failed int }

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: conformance REPORT.json")
		os.Exit(2)
	}
	b, err := os.ReadFile(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
	var suites []suite
	if err := json.Unmarshal(b, &suites); err != nil {
		fmt.Fprintf(os.Stderr, "conformance: reading %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	print(os.Stdout, suites)
}

func print(w io.Writer, suites []suite) {
	areas, total := map[string]tally{}, tally{}
	var failed []spec
	for _, s := range suites {
		for _, r := range s.SpecReports {
			if r.State == "skipped" || r.State == "pending" || (r.LeafNodeType != "It" && r.State == "passed") {
				continue
			}
			t := areas[area(r)]
			if r.State == "passed" {
				t.passed++
				total.passed++
			} else {
				t.failed++
				total.failed++
				failed = append(failed, r)
			}
			areas[area(r)] = t
		}
	}
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "AREA\tPASSED\tFAILED")
	for _, a := range slices.Sorted(maps.Keys(areas)) {
		fmt.Fprintf(tw, "%s\t%d\t%d\n", a, areas[a].passed, areas[a].failed)
	}
	fmt.Fprintf(tw, "all\t%d\t%d\n", total.passed, total.failed)
	tw.Flush()
	slices.SortFunc(failed, func(a, b spec) int { return strings.Compare(name(a), name(b)) })
	for _, r := range failed {
		fmt.Fprintf(w, "\n%s (%s, %v)\n    %s\n", name(r), r.State, r.RunTime.Round(time.Second), firstLine(r.Failure.Message))
	}
}

func name(s spec) string {
	return strings.Join(append(slices.Clone(s.ContainerHierarchyTexts), s.LeafNodeText), " ")
}

// area is the bracketed group that a test begins with, such as sig-apps.
func area(s spec) string {
	rest, ok := strings.CutPrefix(name(s), "[")
	if a, _, found := strings.Cut(rest, "]"); ok && found {
		return a
	}
	return s.LeafNodeType
}

func firstLine(s string) string {
	const most = 300
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	if len(line) > most {
		return line[:most] + "..."
	}
	return line
}
