package share

// Level says what keeps those who share a card within their shares, from the strongest to
// nothing. Its words are the reasons of the pod condition GPUShareEnforced.
type Level string

// Levels.
const (
	ByMIG      Level = "MIG"      // the card itself: memory, multiprocessors and faults are apart
	ByDriver   Level = "Driver"   // the driver refuses memory beyond the cgroup's limit
	ByMPS      Level = "MPS"      // the MPS server refuses memory and multiprocessors beyond the client's
	ByWatchdog Level = "Watchdog" // the agent sees who uses more memory, and ends it
	ByNothing  Level = "None"     // turns are taken, nothing is refused
)

// levels by strength.
var levels = []Level{ByMIG, ByDriver, ByMPS, ByWatchdog, ByNothing}

// Means are the ways that there are for one container.
type Means struct{ MIG, Driver, MPS, Watchdog bool }

// Best is the strongest of them.
func (m Means) Best() Level {
	for i, has := range []bool{m.MIG, m.Driver, m.MPS, m.Watchdog} {
		if has {
			return levels[i]
		}
	}
	return ByNothing
}

// Weaker is the weaker one of two; of none and one, the one.
func Weaker(a, b Level) Level {
	for i := len(levels) - 1; i >= 0; i-- {
		if levels[i] == a || levels[i] == b {
			return levels[i]
		}
	}
	return a
}

// Keeps says in words what a level means for a share.
func (l Level) Keeps(a Amount) string {
	cores := ""
	if a.CorePercent > 0 {
		cores = "; the multiprocessors are counted when cards are chosen, and not kept"
	}
	switch l {
	case ByMIG:
		return "the card keeps memory and multiprocessors apart"
	case ByDriver:
		return "the driver refuses more memory" + cores
	case ByMPS:
		return "the MPS server refuses more memory, and more multiprocessors where the share says how many"
	case ByWatchdog:
		return "a container that uses more memory is ended" + cores
	}
	return "nothing is refused: those who share the card take turns and can take each other's memory"
}
