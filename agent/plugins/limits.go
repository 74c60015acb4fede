package plugins

import "time"

const (
	// defaultGrace is upstream's endpointStopGracePeriod.
	defaultGrace = 5 * time.Minute

	maxRegistration = 64 << 10
	maxStreams      = 16
	maxMessage      = 4 << 20 // gRPC's own bound, which plugins know
	// maxResources and maxConnections are refused beyond.
	maxResources   = 256
	maxConnections = 4 // of one resource: a plugin being replaced has two
	// maxDevices of one resource and maxID bytes of an id: a list beyond ends the plugin's
	// connection, an id beyond is left out.
	maxDevices = 16384
	maxID      = 512

	// listsPerSecond is how often a plugin may change its mind; a quicker one is read slower.
	listsPerSecond = 10
)

// limits are how long a plugin may take.
type limits struct {
	// connect is for one that registers: until it answers what it can do.
	connect time.Duration
	// prefer is for its opinion. Other pods wait meanwhile; without the opinion any free
	// device will do.
	prefer time.Duration
	// allocate and preStart are for one container; only its pod waits.
	allocate, preStart time.Duration
}

func defaultLimits() limits {
	return limits{connect: 10 * time.Second, prefer: 2 * time.Second, allocate: 30 * time.Second, preStart: 30 * time.Second}
}
