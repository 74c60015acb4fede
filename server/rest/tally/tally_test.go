package tally

import (
	"strings"
	"testing"
	"time"
)

func TestCounts(t *testing.T) {
	var c Tally
	get := Request{Verb: "get", Version: "v1", Resource: "pods", Code: 200}
	c.Add(get, time.Millisecond)
	c.Add(get, 50*time.Millisecond)
	c.Add(get, time.Hour)
	c.Lasting.Add(2)
	var b strings.Builder
	if _, err := c.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	const l = `verb="get",group="",version="v1",resource="pods",subresource="",code="200"`
	for _, want := range []string{
		"apiserver_longrunning_requests 2\n",
		"apiserver_request_total{" + l + "} 3\n",
		"apiserver_request_duration_seconds_bucket{" + l + `,le="0.005"} 1` + "\n",
		"apiserver_request_duration_seconds_bucket{" + l + `,le="0.1"} 2` + "\n",
		"apiserver_request_duration_seconds_bucket{" + l + `,le="30"} 2` + "\n",
		"apiserver_request_duration_seconds_bucket{" + l + `,le="+Inf"} 3` + "\n",
		"apiserver_request_duration_seconds_count{" + l + "} 3\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in\n%s", want, b.String())
		}
	}
}
