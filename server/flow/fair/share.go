package fair

import "math"

// Share is what one level wants of the seats.
type Share struct {
	// Low and High bound what it gets; Target is what it could use.
	Low, High, Target float64
}

// minTarget stands for the target of a level that nobody uses: it gets a little of
// what is left over.
const minTarget = 0.001

// Divide gives each its Target times one fraction that is the same for all, within its
// bounds, so that everything is given out. Where the bounds do not allow that, all get
// their Low, or all their High.
func Divide(total float64, shares []Share) (seats []float64, fraction float64) {
	at := func(f float64) (sum float64) {
		for _, s := range shares {
			sum += s.seats(f)
		}
		return sum
	}
	most := 0.0
	for _, s := range shares {
		most = max(most, s.High/max(s.Target, minTarget))
	}
	low, high := 0.0, most
	// The sum grows with the fraction: halve the span until it is as exact as floats are.
	for range 200 {
		if fraction = low + (high-low)/2; at(fraction) < total {
			low = fraction
		} else {
			high = fraction
		}
	}
	seats = make([]float64, len(shares))
	for i, s := range shares {
		seats[i] = s.seats(high)
	}
	return seats, high
}

func (s Share) seats(fraction float64) float64 {
	return max(s.Low, math.Min(s.High, fraction*max(s.Target, minTarget)))
}
