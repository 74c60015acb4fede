package health

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Class is what an error means for the card.
type Class string

// Classes of errors, from harmless to final.
const (
	ClassNote   Class = "note"   // worth an event, nothing else
	ClassApp    Class = "app"    // a program's own fault: its pod is told, the card serves on
	ClassDoubt  Class = "doubt"  // the card is asked how it is before it is given out again
	ClassReset  Class = "reset"  // what runs on it is lost, and it must be reset
	ClassReboot Class = "reboot" // only a reboot of the node brings it back
	ClassFail   Class = "fail"   // a person must look at the hardware
)

// XID is a row of NVIDIA's catalogue.
type XID struct {
	Number int
	Class  Class
	Text   string
	// Contained: on a partitioned card the error stays in one MIG device.
	Contained bool
}

// catalogue is by number. What stands nowhere is ClassDoubt: the card is asked.
var catalogue = []XID{
	{8, ClassApp, "GPU stopped processing", true},
	{11, ClassApp, "invalid or corrupted push buffer stream", true},
	{12, ClassDoubt, "driver error handling a GPU exception", false},
	{13, ClassApp, "graphics engine exception", true},
	{16, ClassNote, "display engine hung", false},
	{18, ClassDoubt, "bus mastering disabled in PCI config space", false},
	{19, ClassNote, "display engine error", false},
	{20, ClassApp, "invalid or corrupted MPEG push buffer", true},
	{21, ClassApp, "invalid or corrupted motion estimation push buffer", true},
	{22, ClassApp, "invalid or corrupted video processor push buffer", true},
	{24, ClassDoubt, "GPU semaphore timeout", false},
	{25, ClassApp, "invalid or illegal push buffer stream", true},
	{26, ClassDoubt, "framebuffer timeout", false},
	{27, ClassApp, "video processor exception", true},
	{28, ClassApp, "video processor exception", true},
	{29, ClassApp, "video processor exception", true},
	{30, ClassDoubt, "GPU semaphore access error", false},
	{31, ClassApp, "GPU memory page fault", true},
	{32, ClassApp, "invalid or corrupted push buffer stream", true},
	{33, ClassDoubt, "internal micro-controller error", false},
	{34, ClassApp, "video processor exception", true},
	{35, ClassApp, "video processor exception", true},
	{36, ClassApp, "video processor exception", true},
	{37, ClassDoubt, "driver firmware error", false},
	{38, ClassDoubt, "driver firmware error", false},
	{39, ClassApp, "copy engine exception", true},
	{40, ClassApp, "copy engine exception", true},
	{41, ClassApp, "copy engine exception", true},
	{42, ClassApp, "video processor exception", true},
	{43, ClassApp, "GPU stopped processing", true},
	{44, ClassDoubt, "graphics engine fault during context switch", true},
	{45, ClassApp, "preemptive cleanup, due to previous errors", true},
	{46, ClassReset, "GPU stopped processing", false},
	{47, ClassApp, "video processor exception", true},
	{48, ClassReset, "double bit ECC error", false},
	{54, ClassFail, "auxiliary power is not connected to the GPU board", false},
	{56, ClassNote, "display engine error", false},
	{57, ClassDoubt, "error programming the video memory interface", false},
	{58, ClassReset, "unstable video memory interface detected", false},
	{59, ClassDoubt, "internal micro-controller error", false},
	{60, ClassApp, "video processor exception", true},
	{61, ClassReset, "internal micro-controller breakpoint or warning", false},
	{62, ClassReset, "internal micro-controller halt", false},
	{63, ClassDoubt, "ECC page retirement or row remapping recorded", false},
	{64, ClassReset, "ECC page retirement or row remapping could not be recorded", false},
	{65, ClassApp, "video processor exception", true},
	{66, ClassDoubt, "illegal access by the driver", false},
	{67, ClassDoubt, "illegal access by the driver", false},
	{68, ClassApp, "NVDEC0 exception", true},
	{69, ClassApp, "graphics engine class error", true},
	{73, ClassApp, "NVENC2 error", true},
	{74, ClassReset, "NVLink error", false},
	{78, ClassNote, "vGPU start error", false},
	{79, ClassReboot, "GPU has fallen off the bus", false},
	{80, ClassReset, "corrupted data sent to the GPU", false},
	{81, ClassDoubt, "VGA subsystem error", false},
	{82, ClassApp, "NVJPG0 error", true},
	{83, ClassApp, "NVDEC1 error", true},
	{84, ClassApp, "NVDEC2 error", true},
	{86, ClassApp, "OFA exception", true},
	{92, ClassDoubt, "high single-bit ECC error rate", false},
	{93, ClassNote, "InfoROM wear limit passed", false},
	{94, ClassDoubt, "contained memory error", true},
	{95, ClassReset, "uncontained memory error", false},
	{96, ClassApp, "NVDEC3 error", true},
	{97, ClassApp, "NVDEC4 error", true},
	{98, ClassApp, "NVDEC5 error", true},
	{99, ClassApp, "NVDEC6 error", true},
	{100, ClassApp, "NVDEC7 error", true},
	{109, ClassApp, "context switch timeout", true},
	{110, ClassReset, "security fault", false},
	{119, ClassReset, "GSP RPC timeout", false},
	{120, ClassReset, "GSP error", false},
	{121, ClassDoubt, "C2C link error", false},
	{122, ClassNote, "SPI read failure", false},
	{123, ClassNote, "SPI write failure", false},
	{124, ClassNote, "SPI erase failure", false},
	{125, ClassNote, "InfoROM file system failure", false},
	{136, ClassReset, "NVLink training failed", false},
	{137, ClassApp, "NVLink privilege error", true},
	{140, ClassReset, "unrecovered ECC error", false},
	{143, ClassReset, "GPU initialization failure", false},
	{144, ClassReset, "NVLink SAW error", false},
	{145, ClassReset, "NVLink RLW error", false},
	{146, ClassReset, "NVLink TLW error", false},
	{147, ClassReset, "NVLink TREX error", false},
	{148, ClassReset, "NVLink control error", false},
	{149, ClassReset, "NVLink NETIR error", false},
	{150, ClassReset, "NVLink MSE error", false},
	{151, ClassReset, "key rotation error", false},
	{154, ClassDoubt, "GPU recovery action changed", false},
	{155, ClassReset, "NVLink software-defined error", false},
	{156, ClassDoubt, "resource retirement event", false},
	{157, ClassReset, "resource retirement failure", false},
	{158, ClassReset, "GPU fatal timeout", false},
	{159, ClassDoubt, "CHI non-data error", false},
	{160, ClassDoubt, "channel retirement event", false},
	{161, ClassReset, "channel retirement failure", false},
	{167, ClassReboot, "PCIe fatal timeout", false},
	{168, ClassDoubt, "reduced GPU memory capacity", false},
	{169, ClassReset, "security processor halt", false},
	{171, ClassReset, "uncorrectable DRAM error", false},
	{172, ClassReset, "uncorrectable SRAM error", false},
	{173, ClassReboot, "C2C fatal link failure", false},
}

// Catalogue returns the rows, by number.
func Catalogue() []XID { return slices.Clone(catalogue) }

// Lookup returns a row; one that is not in the catalogue is a doubt.
func Lookup(number int) XID {
	i, ok := slices.BinarySearchFunc(catalogue, number, func(x XID, n int) int { return x.Number - n })
	if !ok {
		return XID{Number: number, Class: ClassDoubt, Text: "an error that NVIDIA's catalogue does not name here"}
	}
	return catalogue[i]
}

// alwaysIgnored are the errors that NVIDIA's device plugin never counts against a card
// unless it is told to.
var alwaysIgnored = []int{13, 31, 43, 45, 68, 109}

// Policy is which errors count, as DP_DISABLE_HEALTHCHECKS and DP_ENABLE_HEALTHCHECKS
// of NVIDIA's device plugin say.
type Policy struct {
	// Disabled: no error of a card counts, only that it is there.
	Disabled bool
	// Ignored errors are notes; Enabled ones count although they are programs' own.
	Ignored, Enabled map[int]bool
	// EnableAll makes every error count.
	EnableAll bool
}

// ParsePolicy reads the two variables. What is neither "all", "xids" nor a number is
// named in the error; the rest counts.
func ParsePolicy(disable, enable string) (Policy, error) {
	p := Policy{Ignored: map[int]bool{}, Enabled: map[int]bool{}}
	for _, n := range alwaysIgnored {
		p.Ignored[n] = true
	}
	var wrong []string
	list := func(s string, all *bool, into map[int]bool) {
		for word := range strings.SplitSeq(s, ",") {
			word = strings.ToLower(strings.TrimSpace(word))
			n, err := strconv.Atoi(word)
			switch {
			case word == "":
			case word == "all" || word == "xids":
				*all = true
			case err == nil && n > 0:
				into[n] = true
			default:
				wrong = append(wrong, word)
			}
		}
	}
	list(disable, &p.Disabled, p.Ignored)
	list(enable, &p.EnableAll, p.Enabled)
	if len(wrong) > 0 {
		return p, fmt.Errorf("reading which health checks count: not understood: %s (all, xids or XID numbers)", strings.Join(wrong, ", "))
	}
	return p, nil
}

// class of an error under the policy.
func (p Policy) class(x XID) Class {
	enabled := p.EnableAll || p.Enabled[x.Number]
	switch {
	case enabled && x.Class == ClassApp:
		return ClassDoubt
	case enabled:
		return x.Class
	case x.Class == ClassApp:
		return ClassApp
	case p.Disabled || p.Ignored[x.Number]:
		return ClassNote
	}
	return x.Class
}
