package apply

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

func TestMergePatch(t *testing.T) {
	tests := []struct{ doc, patch, want string }{ // the examples of RFC 7396 that start from an object
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{`{"a\"b":1,"c":"}\\"}`, ` { "a\"b" : { "x" : [ 1 , {"y":null} ] } } `, `{"a\"b":{"x":[ 1 , {"y":null} ]},"c":"}\\"}`},
		{`{"a":"b"}`, `{"x":1,"x":2}`, `{"a":"b","x":2}`},
		{`{"\u003c":1}`, `{"<":2}`, `{"\u003c":2}`},
	}
	for _, tt := range tests {
		got, err := mergePatch([]byte(tt.doc), []byte(tt.patch))
		if err != nil || string(got) != tt.want {
			t.Errorf("%s + %s = %s %v, want %s", tt.doc, tt.patch, got, err, tt.want)
		}
	}
	for _, bad := range []string{"", "[]", `"x"`, `{"a":}`, `{"a":1`, `{a:1}`, "null"} {
		if out, err := mergePatch([]byte(`{"a":1}`), []byte(bad)); err == nil {
			t.Errorf("%q was taken: %s", bad, out)
		}
	}
}

// TestMergeSameAsLibrary compares with the library that upstream uses.
func TestMergeSameAsLibrary(t *testing.T) {
	for seed := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		doc, _ := json.Marshal(randomObject(rnd, 3, false))
		patch, _ := json.Marshal(randomObject(rnd, 3, true))
		want, err := jsonpatch.MergePatch(doc, patch)
		if err != nil {
			t.Fatal(err)
		}
		got, err := mergePatch(doc, patch)
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if json.Unmarshal(want, &a) != nil || json.Unmarshal(got, &b) != nil || !reflect.DeepEqual(a, b) {
			t.Fatalf("seed %d: %s + %s\n got %s\nwant %s", seed, doc, patch, got, want)
		}
	}
}

func randomObject(r *rand.Rand, depth int, nulls bool) map[string]any {
	out := map[string]any{}
	for range r.IntN(5) {
		k := fmt.Sprintf("k%d\"", r.IntN(6))
		switch n := r.IntN(6); {
		case n == 0 && nulls:
			out[k] = nil
		case n <= 2 && depth > 0:
			out[k] = randomObject(r, depth-1, nulls)
		case n == 3:
			out[k] = []any{r.IntN(9), "a,]}\\"}
		case n == 4:
			out[k] = r.IntN(2) == 0
		default:
			out[k] = fmt.Sprint("v<\"", r.IntN(9))
		}
	}
	return out
}

func FuzzMergePatch(f *testing.F) {
	f.Add(`{"a":1}`)
	f.Add(`{"a":{"b":null},"c":[{}]}`)
	f.Fuzz(func(t *testing.T, patch string) {
		out, err := mergePatch([]byte(`{"a":{"b":1},"c":"x"}`), []byte(patch))
		if err == nil && !json.Valid(out) {
			t.Errorf("%q made %q", patch, out)
		}
	})
}
