// Package inventory owns what this node knows of its GPUs: one Machine value, kept
// current by events (the driver's, the bus's, the kernel log's) and never by polling,
// the health of each card, and the sentence for a person when the driver does not
// work. It finds nothing itself: Sources do (gpu/nvml, gpu/sysfs, gpu/fakenvml). It
// gives nothing out: allocation, labels, metrics and injection read its State. It
// refuses to let one card's error reach another card.
//
// Start reading at State and Source, then Inventory.Run. Diagnose (diagnose.go) is the
// pure part that says what is wrong with a driver; gpu/health decides about cards.
package inventory

import (
	"context"

	"orch/gpu/device"
)

// Source is who can say what GPUs a machine has. An error is a *device.Problem where
// the driver answered with one.
type Source interface {
	// Machine reads everything. A card that does not answer is in it, with its Problem.
	Machine(ctx context.Context) (device.Machine, error)
	// Watch hands events to each, one after the other, until ctx ends (nil) or events
	// cannot be had any more (an error; then the source is asked again later).
	Watch(ctx context.Context, each func(device.Event)) error
}
