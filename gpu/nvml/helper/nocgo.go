//go:build !cgo

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "helper: built without cgo: it cannot load a driver's library")
	os.Exit(69)
}
