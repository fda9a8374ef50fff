// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/evidence/v1/evidencev1connect"
	"github.com/plumb-dev/plumb/internal/mss"
)

// A testCA is a certificate authority of one test.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// A period is from when to when a certificate is valid.
type period struct{ from, to time.Time }

func around(t time.Time, d time.Duration) period { return period{t.Add(-d), t.Add(d)} }

func newCA(tb testing.TB, valid period) *testCA {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(tb, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: valid.from, NotAfter: valid.to, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(tb, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(tb, err)
	return &testCA{cert, key}
}

func (ca *testCA) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// issue makes a server certificate for localhost, the loopback addresses and the
// names given.
func (ca *testCA) issue(tb testing.TB, valid period, names ...string) tls.Certificate {
	tb.Helper()
	return ca.issueFor(tb, valid, x509.ExtKeyUsageServerAuth, append([]string{"localhost", "127.0.0.1", "::1"}, names...)...)
}

func (ca *testCA) issueFor(tb testing.TB, valid period, usage x509.ExtKeyUsage, names ...string) tls.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(tb, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test server"},
		NotBefore: valid.from, NotAfter: valid.to, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	require.NoError(tb, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(tb, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// A testServer is a small aggregator: it acknowledges, remembers what it got and
// asks for FULL when it misses something.
type testServer struct {
	tb   testing.TB
	cert tls.Certificate
	// listen makes the listener; tests put it into a namespace.
	listen func(address string) (net.Listener, error)

	mu       sync.Mutex
	address  string
	http     *http.Server
	over     chan struct{}
	requests []*evidencev1.PushRequest
	tokens   []string
	episodes map[string]int
	results  map[string]*evidencev1.DirectiveResult
	seen     map[string]uint64
	accepted []net.Conn
	watchers int
	// answer, if set, decides what Push does; ok=false means as usual.
	answer     func(*evidencev1.PushRequest) (reply *evidencev1.PushResponse, err error, ok bool)
	needFull   bool
	repeated   []*evidencev1.Directive
	directives chan *evidencev1.Directive
	bootID     string
}

func newServer(tb testing.TB, cert tls.Certificate) *testServer {
	s := unstartedServer(tb, cert)
	s.start()
	return s
}

func unstartedServer(tb testing.TB, cert tls.Certificate) *testServer {
	s := &testServer{
		tb: tb, cert: cert, address: "127.0.0.1:0",
		episodes: map[string]int{}, results: map[string]*evidencev1.DirectiveResult{}, seen: map[string]uint64{},
		directives: make(chan *evidencev1.Directive, 16), bootID: "server-kernel",
		listen: func(address string) (net.Listener, error) {
			return mss.ListenConfig(mss.Default).Listen(context.Background(), "tcp", address)
		},
	}
	tb.Cleanup(s.stop)
	return s
}

// start listens, on the same address as before if it ran before.
func (s *testServer) start() {
	s.tb.Helper()
	l, err := s.listen(s.address)
	require.NoError(s.tb, err)
	path, handler := evidencev1connect.NewUplinkServiceHandler(s)
	mux := http.NewServeMux()
	mux.Handle(path, handler)
	h := &http.Server{
		Handler:   mux,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{s.cert}, MinVersion: tls.VersionTLS13},
		ErrorLog:  log.New(io.Discard, "", 0),
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.mu.Lock()
				s.accepted = append(s.accepted, c)
				s.mu.Unlock()
			}
		},
	}
	s.mu.Lock()
	s.address = l.Addr().String()
	over := make(chan struct{})
	s.http, s.over = h, over
	s.mu.Unlock()
	go func() {
		defer close(over)
		if err := h.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			s.tb.Errorf("serve: %v", err)
		}
	}()
}

// stop cuts every connection, as kill -9 would.
func (s *testServer) stop() {
	s.mu.Lock()
	h, over := s.http, s.over
	s.http = nil
	s.mu.Unlock()
	if h != nil {
		_ = h.Close()
		<-over // Close does not close a listener that Serve has not seen yet
	}
}

func (s *testServer) url() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "https://" + s.address
}

func (s *testServer) Push(_ context.Context, r *connect.Request[evidencev1.PushRequest]) (*connect.Response[evidencev1.PushResponse], error) {
	s.mu.Lock()
	answer := s.answer
	s.mu.Unlock()
	if answer != nil {
		if reply, err, ok := answer(r.Msg); ok {
			if err != nil {
				return nil, err
			}
			return connect.NewResponse(reply), nil
		}
	}
	return connect.NewResponse(s.take(r.Msg, r.Header().Get("Authorization"))), nil
}

func (s *testServer) take(r *evidencev1.PushRequest, authorization string) *evidencev1.PushResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := r.GetBatch()
	s.requests = append(s.requests, proto.CloneOf(r))
	s.tokens = append(s.tokens, authorization)
	last := s.seen[b.GetBootId()]
	reply := &evidencev1.PushResponse{AckedSequence: max(last, b.GetSequence()), Zone: "zone-a", Directives: s.repeated}
	if b.GetSequence() <= last {
		return reply
	}
	for _, e := range b.GetEpisodes() {
		s.episodes[e.GetId()]++
	}
	for _, d := range b.GetDirectiveResults() {
		s.results[d.GetDirectiveId()] = d
	}
	reply.NeedFull = s.needFull || b.GetKind() == evidencev1.Batch_DELTA && b.GetSequence() != last+1
	if b.GetKind() == evidencev1.Batch_FULL {
		s.needFull, reply.NeedFull = false, false
	}
	s.seen[b.GetBootId()] = b.GetSequence()
	return reply
}

func (s *testServer) Watch(ctx context.Context, _ *connect.Request[evidencev1.WatchRequest], stream *connect.ServerStream[evidencev1.WatchResponse]) error {
	s.mu.Lock()
	s.watchers++
	s.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case d := <-s.directives:
			if err := stream.Send(&evidencev1.WatchResponse{Directive: d}); err != nil {
				return err
			}
		}
	}
}

func (s *testServer) Time(_ context.Context, r *connect.Request[evidencev1.TimeRequest]) (*connect.Response[evidencev1.TimeResponse], error) {
	now := time.Now().UnixNano()
	return connect.NewResponse(&evidencev1.TimeResponse{
		OriginUnixNanoseconds: r.Msg.GetOriginUnixNanoseconds(), ReceiveUnixNanoseconds: now,
		TransmitUnixNanoseconds: now, KernelBootId: s.bootID,
	}), nil
}

// got returns the requests so far.
func (s *testServer) got() []*evidencev1.PushRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*evidencev1.PushRequest(nil), s.requests...)
}

// times says how often an episode was taken in a batch that was not a duplicate.
func (s *testServer) times(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.episodes[id]
}

func (s *testServer) result(id string) *evidencev1.DirectiveResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.results[id]
}

func (s *testServer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// makeToken makes a token of the shape that Kubernetes and the aggregator mint.
func makeToken(nodeUID, signature string) string { return tokenOf("n1", nodeUID, signature) }

func tokenOf(nodeName, nodeUID, signature string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return strings.Join([]string{
		encode([]byte(`{"alg":"HS256","typ":"JWT"}`)),
		encode(fmt.Appendf(nil, `{"iss":"plumb","aud":["plumb"],"kubernetes.io":{"node":{"name":%q,"uid":%q}}}`, nodeName, nodeUID)),
		encode([]byte(signature)),
	}, ".")
}

func writeToken(tb testing.TB, path, value string) {
	tb.Helper()
	require.NoError(tb, os.WriteFile(path+".new", []byte(value+"\n"), 0o600))
	require.NoError(tb, os.Rename(path+".new", path))
}

func tokenFile(tb testing.TB) string {
	path := filepath.Join(tb.TempDir(), "token")
	writeToken(tb, path, makeToken("uid-1", "the-signature-of-the-first-token"))
	return path
}
