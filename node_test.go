package main

import (
	"strings"
	"testing"
)

// TestNodeOfAnotherUser: a server that was started without root made its data directory and
// failed at the first mount, in words of the kernel.
func TestNodeOfAnotherUser(t *testing.T) {
	if err := needsRoot(0); err != nil {
		t.Error(err)
	}
	if err := needsRoot(65534); err == nil || !strings.Contains(err.Error(), "as root") {
		t.Error(err)
	}
}
