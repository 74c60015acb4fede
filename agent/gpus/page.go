package gpus

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"orch/agent/devices"
	"orch/gpu/alloc"
	"orch/gpu/device"
	"orch/gpu/metrics"
)

// Page serves the GPUs' figures to Prometheus. The driver is asked when somebody asks,
// at most once in scrapeEvery; what namespaces use is counted between two such times.
type Page struct {
	gpus     *GPUs
	figures  func(ctx context.Context) ([]device.Figures, error)
	holdings func() []devices.Holding
	hostname string

	mu     sync.Mutex // held while the driver is asked: scrapes at once share an answer
	last   []device.Figures
	owners map[string][]metrics.Owner
	usage  metrics.Usage
	page   []byte
	readAt time.Time
}

const (
	scrapeEvery = time.Second
	// scrapeLimit ends a scrape of a driver that hangs; the helper has limits of its own.
	scrapeLimit = 10 * time.Second
	headerLimit = 10 * time.Second
)

// NewPage makes the page of a node.
func NewPage(g *GPUs, hostname string, figures func(ctx context.Context) ([]device.Figures, error), holdings func() []devices.Holding) *Page {
	return &Page{gpus: g, figures: figures, holdings: holdings, hostname: hostname}
}

// ServeHTTP answers with all families.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), scrapeLimit)
	defer cancel()
	page, err := p.read(ctx)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(page) // the client is gone if this fails
}

// Text is the page for one that has more to show; nil where there are no GPUs.
func (p *Page) Text(ctx context.Context) ([]byte, error) {
	if len(p.gpus.config.Look().Machine.GPUs) == 0 {
		return nil, nil
	}
	return p.read(ctx)
}

func (p *Page) read(ctx context.Context) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.gpus.now()
	if p.page != nil && now.Sub(p.readAt) < scrapeEvery {
		return p.page, nil
	}
	if err := p.askLocked(ctx, now); err != nil {
		return nil, err
	}
	v := p.gpus.config.Look()
	var b bytes.Buffer
	if err := metrics.Write(&b, metrics.Sample{Machine: v.Machine, Figures: p.last, Hostname: p.hostname, Owners: p.owners, XIDs: v.XIDs, Usage: p.usage, Shares: p.gpus.shares(p.holdings())}); err != nil {
		return nil, err
	}
	p.page = b.Bytes()
	return p.page, nil
}

// askLocked reads the figures and counts what was used since they were read before.
func (p *Page) askLocked(ctx context.Context, now time.Time) error {
	figures, err := p.figures(ctx)
	if err != nil {
		return err
	}
	for i := range figures {
		if figures[i].UnixNano == 0 {
			figures[i].UnixNano = now.UnixNano()
		}
	}
	owners := map[string][]metrics.Owner{}
	for _, h := range p.holdings() {
		if h.Claim.Admin || h.Pod == "" { // nobody who computes on it
			continue
		}
		for _, id := range h.IDs {
			uuid := alloc.DeviceOf(id)
			owners[uuid] = append(owners[uuid], metrics.Owner{Namespace: h.Namespace, Pod: h.Pod, UID: string(h.UID), Container: h.Container,
				Claim: metrics.Claim{Name: h.Claim.Name, Driver: h.Claim.Driver, Pool: h.Claim.Pool, Device: h.Claim.Device}})
		}
	}
	p.usage = p.usage.Add(p.last, figures, owners)
	p.last, p.owners, p.page, p.readAt = figures, owners, nil, now
	return nil
}

// Serve answers on address under /metrics, as the DCGM exporter does, while there are GPUs.
// An address that is taken is no reason to end: another exporter may have it.
func (p *Page) Serve(ctx context.Context, address string) error {
	for len(p.gpus.config.Look().Machine.GPUs) == 0 {
		changed := p.gpus.Changed()
		if len(p.gpus.config.Look().Machine.GPUs) > 0 {
			break
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		p.gpus.config.Log.Warn("GPU metrics are not served on their port; is another exporter there? Free the port or choose --gpu-metrics-address", "address", address, "err", err)
		<-ctx.Done()
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", p)
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("OK\n")) })
	s := &http.Server{Handler: mux, ReadHeaderTimeout: headerLimit, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
