// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// A web answers GET /N with N bytes.
type web struct {
	tally  tally
	server *http.Server
	block  []byte
}

func newWeb() *web {
	w := &web{block: make([]byte, chunk)}
	w.server = &http.Server{
		Handler: w, ErrorLog: log.New(io.Discard, "", 0),
		ReadHeaderTimeout: idleLimit, IdleTimeout: idleLimit, WriteTimeout: idleLimit,
	}
	return w
}

func (w *web) listen(ctx context.Context, address netip.AddrPort, open *conns, run func(func())) error {
	l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, "tcp", address.String())
	if err != nil {
		return err
	}
	// The server closes its listeners and connections.
	if !open.add(w.server) {
		return net.ErrClosed
	}
	run(func() { _ = w.server.Serve(l) })
	return nil
}

// ServeHTTP answers with as many bytes as the path says.
func (w *web) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	bytes, err := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/"), 10, 64)
	if err != nil || bytes < 0 || bytes > maxBytes {
		http.Error(rw, "ask for /N, a number of bytes up to "+strconv.Itoa(maxBytes), http.StatusBadRequest)
		return
	}
	rw.Header().Set("Content-Type", "application/octet-stream")
	rw.Header().Set("Content-Length", strconv.FormatInt(bytes, 10))
	for left := bytes; left > 0; {
		n, err := rw.Write(w.block[:min(left, chunk)])
		left -= int64(n)
		w.tally.count(func(c *Counters) { c.Bytes += uint64(n) })
		if err != nil {
			w.tally.count(func(c *Counters) { c.Failed++ })
			return
		}
	}
	w.tally.count(func(c *Counters) { c.OK++ })
}
