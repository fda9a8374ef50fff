// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// clock stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// instances gives the clients 127.0.0.1 and ::1 one machine, and 127.0.0.2 another.
func instances(client netip.Addr) Instance {
	switch client.String() {
	case "127.0.0.1", "::1", "10.9.1.2", "fd00:9:1::2", "10.244.1.10", "fd00:244:1::10":
		return Instance{ID: "i-1", Name: "n1", Region: "lab-1", Zone: "lab-1a", Type: "m7i.large"}
	case "127.0.0.2":
		return Instance{ID: "i-2", Name: "n2", Region: "lab-1", Zone: "lab-1b", Type: "m7i.xlarge"}
	}
	return Instance{}
}

func newServer(t testing.TB, cloud Cloud, change func(*Config)) (*Server, *clock) {
	t.Helper()
	clock := newClock()
	cfg := Config{Cloud: cloud, Instance: instances, Now: clock.Now}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	require.NoError(t, err)
	return s, clock
}

// serve serves until the test ends, on a new port of an address.
func serve(t *testing.T, s *Server, address string) (base string) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	require.NoError(t, err)
	serveOn(t, s, listener)
	return "http://" + listener.Addr().String()
}

func serveOn(t *testing.T, s *Server, listener net.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-served)
	})
}

// client has one source address and keeps no connection.
func client(t *testing.T, from string) *http.Client {
	dialer := &net.Dialer{}
	if from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	return &http.Client{
		Timeout:       5 * time.Second,
		Transport:     &http.Transport{Proxy: nil, DialContext: dialer.DialContext, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type response struct {
	status int
	header http.Header
	body   string
}

// ask makes a request with headers as "Name: value".
func ask(t *testing.T, c *http.Client, method, url string, headers ...string) response {
	t.Helper()
	r, err := try(t.Context(), c, method, url, headers...)
	require.NoError(t, err)
	return r
}

func try(ctx context.Context, c *http.Client, method, url string, headers ...string) (response, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return response{}, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Set(name, value)
	}
	r, err := c.Do(request)
	if err != nil {
		return response{}, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return response{status: r.StatusCode, header: r.Header, body: string(body)}, err
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestNewRefusesWhatIsNotComplete(t *testing.T) {
	_, err := New(Config{Cloud: "oci", Instance: instances, Now: time.Now})
	require.ErrorContains(t, err, `unknown cloud "oci"`)
	_, err = New(Config{Cloud: AWS, Now: time.Now})
	require.ErrorContains(t, err, "Config.Instance")
	_, err = New(Config{Cloud: AWS, Instance: instances})
	require.ErrorContains(t, err, "Config.Now")
}

func TestAModeHoldsForItsClientsOnly(t *testing.T) {
	t.Parallel()
	for _, cloud := range []Cloud{AWS, Azure, GCP} {
		t.Run(string(cloud), func(t *testing.T) {
			s, _ := newServer(t, cloud, func(c *Config) { c.AllowV1 = true })
			base := serve(t, s, "127.0.0.1:0")
			one, two := client(t, "127.0.0.1"), client(t, "127.0.0.2")
			path, header := healthy(cloud)
			for mode, want := range map[Mode]int{HTTP500: 500, Disabled: 403, Throttle: 429} {
				require.NoError(t, s.SetMode(mode, prefix("127.0.0.2/32")))
				require.Equal(t, 200, ask(t, one, "GET", base+path, header).status, "%s is for the other", mode)
				got := ask(t, two, "GET", base+path, header)
				require.Equal(t, want, got.status, mode)
				require.NotEmpty(t, got.header.Get("Server"))
				require.NoError(t, s.SetMode(mode))
				require.Equal(t, want, ask(t, one, "GET", base+path, header).status, "%s is for all", mode)
				require.NoError(t, s.SetMode(Healthy))
				require.Equal(t, 200, ask(t, two, "GET", base+path, header).status, "%s was taken back", mode)
			}
		})
	}
}

// healthy is a request that each cloud's server answers with 200.
func healthy(cloud Cloud) (path, header string) {
	switch cloud {
	case Azure:
		return "/metadata/versions", "Metadata: true"
	case GCP:
		return "/computeMetadata/v1/instance/id", "Metadata-Flavor: Google"
	}
	return "/latest/meta-data/instance-id", "Accept: */*"
}

func TestDisabledOfAWSIsForThePutAsWell(t *testing.T) {
	t.Parallel()
	s, _ := newServer(t, AWS, nil)
	base := serve(t, s, "127.0.0.1:0")
	require.NoError(t, s.SetMode(Disabled))
	require.Equal(t, 403, ask(t, client(t, ""), "PUT", base+awsTokenPath, awsTokenTTLHeader+": 60").status)
	require.Equal(t, 403, ask(t, client(t, ""), "GET", base+"/latest/meta-data/").status)
}

func TestThrottlingAllowsTheRateThatWasSet(t *testing.T) {
	t.Parallel()
	s, clock := newServer(t, GCP, nil)
	base := serve(t, s, "127.0.0.1:0")
	path, header := healthy(GCP)
	s.SetThrottle(2)
	burst := func(c *http.Client) (ok int) {
		for range 6 {
			if ask(t, c, "GET", base+path, header).status == 200 {
				ok++
			}
		}
		return ok
	}
	require.Equal(t, 2, burst(client(t, "127.0.0.1")))
	require.Equal(t, 2, burst(client(t, "127.0.0.2")), "each client has a rate of its own")
	clock.advance(500 * time.Millisecond)
	require.Equal(t, 1, burst(client(t, "127.0.0.1")))
}

func TestAnImpostorLooksLikeNoCloud(t *testing.T) {
	t.Parallel()
	for _, cloud := range []Cloud{AWS, Azure, GCP} {
		s, _ := newServer(t, cloud, nil)
		base := serve(t, s, "127.0.0.1:0")
		require.NoError(t, s.SetMode(Impostor))
		path, header := healthy(cloud)
		got := ask(t, client(t, ""), "GET", base+path, header)
		require.Equal(t, 200, got.status)
		require.Empty(t, got.header.Get("Metadata-Flavor"))
		require.Equal(t, "nginx", got.header.Get("Server"))
		require.Contains(t, got.body, "<html>")
		require.Equal(t, 200, ask(t, client(t, ""), "PUT", base+awsTokenPath).status)
	}
}

func TestTimeoutTakesTheRequestAndNeverAnswers(t *testing.T) {
	t.Parallel()
	s, _ := newServer(t, AWS, func(c *Config) { c.AllowV1 = true })
	base := serve(t, s, "127.0.0.1:0")
	path, header := healthy(AWS)
	require.NoError(t, s.SetMode(Timeout, prefix("127.0.0.2/32")))
	hanging := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := try(ctx, client(t, "127.0.0.2"), "GET", base+path, header)
		hanging <- err
	}()
	testutils.Eventually(t, 5*time.Second, "the request arrived", func() bool { return len(s.Requests()) == 1 })
	require.Equal(t, 200, ask(t, client(t, "127.0.0.1"), "GET", base+path, header).status)
	require.NoError(t, s.SetMode(Healthy))
	require.ErrorIs(t, <-hanging, context.DeadlineExceeded, "also after the fault was taken back")
	require.Equal(t, 200, ask(t, client(t, "127.0.0.2"), "GET", base+path, header).status)
}

func TestServeEndsWithRequestsInItsHands(t *testing.T) {
	s, _ := newServer(t, AWS, nil)
	require.NoError(t, s.SetMode(Timeout))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	const n = 8
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := try(t.Context(), client(t, ""), "GET", "http://"+listener.Addr().String()+"/")
			errs <- err
		}()
	}
	testutils.Eventually(t, 5*time.Second, "all requests arrived", func() bool {
		all := s.Requests()
		return len(all) == 1 && all[0].N == n
	})
	cancel()
	require.NoError(t, <-served)
	for range n {
		require.Error(t, <-errs)
	}
}

func TestAModeThatTheCloudDoesNotHaveIsAnError(t *testing.T) {
	for _, cloud := range []Cloud{AWS, Azure, GCP} {
		s, _ := newServer(t, cloud, nil)
		for _, mode := range Modes(cloud) {
			require.NoError(t, s.SetMode(mode), "%s %s", cloud, mode)
		}
		require.ErrorContains(t, s.SetMode("refuse"), `no mode "refuse"`)
		if cloud != AWS {
			require.ErrorContains(t, s.SetMode(HopLimit), "hop-limit")
		}
	}
}

func TestModesMayChangeWhileRequestsCome(t *testing.T) {
	t.Parallel()
	s, _ := newServer(t, AWS, nil)
	base := serve(t, s, "127.0.0.1:0")
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 25 {
				_, err := try(t.Context(), client(t, ""), "PUT", base+awsTokenPath, awsTokenTTLHeader+": 60")
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 100 {
		for _, mode := range []Mode{Disabled, HTTP500, HopLimit, Impostor, Throttle, Healthy} {
			require.NoError(t, s.SetMode(mode, prefix("127.0.0.0/8")))
		}
		s.SecretRequests()
	}
	group.Wait()
}
