package device

// Figure names one number that changes by itself, with its unit.
type Figure string

// Figures of a card or of a MIG device. One that the driver does not say is absent.
const (
	SMClockMHz           Figure = "smClockMHz"
	MemClockMHz          Figure = "memClockMHz"
	TemperatureC         Figure = "temperatureC"
	MemoryTemperatureC   Figure = "memoryTemperatureC"
	PowerMilliwatt       Figure = "powerMilliwatt"
	EnergyMillijoule     Figure = "energyMillijoule" // since the driver was loaded
	PCIeReplays          Figure = "pcieReplays"
	GPUUtilPercent       Figure = "gpuUtilPercent"
	MemUtilPercent       Figure = "memUtilPercent"
	EncoderUtilPercent   Figure = "encoderUtilPercent"
	DecoderUtilPercent   Figure = "decoderUtilPercent"
	FBTotalBytes         Figure = "fbTotalBytes"
	FBFreeBytes          Figure = "fbFreeBytes"
	FBUsedBytes          Figure = "fbUsedBytes" // without the reserved part
	FBReservedBytes      Figure = "fbReservedBytes"
	NVLinkRxKiB          Figure = "nvLinkRxKiB" // all links, data only, since the driver was loaded
	NVLinkTxKiB          Figure = "nvLinkTxKiB"
	RemappedCorrectable  Figure = "remappedCorrectable"
	RemappedUncorrected  Figure = "remappedUncorrectable"
	RemapPending         Figure = "remapPending" // 0 or 1
	RemapFailure         Figure = "remapFailure" // 0 or 1
	RetiredSBE           Figure = "retiredSBE"   // pages, before Ampere
	RetiredDBE           Figure = "retiredDBE"
	RetiredPending       Figure = "retiredPending" // 0 or 1
	ECCSBEVolatile       Figure = "eccSBEVolatile"
	ECCDBEVolatile       Figure = "eccDBEVolatile"
	ECCSBEAggregate      Figure = "eccSBEAggregate"
	ECCDBEAggregate      Figure = "eccDBEAggregate"
	PowerViolationNS     Figure = "powerViolationNs"
	ThermalViolationNS   Figure = "thermalViolationNs"
	SyncBoostViolationNS Figure = "syncBoostViolationNs"
	BoardViolationNS     Figure = "boardLimitViolationNs"
	LowUtilViolationNS   Figure = "lowUtilViolationNs"
	ReliabilityNS        Figure = "reliabilityViolationNs"
	ClockEventReasons    Figure = "clockEventReasons" // bit mask of NVML
	PState               Figure = "pState"
	RecoveryActionField  Figure = "recoveryAction" // field 230, see RecoveryAction

	// The profiling figures of GPM, Hopper and newer, over the time since the last
	// reading: shares of 1, and bytes a second.
	GPMGraphics       Figure = "gpmGraphicsActive"
	GPMSM             Figure = "gpmSMActive"
	GPMOccupancy      Figure = "gpmSMOccupancy"
	GPMTensor         Figure = "gpmTensorActive"
	GPMDRAM           Figure = "gpmDRAMActive"
	GPMFP64           Figure = "gpmFP64Active"
	GPMFP32           Figure = "gpmFP32Active"
	GPMFP16           Figure = "gpmFP16Active"
	GPMPCIeTxBytesSec Figure = "gpmPCIeTxBytesPerSecond"
	GPMPCIeRxBytesSec Figure = "gpmPCIeRxBytesPerSecond"
)

// Figures are the numbers of one card or MIG device at one moment.
type Figures struct {
	UUID string `json:"uuid"`
	// UnixNano is when they were read.
	UnixNano int64 `json:"unixNano,omitempty"`
	// Values fit a float64 exactly: no counter passes 2^53 in the life of a card.
	Values map[Figure]float64 `json:"values,omitempty"`
	// Problem is what the driver answered for the whole card; some Values may still be there.
	Problem *Problem `json:"problem,omitempty"`
}

// Get returns a figure, if the driver said it.
func (f Figures) Get(name Figure) (float64, bool) {
	v, ok := f.Values[name]
	return v, ok
}

// ProcessKind is the list of NVML that a process stood in.
type ProcessKind string

// Kinds of processes.
const (
	ProcessCompute  ProcessKind = "compute"
	ProcessGraphics ProcessKind = "graphics"
	ProcessMPS      ProcessKind = "mps"
)

// Process is a process that holds memory of a card or of a MIG device.
type Process struct {
	// PID is in the helper's PID namespace, which is the agent's.
	PID  int         `json:"pid"`
	Kind ProcessKind `json:"kind"`
	// UUID is the card's, also for a process in one of its MIG devices.
	UUID string `json:"uuid"`
	// GI and CI are nil outside MIG.
	GI *int `json:"gi,omitempty"`
	CI *int `json:"ci,omitempty"`
	// UsedBytes is nil where the driver does not say (WDDM, some guests).
	UsedBytes *uint64 `json:"usedBytes,omitempty"`
	// SMPercent is the share of the multiprocessors lately; nil where unknown, always in MIG.
	SMPercent *float64 `json:"smPercent,omitempty"`
}
