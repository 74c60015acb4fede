package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// target is what a figure ought to be; upstream is what Kubernetes 1.36.3 showed
// on such a machine, for comparison.
type target struct {
	figure, unit string
	want         float64 // 0: none was agreed
	atLeast      bool    // else at most
	upstream     string
}

// targets are the agreed figures, in the order of the table.
var targets = []target{
	{"first boot to /readyz", "s", 1, false, "2 to 3"},
	{"first boot to node Ready", "s", 3, false, ""},
	{"restart with 10,000 objects to /readyz", "s", 1, false, ""},
	{"create, protobuf", "/s", 4000, true, "1,371"},
	{"get, protobuf", "/s", 10000, true, "2,649"},
	{"merge patch, protobuf", "/s", 3000, true, "1,156"},
	{"list of 2,000 to the last byte, protobuf", "ms", 5, false, ""},
	{"list of 2,000 to the last byte, JSON", "ms", 10, false, ""},
	{"list of 2,000 decoded by client-go, protobuf", "ms", 0, false, "27 to 32"},
	{"list of 2,000 decoded by client-go, JSON", "ms", 0, false, "65"},
	{"create to watch event, protobuf", "ms", 0.7, false, "1.5 to 2.0"},
	{"500 pods on 20 fake nodes, bound", "/s", 2000, true, "379 to 397"},
	{"pod create to Ready, one at a time, p50", "ms", 80, false, "181 to 205"},
	{"pod create to Ready, one at a time, p99", "ms", 200, false, ""},
	{"30 pods at once, all Ready", "s", 1.2, false, "3.7"},
	{"pod delete to gone, one at a time, p50", "ms", 150, false, "1,000"},
	{"idle server with node, resident", "MB", 120, false, "674"},
	{"idle server with node, CPU over 60 s", "% of a core", 0.5, false, "4.0"},
	{"resident after six runs of load", "MB", 200, false, "1,210 (apiserver)"},
	{"list of 100,000, a selector that matches none", "ms", 100, false, ""},
	{"list of 100,000, first byte", "ms", 50, false, ""},
	{"ten lists of 100,000 at once, growth", "x one answer", 1.3, false, ""},
	{"1,000 watchers x 100 events/s, delivered", "/s", 50_000, true, ""},
	{"1,000 watchers x 100 events/s, p99", "ms", 100, false, ""},
	{"the same beside ten stalled watchers, p99", "x", 1.1, false, ""},
	{"idle with 20 CRDs, resident", "MB", 120, false, ""},
	{"idle with 20 CRDs, CPU over 60 s", "% of a core", 0.5, false, ""},
}

// row is a figure with what was measured of it, and of what goes with it.
type row struct {
	target
	values []float64
	beside []row
}

// table collects figures. The zero value is ready.
type table struct{ rows []row }

// add notes one value of a figure; figures that were not agreed come behind those
// that were.
func (t *table) add(figure, unit string, v float64) {
	i := slices.IndexFunc(t.rows, func(r row) bool { return r.figure == figure })
	if i < 0 {
		i = len(t.rows)
		r := row{target: target{figure: figure, unit: unit}}
		if k := rank(figure); k < len(targets) {
			r.target = targets[k]
		}
		t.rows = append(t.rows, r)
	}
	t.rows[i].values = append(t.rows[i].values, v)
}

// beside notes a value that explains a figure which was added before.
func (t *table) beside(figure, what, unit string, v float64) {
	for i := range t.rows {
		if t.rows[i].figure == figure {
			inner := table{t.rows[i].beside}
			inner.add(what, unit, v)
			t.rows[i].beside = inner.rows
		}
	}
}

func (t *table) addDuration(figure, unit string, d time.Duration) {
	per := map[string]time.Duration{"s": time.Second, "ms": time.Millisecond}[unit]
	t.add(figure, unit, float64(d)/float64(per))
}

func rank(figure string) int {
	if i := slices.IndexFunc(targets, func(x target) bool { return x.figure == figure }); i >= 0 {
		return i
	}
	return len(targets)
}

// print writes the table in Markdown.
func (t *table) print(w io.Writer) error {
	rows := slices.Clone(t.rows)
	slices.SortStableFunc(rows, func(a, b row) int { return rank(a.figure) - rank(b.figure) })
	var b strings.Builder
	b.WriteString("| figure | target | result (median) | each run | beside it | upstream |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r.figure, r.wanted(), r.result(), r.each(), r.notes(), r.upstream)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r row) wanted() string {
	switch {
	case r.want == 0:
		return ""
	case r.atLeast:
		return ">= " + number(r.want) + " " + r.unit
	}
	return "<= " + number(r.want) + " " + r.unit
}

func (r row) result() string {
	m := median(r.values)
	text := number(m) + " " + r.unit
	if r.want != 0 && (m < r.want) == r.atLeast && m != r.want {
		return "**" + text + "**, missed"
	}
	return text
}

func (r row) each() string {
	words := make([]string, len(r.values))
	for i, v := range r.values {
		words[i] = number(v)
	}
	return strings.Join(words, ", ")
}

func (r row) notes() string {
	var words []string
	for _, b := range r.beside {
		words = append(words, b.figure+" "+number(median(b.values))+" "+b.unit)
	}
	return strings.Join(words, ", ")
}

// number prints three digits that count.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.1 || v == 0:
		return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
	}
	return fmt.Sprintf("%.3g", v)
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return 0
	}
	if len(s)%2 == 0 {
		return (s[len(s)/2-1] + s[len(s)/2]) / 2
	}
	return s[len(s)/2]
}

// quantile of durations, which it sorts.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
