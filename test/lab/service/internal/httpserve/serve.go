// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package httpserve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Serve answers on the listeners until ctx is done, then closes them and every
// connection and returns nil, once all its goroutines have ended. It speaks TLS
// when server.TLSConfig is there. The contexts of requests end with ctx.
//
// It sets BaseContext, ConnState and ErrorLog of the server, which serves once. A
// client that goes away amid an answer is a client's matter and not reported.
func Serve(ctx context.Context, server *http.Server, listeners ...net.Listener) error {
	if len(listeners) == 0 {
		return errors.New("serve HTTP: no listener was given")
	}
	group, ctx := errgroup.WithContext(ctx)
	var connections, requests sync.WaitGroup
	server.ErrorLog = log.New(io.Discard, "", 0)
	server.BaseContext = func(net.Listener) context.Context { return ctx }
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			connections.Add(1)
			// One that was accepted while the server closed is not known to Close.
			if ctx.Err() != nil {
				conn.Close()
			}
		case http.StateClosed, http.StateHijacked:
			connections.Done()
		}
	}
	// Asked once: net/http puts a TLSConfig there for HTTP/2 as soon as it serves.
	secure := server.TLSConfig != nil
	handler := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		defer requests.Done()
		handler.ServeHTTP(w, r)
	})
	for _, listener := range listeners {
		group.Go(func() error {
			var err error
			if secure {
				err = server.ServeTLS(listener, "", "")
			} else {
				err = server.Serve(listener)
			}
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("serve HTTP on %s: %w", listener.Addr(), err)
		})
	}
	<-ctx.Done()
	server.Close()
	// A listener that the server had not begun with is not known to Close either.
	for _, listener := range listeners {
		listener.Close()
	}
	err := group.Wait()
	connections.Wait()
	requests.Wait()
	return err
}
