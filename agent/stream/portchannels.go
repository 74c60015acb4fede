package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// maxPorts is how many ports channels can number: two for each.
const maxPorts = 127

// forwardChannels serves a port-forward whose ports stand in the query: the port at
// index i has channel 2i for its data and 2i+1 for errors, and one connection. Both
// channels begin with the port's number, as upstream's do.
func (h *Handler) forwardChannels(w http.ResponseWriter, r *http.Request, f *forwarder) error {
	ports, err := queryPorts(r)
	if err != nil {
		return err
	}
	conn, err := h.upgrade(w, r, f.link, protocolV4, protocolV4Text)
	if conn == nil {
		return err
	}
	c := &channels{conn: conn, link: f.link, text: conn.Subprotocol() == protocolV4Text}
	inputs := make([]*io.PipeWriter, len(ports))
	var work sync.WaitGroup
	for i, port := range ports {
		var in *io.PipeReader
		in, inputs[i] = io.Pipe()
		work.Go(func() { forwardChannel(f, c, i, port, in) })
	}
	all := make(chan struct{})
	go func() {
		work.Wait()
		close(all)
		c.close() // every port has ended: the client is told so
	}()
	_ = c.receive(func(channel byte, content io.Reader) error { // however it ended, the client is gone
		if i := int(channel / 2); channel%2 == 0 && i < len(inputs) {
			if _, err := io.Copy(inputs[i], content); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				return err
			}
		}
		return nil
	})
	f.link.cancel()
	for _, in := range inputs {
		in.Close()
	}
	<-all
	return nil
}

func queryPorts(r *http.Request) ([]uint16, error) {
	var out []uint16
	for _, list := range r.URL.Query()["port"] {
		for text := range strings.SplitSeq(list, ",") {
			port, err := strconv.ParseUint(text, 10, 16)
			if err != nil || port == 0 {
				return nil, refusef(http.StatusBadRequest, "unable to parse %q as a port", text)
			}
			out = append(out, uint16(port))
		}
	}
	if len(out) == 0 {
		return nil, refusef(http.StatusBadRequest, "query parameter \"port\" is required")
	}
	if len(out) > maxPorts {
		return nil, refusef(http.StatusBadRequest, "at most %d ports can be forwarded through one connection", maxPorts)
	}
	return out, nil
}

// forwardChannel forwards the one connection of a port.
func forwardChannel(f *forwarder, c *channels, i int, port uint16, in *io.PipeReader) {
	defer in.Close()
	data, wrong := c.to(byte(2*i)), c.to(byte(2*i+1))
	number := binary.LittleEndian.AppendUint16(nil, port)
	for _, w := range []io.Writer{data, wrong} {
		if _, err := w.Write(number); err != nil {
			return
		}
	}
	both := struct {
		io.Reader
		io.Writer
	}{in, data}
	if err := f.forward(port, both, func() { in.Close() }); err != nil {
		_, _ = fmt.Fprint(wrong, err) // a client that is gone needs no error
	}
}
