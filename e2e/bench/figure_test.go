package main

import (
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	var x table
	for _, v := range []float64{3000, 5000, 4500} {
		x.add("create, protobuf", "/s", v)
	}
	x.beside("create, protobuf", "p99", "ms", 7)
	x.add("first boot to /readyz", "s", 1.25)
	x.add("something else", "ms", 0.5)
	var b strings.Builder
	if err := x.print(&b); err != nil {
		t.Fatal(err)
	}
	want := `| figure | target | result (median) | each run | beside it | upstream |
|---|---|---|---|---|---|
| first boot to /readyz | <= 1 s | **1.25 s**, missed | 1.25 |  | 2 to 3 |
| create, protobuf | >= 4000 /s | 4500 /s | 3000, 5000, 4500 | p99 7 ms | 1,371 |
| something else |  | 0.5 ms | 0.5 |  |  |
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}
