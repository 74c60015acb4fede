package gpus

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/gpu/alloc"
	"orch/gpu/device"
	"orch/gpu/report"
)

// Report says how the GPUs are. A driver that does not answer is part of the report.
func (p *Page) Report(ctx context.Context) report.Report {
	v := p.gpus.config.Look()
	in := report.Input{Node: p.hostname, Machine: v.Machine, Findings: v.Findings, Holders: map[string][]report.Holder{}, Offers: map[string]report.Offer{}}
	if len(v.Machine.GPUs) > 0 {
		figures, err := p.fresh(ctx)
		if err != nil {
			in.NoFigures = err.Error()
		}
		in.Figures = figures
	}
	for _, u := range v.Units {
		in.Troubles = append(in.Troubles, report.Trouble{UUID: u.UUID, GI: u.GI, State: u.State, Sentence: u.Sentence})
	}
	held := p.holders(in.Holders)
	in.Resources, in.Layout = p.gpus.resources(v, held, in.Offers)
	countClaims(&in)
	return report.Of(in)
}

// fresh are the figures, read anew if they are older than a scrape would take.
func (p *Page) fresh(ctx context.Context) ([]device.Figures, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.gpus.now(); now.Sub(p.readAt) >= scrapeEvery {
		if err := p.askLocked(ctx, now); err != nil {
			return nil, err
		}
	}
	return p.last, nil
}

// holders fills who holds what, by UUID, and counts by resource.
func (p *Page) holders(into map[string][]report.Holder) map[string]int64 {
	held := map[string]int64{}
	for _, h := range p.holdings() {
		if h.Claim.Driver != api.GPUDriver && !(Extra{}).OwnsResource(core.ResourceName(h.Name)) {
			continue
		}
		for _, id := range h.IDs {
			uuid := alloc.DeviceOf(id)
			_, part := alloc.ParseShare(id)
			if !h.Claimed() && (!part || !slices.ContainsFunc(into[uuid], func(o report.Holder) bool { return o.Resource == h.Name })) {
				held[h.Name]++ // a card that several have parts of is one
			}
			holder := report.Holder{Namespace: h.Namespace, Pod: h.Pod, UID: string(h.UID), Container: h.Container, Resource: h.Name, Device: id, Claim: h.Claim.Name, Admin: h.Claim.Admin}
			holder.Share, holder.Enforced = p.gpus.told(h.IDs, id)
			into[uuid] = append(into[uuid], holder)
		}
	}
	return held
}

// countClaims counts what claims hold among the resource that each device is offered as.
func countClaims(in *report.Input) {
	for uuid, holders := range in.Holders {
		offer, counted := in.Offers[uuid], false
		for i := range holders {
			h := &holders[i]
			if h.Claim == "" {
				continue
			}
			h.Resource = offer.Resource
			for j := range in.Resources {
				if r := &in.Resources[j]; r.Name == offer.Resource && !h.Admin && !counted {
					r.Held += int64(offer.Shares)
					counted = true
				}
			}
		}
	}
}

// resources says what is offered, and as what each device is.
func (g *GPUs) resources(v View, held map[string]int64, offers map[string]report.Offer) ([]report.Resource, string) {
	units, layout := alloc.Offer(v.Machine, g.config.Share)
	var out []report.Resource
	for _, u := range units {
		if n := len(out); n == 0 || out[n-1].Name != u.Resource { // units are sorted by resource
			out = append(out, report.Resource{Name: u.Resource, Held: held[u.Resource]})
		}
		r := &out[len(out)-1]
		r.Capacity++
		if v.Allocatable(u.Device()) {
			r.Allocatable++
		}
		o := offers[u.Device()]
		offers[u.Device()] = report.Offer{Resource: u.Resource, Shares: o.Shares + 1}
	}
	return out, layout
}

// ServeReport answers with the report as JSON.
func (p *Page) ServeReport(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), scrapeLimit)
	defer cancel()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(p.Report(ctx)) // the client is gone if this fails
}

// Recorder answers with the machine as record writes it down.
func Recorder(record func(ctx context.Context) (device.Recording, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), recordLimit)
		defer cancel()
		rec, err := record(ctx)
		if err != nil && len(rec.Machine.GPUs) == 0 {
			http.Error(w, "recording this node's GPUs: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		if err != nil { // a machine in trouble is what recordings are for
			rec.Note = "incomplete: " + err.Error()
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = rec.WriteTo(w) // the client is gone if this fails
	})
}

// recordLimit ends a recording of cards that hang one after the other.
const recordLimit = 6 * scrapeLimit

// ServeLocal answers the paths on a socket that root alone may use, until ctx ends. A
// node without it works as well: it is asked through the server.
func (p *Page) ServeLocal(ctx context.Context, socket string, paths map[string]http.Handler) error {
	l, err := listenLocal(socket)
	if err != nil {
		p.gpus.config.Log.Warn("`orch gpu` cannot ask this node on the node itself", "socket", socket, "err", err)
		<-ctx.Done()
		return nil
	}
	mux := http.NewServeMux()
	for path, h := range paths {
		mux.Handle("GET "+path, h)
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: headerLimit, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func listenLocal(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
