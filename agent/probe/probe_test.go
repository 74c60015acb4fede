package probe

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orch/agent/pods/plan"
)

// TestRun plays outcomes over fake time: want lists "<seconds> <what>".
func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name    string
		kind    Kind
		spec    core.Probe
		initial plan.Result
		// fails says at which times (since the start) an attempt fails.
		fails func(time.Duration) bool
		want  []string
	}{
		{"ready at once", Readiness, core.Probe{PeriodSeconds: 10}, plan.Unknown, func(time.Duration) bool { return false }, []string{"0s success"}},
		{"ready soon after", Readiness, core.Probe{PeriodSeconds: 10}, plan.Unknown, func(d time.Duration) bool { return d < 300*time.Millisecond }, []string{"310ms success"}},
		{"initial delay", Readiness, core.Probe{PeriodSeconds: 10, InitialDelaySeconds: 5}, plan.Unknown, func(time.Duration) bool { return false }, []string{"5s success"}},
		{"becomes unready", Readiness, core.Probe{PeriodSeconds: 2, FailureThreshold: 2}, plan.Unknown, func(d time.Duration) bool { return d > 3*time.Second && d < 7*time.Second },
			[]string{"0s success", "4s event", "6s event", "6s failure", "8s success"}},
		{"liveness fails once and for all", Liveness, core.Probe{PeriodSeconds: 1, FailureThreshold: 2}, plan.Success, func(d time.Duration) bool { return true },
			[]string{"1s event", "2s event", "2s failure", "over"}},
		{"startup passes and ends", Startup, core.Probe{PeriodSeconds: 1, FailureThreshold: 3}, plan.Unknown, func(d time.Duration) bool { return d < 1500*time.Millisecond },
			[]string{"1s event", "2s success", "over"}},
		{"startup fails", Startup, core.Probe{PeriodSeconds: 1, FailureThreshold: 2}, plan.Unknown, func(d time.Duration) bool { return true },
			[]string{"1s event", "2s event", "2s failure", "over"}},
		{"success threshold", Readiness, core.Probe{PeriodSeconds: 1, SuccessThreshold: 2}, plan.Unknown, func(time.Duration) bool { return false }, []string{"2s success"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []string
				start := time.Now()
				note := func(s string) { got = append(got, s) }
				ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
				defer cancel()
				Run(ctx, Config{Kind: tt.kind, Spec: &tt.spec, Started: start, Initial: tt.initial,
					Attempt: func(context.Context) (Outcome, string) {
						if tt.fails(time.Since(start)) {
							return Failed, "no"
						}
						return Passed, ""
					},
					Report:    func(r plan.Result) { note(fmt.Sprint(time.Since(start), " ", r)) },
					Unhealthy: func(string) { note(fmt.Sprint(time.Since(start), " event")) },
				})
				if ctx.Err() == nil {
					note("over")
				}
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Error(d)
				}
			})
		})
	}
}

// TestWarningPasses: of a redirect that was not followed nothing was said.
func TestWarningPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		var said []string
		Run(ctx, Config{Kind: Liveness, Spec: &core.Probe{PeriodSeconds: 1, FailureThreshold: 1}, Started: time.Now(), Initial: plan.Success,
			Attempt: func(context.Context) (Outcome, string) { return Warned, "elsewhere" },
			Report:  func(r plan.Result) { t.Errorf("it is %v", r) },
			Warn:    func(text string) { said = append(said, text) },
		})
		if d := cmp.Diff([]string{"Liveness probe warning: elsewhere", "Liveness probe warning: elsewhere"}, said); d != "" {
			t.Error(d)
		}
	})
}

func TestOnce(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			fmt.Fprint(w, r.UserAgent())
		case "/away":
			http.Redirect(w, r, "http://other.invalid/", http.StatusFound)
		case "/here":
			http.Redirect(w, r, "/bad", http.StatusFound)
		default:
			http.Error(w, "bad", http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	host, portText, _ := net.SplitHostPort(strings.TrimPrefix(server.URL, "http://"))
	port, _ := strconv.Atoi(portText)
	target := Target{IP: host, Container: &core.Container{Ports: []core.ContainerPort{{Name: "web", ContainerPort: int32(port)}}},
		Exec: func(_ context.Context, c []string, out io.Writer) (int, error) {
			fmt.Fprint(out, "said ", c[0])
			return len(c) - 1, nil
		}}
	get := func(path string) core.ProbeHandler {
		return core.ProbeHandler{HTTPGet: &core.HTTPGetAction{Path: path, Port: intstr.FromString("web")}}
	}
	for _, tt := range []struct {
		name    string
		handler core.ProbeHandler
		want    Outcome
		message string
	}{
		{"http", get("ok"), Passed, "kube-probe/1.37"},
		{"http 500", get("/bad"), Failed, "HTTP probe failed with statuscode: 500"},
		{"redirect elsewhere passes", get("/away"), Warned, "Probe terminated redirects, Response body: <a href"},
		{"redirect here is followed", get("/here"), Failed, "HTTP probe failed with statuscode: 500"},
		{"unknown port name", core.ProbeHandler{HTTPGet: &core.HTTPGetAction{Port: intstr.FromString("x")}}, Errored, "couldn't find port: x"},
		{"tcp", core.ProbeHandler{TCPSocket: &core.TCPSocketAction{Port: intstr.FromInt(port)}}, Passed, ""},
		{"tcp refused", core.ProbeHandler{TCPSocket: &core.TCPSocketAction{Port: intstr.FromInt(1)}}, Failed, "connection refused"},
		{"exec", core.ProbeHandler{Exec: &core.ExecAction{Command: []string{"a"}}}, Passed, "said a"},
		{"exec fails", core.ProbeHandler{Exec: &core.ExecAction{Command: []string{"a", "b"}}}, Failed, "said a"},
		{"grpc refused", core.ProbeHandler{GRPC: &core.GRPCAction{Port: 1}}, Failed, "connection refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			got, message := Once(ctx, tt.handler, target)
			if got != tt.want || !strings.Contains(message, tt.message) {
				t.Errorf("got %s %q, want %s %q", got, message, tt.want, tt.message)
			}
		})
	}
}
