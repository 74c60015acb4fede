package stream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"orch/api"
)

// dialTime bounds the making of a connection to a pod.
const dialTime = 10 * time.Second

// dial connects the API server with an address of this node: one of its pods, or a
// process on the node itself. It is how the server reaches pods behind NAT.
func (h *Handler) dial(w http.ResponseWriter, r *http.Request) error {
	at, err := netip.ParseAddrPort(r.PathValue("address"))
	if err != nil {
		return refusef(http.StatusBadRequest, "%v", err)
	}
	if h.Reach == nil || !h.Reach(at.Addr()) {
		return refusef(http.StatusForbidden, "%s is no address of this node or its pods", at.Addr())
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), api.DialProtocol) {
		return errNoUpgrade
	}
	ctx, cancel := context.WithTimeout(r.Context(), dialTime)
	defer cancel()
	var d net.Dialer
	there, err := d.DialContext(ctx, "tcp", at.String())
	if err != nil {
		return refusef(http.StatusBadGateway, "%v", err)
	}
	defer there.Close()
	l := h.newLink(r)
	defer l.cancel()
	here, rw, err := watched{w, l, false}.Hijack()
	if err != nil {
		return errors.New("the connection cannot be taken over")
	}
	defer context.AfterFunc(l.ctx, func() { there.Close() })()
	if _, err := io.WriteString(here, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+api.DialProtocol+"\r\n\r\n"); err != nil {
		return nil // nobody is there to be told
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.Copy(counted{there, l}, rw.Reader)
		if half, ok := there.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	_, _ = io.Copy(counted{here, l}, there) // either side may end it; there is nobody to tell why
	l.cancel()                              // both connections close: the server's has no half that it could go on with
	<-sent
	return nil
}
