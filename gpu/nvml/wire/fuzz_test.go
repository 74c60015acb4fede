package wire

import (
	"bytes"
	"encoding/json"
	"testing"
)

// FuzzRead: lines of the helper are refused, or mean the same when they are written again.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"hello":{"version":1,"library":"libnvidia-ml.so.1"}}` + "\n" + `{"id":7,"result":{"count":2}}` + "\n"))
	f.Add([]byte(`{"event":{"kind":"xid","pci":"0000:1b:00.0","data":31}}` + "\n{"))
	f.Add([]byte(`{"id":18446744073709551615,"problem":{"op":"a","code":-1,"text":"b"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var lines []Line
		if Read(bytes.NewReader(b), func(l Line) { lines = append(lines, l) }) != nil {
			return
		}
		var out, again bytes.Buffer
		enc := json.NewEncoder(&out)
		for _, l := range lines {
			if err := enc.Encode(l); err != nil {
				t.Fatal(err)
			}
		}
		enc = json.NewEncoder(&again)
		if err := Read(bytes.NewReader(out.Bytes()), func(l Line) { _ = enc.Encode(l) }); err != nil || again.String() != out.String() {
			t.Errorf("%v\n%s\nbecame\n%s", err, &out, &again)
		}
	})
}

// TestReadStops: behind a line that is no JSON nothing is believed.
func TestReadStops(t *testing.T) {
	n := 0
	err := Read(bytes.NewReader([]byte("{\"id\":1}\nhelp\n{\"id\":2}\n")), func(Line) { n++ })
	if err == nil || n != 1 {
		t.Errorf("%d lines, %v", n, err)
	}
}
