package alloc

import "testing"

// FuzzShare: an id is of another kind, or that of the share it is read as.
func FuzzShare(f *testing.F) {
	f.Add("GPU-1::share-3.1024m.50c")
	f.Add("GPU-1::7")
	f.Add("::share-0.0m.0c")
	f.Fuzz(func(t *testing.T, id string) {
		s, ok := ParseShare(id)
		if !ok {
			return
		}
		if again, ok := ParseShare(s.ID()); !ok || again != s {
			t.Errorf("%q: %+v became %+v", id, s, again)
		}
	})
}
