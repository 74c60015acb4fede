package job

import "testing"

// FuzzIndexes: what is read of an annotation lies below completions, in order and apart,
// and is read back from its text.
func FuzzIndexes(f *testing.F) {
	f.Add("0-2,4,7-9", 10)
	f.Add("5-1,-1,3-,9999999999999999999", 6)
	f.Fuzz(func(t *testing.T, s string, completions int) {
		x := parseIndexes(s, completions)
		last := -2
		for _, r := range x {
			if r.from <= last+1 || r.to < r.from || r.to >= completions {
				t.Fatalf("%q gave %v", s, x)
			}
			last = r.to
		}
		if again := parseIndexes(x.String(), completions); again.String() != x.String() {
			t.Errorf("%q: %v became %v", s, x, again)
		}
	})
}
