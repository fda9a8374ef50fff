// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/plumb-dev/plumb/test/lab/service/internal/byclient"
	"github.com/plumb-dev/plumb/test/lab/service/internal/httpserve"
)

// Config is what a server needs; all but Version is required.
type Config struct {
	// Certificate is what the server shows, with its key.
	Certificate tls.Certificate
	// Now is the clock of the Date header.
	Now func() time.Time
	// Version is what /version says, v1.34.2 when left empty.
	Version string
}

// A Server answers as one kube-apiserver. Safe for concurrent use.
type Server struct {
	cfg        Config
	version    string
	delays     byclient.Table[time.Duration]
	handshakes byclient.Table[time.Duration]
}

// New returns a prompt server that is not serving yet. It fails on a Config that is
// not complete and on a version that is none.
func New(cfg Config) (*Server, error) {
	if len(cfg.Certificate.Certificate) == 0 || cfg.Certificate.PrivateKey == nil || cfg.Now == nil {
		return nil, errors.New("API server: Config.Certificate, with its key, and Config.Now are required")
	}
	if cfg.Version == "" {
		cfg.Version = "v1.34.2"
	}
	version, err := versionDocument(cfg.Version)
	if err != nil {
		return nil, err
	}
	return &Server{cfg: cfg, version: version}, nil
}

// SetDelay makes the first byte of every answer to the clients of these prefixes, to
// all when none is given, come this much later; there is no jitter. 0 takes it back.
// An answer that is being held goes out as soon as the delay that holds now has
// passed since its request came, so at once when the delay is taken back.
func (s *Server) SetDelay(delay time.Duration, clients ...netip.Prefix) {
	s.delays.Set(delay, clients...)
}

// SetHandshakeDelay is SetDelay for the server's part of a TLS handshake.
func (s *Server) SetHandshakeDelay(delay time.Duration, clients ...netip.Prefix) {
	s.handshakes.Set(delay, clients...)
}

// Serve answers over TLS on the listeners, with HTTP/2 or HTTP/1.1 as the client
// chooses, until ctx is done, then closes them and returns nil. What was being held
// is dropped with its connection. It may be called for further listeners at the same
// time.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	config := &tls.Config{
		Certificates: []tls.Certificate{s.cfg.Certificate},
		// As k8s.io/apiserver does: ask for a certificate and judge it later.
		ClientAuth: tls.RequestClientCert,
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
	}
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		return nil, wait(hello.Context(), &s.handshakes, byclient.Addr(hello.Conn.RemoteAddr()))
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(s.handle),
		TLSConfig:         config,
		ReadHeaderTimeout: 32 * time.Second, // k8s.io/apiserver pkg/server/secure_serving.go
	}
	if err := httpserve.Serve(ctx, server, listeners...); err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	return nil
}

// wait returns once the delay of a client has passed since the call, with what it is
// set to meanwhile. It fails when ctx ends first.
func wait(ctx context.Context, delays *byclient.Table[time.Duration], client netip.Addr) error {
	start := time.Now()
	for {
		delay, changed := delays.Watch(client)
		left := delay - time.Since(start)
		if left <= 0 {
			return ctx.Err()
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
