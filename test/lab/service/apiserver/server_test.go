// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
)

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kube-apiserver"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(raw)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}
}

// noon is what the server takes for the time.
func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func newServer(t *testing.T) *Server {
	t.Helper()
	s, err := New(Config{Certificate: certificate(t), Now: noon})
	require.NoError(t, err)
	return s
}

// serve serves until the test ends or end is called, on a new port of an address.
func serve(t *testing.T, s *Server, host string) (base string, end func()) {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- s.Serve(ctx, listener)
		close(served)
	}()
	end = func() {
		cancel()
		require.NoError(t, <-served)
	}
	t.Cleanup(end)
	return "https://" + listener.Addr().String(), end
}

// client trusts the server's certificate and has one source address.
func client(t *testing.T, s *Server, from string, http2 bool, own ...tls.Certificate) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(s.cfg.Certificate.Leaf)
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	transport := &http.Transport{
		DialContext: dialer.DialContext, ForceAttemptHTTP2: http2, TLSHandshakeTimeout: 10 * time.Second,
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: own},
	}
	if !http2 {
		transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func ask(ctx context.Context, c *http.Client, method, url string, headers ...string) (*http.Response, string, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, "", err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Set(name, value)
	}
	r, err := c.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return r, string(body), err
}

func TestNewRefusesWhatIsNotComplete(t *testing.T) {
	_, err := New(Config{Now: noon})
	require.ErrorContains(t, err, "Config.Certificate")
	_, err = New(Config{Certificate: certificate(t)})
	require.ErrorContains(t, err, "Config.Now")
	_, err = New(Config{Certificate: certificate(t), Now: noon, Version: "1.34"})
	require.ErrorContains(t, err, `"1.34" is no version`)
}

func TestAnUnknownClientSeesWhatKubeAPIServerShows(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	base, _ := serve(t, s, "127.0.0.1")
	for _, http2 := range []bool{true, false} {
		c := client(t, s, "127.0.0.1", http2)
		for name, r := range map[string]struct {
			method, path string
			header       string
			status       int
			kind, body   string
		}{
			"alive":                 {"GET", "/livez", "", 200, "text/plain; charset=utf-8", "ok"},
			"ready":                 {"GET", "/readyz", "", 200, "text/plain; charset=utf-8", "ok"},
			"healthy":               {"GET", "/healthz", "", 200, "text/plain; charset=utf-8", "ok"},
			"ready, in words":       {"GET", "/readyz?verbose", "", 200, "text/plain; charset=utf-8", "[+]etcd ok\nreadyz check passed\n"},
			"the version":           {"GET", "/version", "", 200, "application/json", `"gitVersion": "v1.34.2"`},
			"the minor version":     {"GET", "/version/", "", 200, "application/json", `"minor": "34"`},
			"one check":             {"GET", "/livez/ping", "", 403, "application/json", `cannot get path \"/livez/ping\"`},
			"the root":              {"GET", "/", "", 403, "application/json", `forbidden: User \"system:anonymous\" cannot get path \"/\"`},
			"pods":                  {"GET", "/api/v1/pods", "", 403, "application/json", `"reason": "Forbidden"`},
			"metrics":               {"GET", "/metrics", "", 403, "application/json", `"code": 403`},
			"another method":        {"POST", "/livez", "", 403, "application/json", `cannot post path`},
			"a token it knows not":  {"GET", "/livez", "Authorization: Bearer x", 401, "application/json", `"message": "Unauthorized"`},
			"a password it has not": {"GET", "/version", "Authorization: Basic eDp5", 401, "application/json", `"code": 401`},
		} {
			var headers []string
			if r.header != "" {
				headers = append(headers, r.header)
			}
			got, body, err := ask(t.Context(), c, r.method, base+r.path, headers...)
			require.NoError(t, err, name)
			require.Equal(t, r.status, got.StatusCode, name)
			require.Equal(t, map[bool]int{true: 2, false: 1}[http2], got.ProtoMajor, name)
			require.Equal(t, r.kind, got.Header.Get("Content-Type"), name)
			require.Contains(t, body, r.body, name)
			require.Equal(t, "no-cache, private", got.Header.Get("Cache-Control"), name)
			require.Equal(t, noon().Format(http.TimeFormat), got.Header.Get("Date"), name)
			if r.status >= 400 {
				var status struct {
					Kind, Status string
					Code         int
				}
				require.NoError(t, json.Unmarshal([]byte(body), &status), name)
				require.Equal(t, "Status Failure", status.Kind+" "+status.Status, name)
				require.Equal(t, r.status, status.Code, name)
			}
		}
	}
	stranger := client(t, s, "127.0.0.1", true, certificate(t))
	got, _, err := ask(t.Context(), stranger, "GET", base+"/livez")
	require.NoError(t, err)
	require.Equal(t, 401, got.StatusCode, "a certificate that it does not know")
}

// long is a delay that no test waits for; short is one that each can.
const long, short = time.Hour, 200 * time.Millisecond

func TestTheDelayIsBeforeTheFirstByte(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	base, _ := serve(t, s, "127.0.0.1")
	for _, http2 := range []bool{true, false} {
		one, two := client(t, s, "127.0.0.1", http2), client(t, s, "127.0.0.2", http2)
		took := func(c *http.Client) time.Duration {
			start := time.Now()
			got, _, err := ask(t.Context(), c, "GET", base+"/readyz")
			require.NoError(t, err)
			require.Equal(t, 200, got.StatusCode)
			return time.Since(start)
		}
		s.SetDelay(short)
		require.GreaterOrEqual(t, took(one), short)
		require.GreaterOrEqual(t, took(one), short, "each answer, not each connection")
		s.SetDelay(0)
		s.SetDelay(long, netip.MustParsePrefix("127.0.0.2/32"))
		require.Less(t, took(one), 10*time.Second, "it is for the other")
		waited := make(chan time.Duration, 1)
		go func() { waited <- took(two) }()
		select {
		case <-waited:
			t.Fatal("the answer was not held")
		case <-time.After(short):
		}
		s.SetDelay(0)
		require.Less(t, <-waited, 10*time.Second, "a held answer goes out when the delay is taken back")
	}
}

func TestAHeldAnswerGoesByTheDelayThatHoldsNow(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	base, _ := serve(t, s, "127.0.0.1")
	c := client(t, s, "127.0.0.1", true)
	_, _, err := ask(t.Context(), c, "GET", base+"/livez")
	require.NoError(t, err)
	s.SetDelay(long)
	start := time.Now()
	done := make(chan error, 1)
	sent := make(chan struct{})
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { close(sent) },
	})
	go func() {
		_, _, err := ask(ctx, c, "GET", base+"/livez")
		done <- err
	}()
	<-sent
	s.SetDelay(2 * short)
	require.NoError(t, <-done)
	require.GreaterOrEqual(t, time.Since(start), 2*short)
	require.Less(t, time.Since(start), 10*time.Second)
}

func TestTheHandshakeCanBeLateToo(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	base, _ := serve(t, s, "127.0.0.1")
	s.SetHandshakeDelay(short, netip.MustParsePrefix("127.0.0.1/32"))
	c := client(t, s, "127.0.0.1", false)
	start := time.Now()
	_, _, err := ask(t.Context(), c, "GET", base+"/livez")
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(start), short)
	s.SetHandshakeDelay(long)
	_, _, err = ask(t.Context(), c, "GET", base+"/livez")
	require.NoError(t, err, "a connection that is there has no handshake")
	waited := make(chan error, 1)
	go func() {
		_, _, err := ask(t.Context(), client(t, s, "127.0.0.2", true), "GET", base+"/livez")
		waited <- err
	}()
	select {
	case <-waited:
		t.Fatal("the handshake was not held")
	case <-time.After(short):
	}
	s.SetHandshakeDelay(0)
	require.NoError(t, <-waited)
}

func TestServeEndsWithAnswersHeld(t *testing.T) {
	for _, http2 := range []bool{true, false} {
		s := newServer(t)
		s.SetDelay(long, netip.MustParsePrefix("127.0.0.1/32"))
		s.SetHandshakeDelay(long, netip.MustParsePrefix("127.0.0.2/32"))
		base, end := serve(t, s, "127.0.0.1")
		failed := make(chan error, 2)
		for _, from := range []string{"127.0.0.1", "127.0.0.2"} {
			c := client(t, s, from, http2)
			go func() {
				_, _, err := ask(t.Context(), c, "GET", base+"/livez")
				failed <- err
			}()
		}
		// A third client is answered after both have come.
		testutils.Eventually(t, 5*time.Second, "the server serves", func() bool {
			_, _, err := ask(t.Context(), client(t, s, "127.0.0.3", http2), "GET", base+"/livez")
			return err == nil
		})
		start := time.Now()
		end()
		require.Less(t, time.Since(start), 5*time.Second)
		require.Error(t, <-failed)
		require.Error(t, <-failed)
	}
}

func TestTheServerAnswersOverIPv6(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	base, _ := serve(t, s, "::1")
	got, body, err := ask(t.Context(), client(t, s, "::1", true), "GET", base+"/livez")
	require.NoError(t, err)
	require.Equal(t, "200 OK ok", got.Status+" "+body)
}
