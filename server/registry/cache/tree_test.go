package cache

import (
	"bytes"
	"encoding/json"
	"testing"

	kjson "sigs.k8s.io/json"
)

// FuzzTree: custom resources are written as encoding/json would.
func FuzzTree(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"b":1,"a":[true,null,"x",{"c":{}}],"":-0.5e-9}`, `{"<&>\u2028\"\\":"\u0000é\ud800\n\u007f"}`, `{"a":[],"n":9223372036854775807,"f":1e21,"g":0.000001}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m map[string]any
		if kjson.UnmarshalCaseSensitivePreserveInts(b, &m) != nil {
			return
		}
		want, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := encodeTree(m)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%v\n got %s\nwant %s", err, got, want)
		}
		if got, err = appendTree([]byte("x"), m); err != nil || string(got) != "x"+string(want) {
			t.Fatalf("%v\n got %s\nwant x%s", err, got, want)
		}
	})
}
