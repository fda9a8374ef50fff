// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/plumb-dev/plumb/test/lab/service/internal/byclient"
	"github.com/plumb-dev/plumb/test/lab/service/internal/httpserve"
)

// Cloud is whose metadata server is imitated.
type Cloud string

// The clouds.
const (
	AWS   Cloud = "aws"
	Azure Cloud = "azure"
	GCP   Cloud = "gcp"
)

// Mode is how the server treats a client.
type Mode string

// The modes. A connection that a firewall refuses or drops is not among them: that
// is the fabric's to do.
const (
	// Healthy answers as the cloud does.
	Healthy Mode = "healthy"
	// HTTP500 answers every request with an internal error.
	HTTP500 Mode = "http-500"
	// Throttle answers with 429 what is over the allowed rate, see SetThrottle. Azure
	// and GCP document 429. AWS drops packets at the hypervisor instead and counts
	// them in linklocal_allowance_exceeded of the ENA driver (Amazon EC2 User Guide,
	// "Metrics for the ENA driver"), which no veth has, so its clients see 429 too.
	Throttle Mode = "throttle"
	// Disabled answers 403. AWS: "the request is not allowed or the IMDS is turned
	// off" (Amazon EC2 User Guide, "Retrieve instance metadata", responses and error
	// messages). GCP: "the requested endpoint is disabled by project or instance
	// settings" (Compute Engine, "Troubleshoot metadata server access", server
	// codes). Azure documents no switch; the nearest is the Metadata Security
	// Protocol in mode Enforce, whose proxy answers 403 to a process that is not on
	// the list (Azure/GuestProxyAgent, handle_new_http_request).
	Disabled Mode = "disabled"
	// HopLimit sends the answer to AWS's PUT with an IP TTL (or IPv6 hop limit) of 1,
	// the default of HttpPutResponseHopLimit (EC2 API, ModifyInstanceMetadataOptions:
	// 1 to 64): it reaches the node and dies on the way to a pod behind it. The
	// handshake, and answers to GET, have the usual one. AWS only.
	HopLimit Mode = "hop-limit"
	// Impostor answers everything with the web page of another server.
	Impostor Mode = "impostor"
	// Timeout takes connections and requests, and answers none.
	Timeout Mode = "timeout"
)

// Modes returns all modes that a cloud's server has.
func Modes(cloud Cloud) []Mode {
	modes := []Mode{Healthy, HTTP500, Throttle, Disabled, Impostor, Timeout}
	if cloud == AWS {
		modes = append(modes, HopLimit)
	}
	return modes
}

// An Instance is the machine that a client runs on.
type Instance struct {
	// ID as the cloud writes it: i-0123456789abcdef0, a UUID, or a number. With ""
	// there is no instance: nothing is found.
	ID string
	// Name is the host name.
	Name string
	// Region and Zone, for example eu-west-1 and eu-west-1a; for Azure the location
	// and the number of the zone.
	Region, Zone string
	// Type is the machine type, for example m7i.large.
	Type string
}

// Config is what a server needs. Cloud, Instance and Now are required.
type Config struct {
	Cloud Cloud
	// Instance says on which machine a client runs, that of the node for the pods on
	// it. It is called from many goroutines at once, and gets IPv4 addresses as IPv4
	// also when they come through an IPv6 socket.
	Instance func(client netip.Addr) Instance
	// Now is the clock that tokens and rates go by.
	Now func() time.Time
	// AllowV1 lets AWS's clients ask without a token (HttpTokens: optional). The
	// default is required: version 2 only.
	AllowV1 bool
}

// A Server answers as one cloud's metadata server. Safe for concurrent use.
type Server struct {
	cfg      Config
	tokens   tokens
	modes    byclient.Table[state]
	requests counters
}

// state is a mode and what it allows.
type state struct {
	mode Mode
	// allowed is for Throttle: the limiters of its clients.
	allowed *allowance
}

// New returns a healthy server that is not serving yet. It fails on a cloud that it
// does not know and on a Config that is not complete.
func New(cfg Config) (*Server, error) {
	if !slices.Contains([]Cloud{AWS, Azure, GCP}, cfg.Cloud) {
		return nil, fmt.Errorf("metadata server: unknown cloud %q: name aws, azure or gcp", cfg.Cloud)
	}
	if cfg.Instance == nil || cfg.Now == nil {
		return nil, errors.New("metadata server: Config.Instance and Config.Now are required")
	}
	s := &Server{cfg: cfg}
	s.tokens.key = make([]byte, 32)
	if _, err := rand.Read(s.tokens.key); err != nil {
		return nil, fmt.Errorf("metadata server: make the key of its tokens: %w", err)
	}
	return s, nil
}

// Serve answers on the listeners until ctx is done, then closes them and returns
// nil. Requests that were being held are dropped with their connections. It may be
// called for further listeners at the same time.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	server := &http.Server{
		Handler: http.HandlerFunc(s.handle),
		// The SDKs' own limits are a few hundred bytes; a metadata server reads no more
		// than it must.
		MaxHeaderBytes:    16 << 10,
		ReadHeaderTimeout: time.Minute,
		ConnContext:       withConn,
	}
	if err := httpserve.Serve(ctx, server, listeners...); err != nil {
		return fmt.Errorf("metadata server: %w", err)
	}
	return nil
}

// SetMode makes the server treat the clients of these prefixes, or all of them when
// none is given, in this mode from now on; Healthy takes a fault back. A request
// that Timeout took in stays without an answer. It fails on a mode that the cloud
// does not have.
func (s *Server) SetMode(mode Mode, clients ...netip.Prefix) error {
	if mode == Throttle {
		s.SetThrottle(0, clients...)
		return nil
	}
	if !slices.Contains(Modes(s.cfg.Cloud), mode) {
		return fmt.Errorf("metadata server: %s has no mode %q: it has %q", s.cfg.Cloud, mode, Modes(s.cfg.Cloud))
	}
	s.modes.Set(state{mode: mode}, clients...)
	return nil
}

// SetThrottle sets the mode Throttle with the number of requests a second that each
// client may make, bursts of as many (at least one) included. With 0, and below,
// every request is answered with 429.
func (s *Server) SetThrottle(perSecond float64, clients ...netip.Prefix) {
	s.modes.Set(state{mode: Throttle, allowed: &allowance{perSecond: perSecond}}, clients...)
}

// allowance holds a token bucket for each client.
type allowance struct {
	perSecond float64
	mu        sync.Mutex
	clients   map[netip.Addr]*rate.Limiter
}

func (a *allowance) allow(client netip.Addr, now time.Time) bool {
	if a.perSecond <= 0 {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	limiter := a.clients[client]
	if limiter == nil {
		if a.clients == nil {
			a.clients = map[netip.Addr]*rate.Limiter{}
		}
		limiter = rate.NewLimiter(rate.Limit(a.perSecond), max(1, int(a.perSecond)))
		a.clients[client] = limiter
	}
	return limiter.AllowN(now, 1)
}
