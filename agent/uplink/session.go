// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"connectrpc.com/connect"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/evidence/v1/evidencev1connect"
)

const (
	// A connection on which nothing arrives for pingAfter is asked, and given up
	// if pingTimeout later there is still nothing: 10 s in all.
	pingAfter   = 6 * time.Second
	pingTimeout = 4 * time.Second
	// maxReplyBytes bounds what a reply may hold.
	maxReplyBytes = 1 << 20
)

// A session is one verified connection to one endpoint. All calls to the
// endpoint go over it; nothing else ever dials.
type session struct {
	rpc  evidencev1connect.UplinkServiceClient
	conn *http.ClientConn
	// tcp is what conn runs over.
	tcp net.Conn
	// tls says at which time the certificate was verified.
	tls *evidencev1.TLSTime
	// down is closed when the connection has ended.
	down chan struct{}
}

// A connectFailure says at which step a connection failed; the step is the
// reason label of the failure counter.
type connectFailure struct {
	step string
	err  error
}

func (f *connectFailure) Error() string { return f.err.Error() }
func (f *connectFailure) Unwrap() error { return f.err }

// connect opens a verified connection to the endpoint, trying its addresses in
// turn.
func (e *endpoint) connect(ctx context.Context) (*session, error) {
	where := find(ctx, e.client.cfg.Resolver, e.client.memory, e.host)
	e.setDNS(where.lookup)
	if len(where.addresses) == 0 {
		return nil, &connectFailure{"dns", fmt.Errorf("%w; no address of it is known from before", where.lookup)}
	}
	var failures []error
	step := "connect"
	for _, a := range where.addresses {
		s, err := e.connectTo(ctx, a)
		if err == nil {
			if len(where.resolved) > 0 {
				e.client.memory.worked(e.host, a, where.resolved)
			}
			return s, nil
		}
		if f := (*connectFailure)(nil); errors.As(err, &f) && f.step == "tls" {
			step = "tls"
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, &connectFailure{step, errors.Join(failures...)}
}

func (e *endpoint) connectTo(ctx context.Context, address netip.Addr) (_ *session, err error) {
	to := net.JoinHostPort(address.String(), e.port)
	var raw net.Conn
	err = e.client.inNetwork(func() (err error) {
		raw, err = newDialer(e.client.cfg.MaxSegment).DialContext(ctx, "tcp", to)
		return err
	})
	if err != nil {
		return nil, &connectFailure{"connect", fmt.Errorf("connect to %s: %w", e.name, err)}
	}
	s := &session{tcp: raw, down: make(chan struct{})}
	secured, err := e.secure(ctx, raw, s)
	if err != nil {
		raw.Close()
		return nil, &connectFailure{"tls", fmt.Errorf("secure connection to %s (%s): %w", e.name, to, err)}
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	// A transport without a proxy, whose only connection is the one just made.
	transport := &http.Transport{
		Protocols: protocols,
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			return secured, nil
		},
		HTTP2: &http.HTTP2Config{
			SendPingTimeout:  pingAfter,
			PingTimeout:      pingTimeout,
			WriteByteTimeout: userTimeout,
		},
		DisableCompression: true,
	}
	s.conn, err = transport.NewClientConn(ctx, "https", net.JoinHostPort(e.host, e.port))
	if err != nil {
		raw.Close()
		return nil, &connectFailure{"connect", fmt.Errorf("speak HTTP/2 with %s: %w", e.name, err)}
	}
	var once sync.Once
	s.conn.SetStateHook(func(c *http.ClientConn) {
		if c.Err() != nil {
			once.Do(func() { close(s.down) })
		}
	})
	if s.conn.Err() != nil {
		once.Do(func() { close(s.down) })
	}
	s.rpc = evidencev1connect.NewUplinkServiceClient(single{s.conn}, e.url,
		connect.WithReadMaxBytes(maxReplyBytes),
		// Device after device says nearly the same: a full batch shrinks to a
		// twentieth, and traffic between zones is billed.
		connect.WithSendGzip(),
		connect.WithCompressMinBytes(compressFromBytes))
	return s, nil
}

// compressFromBytes is the size from which a batch is worth compressing: below,
// it fits into three segments anyway.
const compressFromBytes = 1 << 10

// secure does the TLS handshake and our own verification of the certificate.
func (e *endpoint) secure(ctx context.Context, raw net.Conn, s *session) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var found verification
	secured := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: e.host,
		NextProtos: []string{"h2"},
		// Not insecure: this only turns off crypto/tls's own verification, which
		// knows one time only, and VerifyConnection below does all of it instead
		// (chain to the pinned CA and no other, server name, usage, validity; see
		// verifyServer) and fails the handshake if anything is wrong. It runs on
		// every handshake, resumed ones too; without a ClientSessionCache there
		// are none. tls.Config.Time would not do: it must be chosen before the
		// certificate is seen, and would correct also what did not fail on time.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) (err error) {
			// state.ServerName is empty for IP addresses, hence the endpoint's.
			found, err = verifyServer(e.host, state.PeerCertificates, e.client.authorities(), e.client.reading())
			return err
		},
	})
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if p := secured.ConnectionState().NegotiatedProtocol; p != "h2" {
		return nil, fmt.Errorf("the server does not speak HTTP/2 (ALPN %q)", p)
	}
	if found.trusted() {
		e.client.memory.verified(found.at)
	}
	s.tls = found.status
	return secured, nil
}

// alive says whether the connection can carry another call.
func (s *session) alive() bool { return s.conn.Err() == nil }

func (s *session) close() { _ = s.conn.Close() }

// single sends requests over one connection; redirects are not followed.
type single struct{ conn *http.ClientConn }

var _ connect.HTTPClient = single{}

func (s single) Do(r *http.Request) (*http.Response, error) { return s.conn.RoundTrip(r) }
