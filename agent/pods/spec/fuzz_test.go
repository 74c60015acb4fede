package spec

import (
	"reflect"
	"testing"
)

// FuzzResolver: what is read of a resolv.conf writes itself so that the same is read.
func FuzzResolver(f *testing.F) {
	f.Add("# x\nnameserver 10.0.0.1\nsearch a.b c\noptions ndots:5 edns0\n")
	f.Add("nameserver\tfe80::1%eth0\r\ndomain x\nsearch\n")
	f.Fuzz(func(t *testing.T, text string) {
		r := ParseResolver(text)
		if again := ParseResolver(r.String()); !reflect.DeepEqual(again, r) {
			t.Errorf("%q: %+v became %+v", text, r, again)
		}
	})
}
