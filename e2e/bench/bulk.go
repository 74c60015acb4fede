package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Shape of the big collection.
const (
	bulkObjects = 100_000
	bulkReaders = 10
	bulkLists   = 5
	bulkPath    = "/api/v1/namespaces/default/configmaps"
)

// bulk measures lists of a collection that is far larger than what the server
// keeps encoded.
func (b *bench) bulk(ctx context.Context) error {
	return b.withServer(ctx, func(s *server) error {
		c, err := s.connect(protobufType)
		if err != nil {
			return err
		}
		value := strings.Repeat("x", objectBytes)
		if _, _, err := spread(bulkObjects, 4*workers, func(i int) error {
			_, err := c.CoreV1().ConfigMaps("default").Create(ctx, &core.ConfigMap{
				ObjectMeta: meta.ObjectMeta{Name: fmt.Sprintf("bulk-%06d", i), Labels: map[string]string{"app": "bulk"}}, Data: map[string]string{"value": value},
			}, meta.CreateOptions{})
			return err
		}); err != nil {
			return err
		}
		raw, err := s.raw()
		if err != nil {
			return err
		}
		return errors.Join(b.selectNone(ctx, raw), b.wholeList(ctx, raw), b.manyLists(ctx, s, raw))
	}, "--disable-agent")
}

// raw is a client that gets bytes as they come, each of its own connection.
type raw struct {
	host string
	tls  *rest.Config
}

func (s *server) raw() (*raw, error) {
	c, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig())
	if err != nil {
		return nil, err
	}
	return &raw{host: c.Host, tls: c}, nil
}

// client has a connection of its own.
func (r *raw) client() (*http.Client, error) {
	c, err := rest.TLSConfigFor(r.tls)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true, DisableCompression: true}}, nil
}

// get answers with an open body of a 200.
func (r *raw) get(ctx context.Context, h *http.Client, path string) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, r.host+path, nil)
	if err != nil {
		return nil, err
	}
	q.Header.Set("Accept", protobufType)
	a, err := h.Do(q)
	if err != nil {
		return nil, err
	}
	if a.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(a.Body, 1<<10))
		a.Body.Close()
		return nil, fmt.Errorf("GET %s: %s: %s", path, a.Status, bytes.TrimSpace(text))
	}
	return a, nil
}

func (b *bench) selectNone(ctx context.Context, r *raw) error {
	h, err := r.client()
	if err != nil {
		return err
	}
	took, _, err := spread(bulkLists, 1, func(int) error {
		a, err := r.get(ctx, h, bulkPath+"?labelSelector=app%3Dnone")
		if err != nil {
			return err
		}
		defer a.Body.Close()
		_, err = io.Copy(io.Discard, a.Body)
		return err
	})
	b.table.addDuration("list of 100,000, a selector that matches none", "ms", quantile(took, .5))
	return err
}

func (b *bench) wholeList(ctx context.Context, r *raw) error {
	h, err := r.client()
	if err != nil {
		return err
	}
	var first, last []time.Duration
	for range bulkLists {
		began := time.Now()
		a, err := r.get(ctx, h, bulkPath)
		if err != nil {
			return err
		}
		if _, err = io.ReadFull(a.Body, make([]byte, 1)); err == nil {
			first = append(first, time.Since(began))
			_, err = io.Copy(io.Discard, a.Body)
			last = append(last, time.Since(began))
		}
		a.Body.Close()
		if err != nil {
			return err
		}
	}
	const figure = "list of 100,000, first byte"
	b.table.addDuration(figure, "ms", quantile(first, .5))
	b.table.beside(figure, "last byte", "ms", milliseconds(quantile(last, .5)))
	return nil
}

// manyLists reads the collection several times at once and looks how far the
// server grows meanwhile.
func (b *bench) manyLists(ctx context.Context, s *server, r *raw) error {
	before, err := s.usage()
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	peak := before.resident
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			if u, err := s.usage(); err == nil {
				peak = max(peak, u.resident)
			}
			select {
			case <-ended:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	var size int64
	_, _, err = spread(bulkReaders, bulkReaders, func(i int) error {
		h, err := r.client()
		if err != nil {
			return err
		}
		a, err := r.get(ctx, h, bulkPath)
		if err != nil {
			return err
		}
		defer a.Body.Close()
		n, err := io.Copy(io.Discard, a.Body)
		if i == 0 {
			size = n
		}
		return err
	})
	close(ended)
	watcher.Wait()
	if err != nil {
		return err
	}
	const figure = "ten lists of 100,000 at once, growth"
	b.table.add(figure, "x one answer", float64(peak-before.resident)/float64(size))
	b.table.beside(figure, "one answer", "MB", float64(size)/megabyte)
	b.table.beside(figure, "resident before", "MB", float64(before.resident)/megabyte)
	return nil
}
