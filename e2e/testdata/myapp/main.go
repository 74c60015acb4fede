// Command myapp is the program of the test image myapp:1.4.2: HTTP on 8000 and
// 8080 with the probes that the acceptance manifests ask for, UDP on 9000, switches
// to misbehave, and subcommands that look at the cluster from inside a pod.
package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/websocket"
)

func main() {
	if len(os.Args) > 1 {
		if err := subcommand(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var unready, sick atomic.Bool
	host, _ := os.Hostname()
	answer := func(bad *atomic.Bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if bad.Load() {
				http.Error(w, "bad", http.StatusInternalServerError)
				return
			}
			fmt.Fprintln(w, "ok")
		}
	}
	mux := http.NewServeMux()
	for _, p := range []string{"/health", "/healthz"} {
		mux.HandleFunc(p, answer(&sick))
	}
	for _, p := range []string{"/ready", "/readyz"} {
		mux.HandleFunc(p, answer(&unready))
	}
	mux.HandleFunc("/unready", func(http.ResponseWriter, *http.Request) { unready.Store(true) })
	mux.HandleFunc("/sick", func(http.ResponseWriter, *http.Request) { sick.Store(true) })
	mux.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, os.Environ()) })
	mux.HandleFunc("/from", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.RemoteAddr) })
	mux.HandleFunc("/say/", func(w http.ResponseWriter, r *http.Request) { say(w, r, host) })
	mux.Handle("/socket", websocket.Handler(func(c *websocket.Conn) { echo(c, host) }))
	mux.HandleFunc("/big", func(w http.ResponseWriter, _ *http.Request) { w.Write(bytes.Repeat([]byte("big "), 1<<19)) })
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, host) })
	for _, address := range []string{":8000", ":8080"} {
		go func() {
			if err := http.ListenAndServe(address, mux); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}()
	}
	go echoUDP(host)
	fmt.Println("myapp is up")
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
	fmt.Println("myapp ends")
}
