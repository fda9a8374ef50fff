// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/plumb-dev/plumb/internal/mss"
)

// ListenConfig says where and how agents connect.
type ListenConfig struct {
	// Address is "host:port"; port 0 takes a free one.
	Address string
	// CertFile and KeyFile are read again when they change. They are required
	// unless TLS brings certificates of its own.
	CertFile, KeyFile string
	// TLS is the base of the configuration, nil for none. The version is at least
	// 1.3 in any case.
	TLS *tls.Config
	// MaxSegment clamps TCP's segment size; 0 means 512, the value that keeps the
	// uplink working through a path whose MTU is broken.
	MaxSegment int
	// Connections bounds all connections, PerAddress those of one address;
	// 20,000 and 64. NewPerAddress bounds the new ones of an address per second,
	// with a burst of PerAddress; 10.
	Connections, PerAddress int
	NewPerAddress           float64
	// Now is the clock of the rates; nil means time.Now.
	Now func() time.Time
	// Log may be nil.
	Log *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

// Listen opens the listener: TCP_MAXSEG is set before listen(2), connections
// over the limits are closed before TLS costs anything, and what Accept returns
// are *tls.Conn that speak TLS 1.3 and offer HTTP/2. It fails with one line that
// names the address, or the file, and the mend.
func Listen(ctx context.Context, cfg ListenConfig) (net.Listener, error) {
	if cfg.MaxSegment == 0 {
		cfg.MaxSegment = mss.Default
	}
	if cfg.Connections <= 0 {
		cfg.Connections = 20_000
	}
	if cfg.PerAddress <= 0 {
		cfg.PerAddress = 64
	}
	if cfg.NewPerAddress <= 0 {
		cfg.NewPerAddress = 10
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Log = cfg.Log.With("component", "ingest")

	m := &listenMetrics{
		open: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: "connections",
			Help: "Open connections of agents."}),
		refused: counterVec("refused_connections_total", "Connections closed before TLS, by the limit that they were over.", "limit"),
		reloads: counterVec("certificate_reloads_total", "Times a changed certificate was read, by result.", "result"),
	}
	config := &tls.Config{}
	if cfg.TLS != nil {
		config = cfg.TLS.Clone()
	}
	config.MinVersion = tls.VersionTLS13
	config.NextProtos = []string{"h2", "http/1.1"}
	switch {
	case cfg.CertFile != "" || cfg.KeyFile != "":
		certs := &certificates{certFile: cfg.CertFile, keyFile: cfg.KeyFile, now: cfg.Now, log: cfg.Log, reloads: m.reloads}
		if err := certs.load(); err != nil {
			return nil, err
		}
		config.GetCertificate = certs.get
	case len(config.Certificates) == 0 && config.GetCertificate == nil && config.GetConfigForClient == nil:
		return nil, errors.New("listen for agents: a certificate and its key are required, the uplink is never without TLS")
	}
	tcp, err := mss.ListenConfig(cfg.MaxSegment).Listen(ctx, "tcp", cfg.Address)
	if err != nil {
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("listen for agents on %s: %w: stop the process that has the port or choose another address", cfg.Address, unix.EADDRINUSE)
		}
		return nil, fmt.Errorf("listen for agents on %s: %w", cfg.Address, err)
	}
	if err := register(cfg.Registerer, m.open, m.refused, m.reloads); err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	return tls.NewListener(&limited{Listener: tcp, cfg: cfg, metrics: m, quiet: newQuiet(cfg.Now), byAddress: map[netip.Addr]*address{}}, config), nil
}

type listenMetrics struct {
	open    prometheus.Gauge
	refused *prometheus.CounterVec
	reloads *prometheus.CounterVec
}

// limited closes connections that are over a limit.
type limited struct {
	net.Listener
	cfg     ListenConfig
	metrics *listenMetrics
	quiet   *quiet

	mu        sync.Mutex
	open      int
	byAddress map[netip.Addr]*address
}

type address struct {
	open int
	rate *rate.Limiter
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			c.Close()
			return nil, fmt.Errorf("accept an agent: %T is not TCP", c)
		}
		from := remote(tcp)
		limit := l.enter(from)
		if limit == "" {
			return &counted{TCPConn: tcp, leave: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		l.metrics.refused.WithLabelValues(limit).Inc()
		if n, ok := l.quiet.say(limit + from.String()); ok {
			l.cfg.Log.Warn("closed a connection over a limit", "from_address", from.String(), "limit", limit, "not_logged_before", n)
		}
		// A reset leaves no state behind on this side.
		if err := tcp.SetLinger(0); err != nil {
			l.cfg.Log.Debug("cannot reset a refused connection", "error", err)
		}
		tcp.Close()
	}
}

func remote(c *net.TCPConn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// enter counts a connection in, or names the limit that it is over.
func (l *limited) enter(from netip.Addr) string {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.cfg.Connections {
		return "connections"
	}
	a := l.byAddress[from]
	if a == nil {
		if len(l.byAddress) >= 2*l.cfg.Connections {
			l.forget()
		}
		a = &address{rate: rate.NewLimiter(rate.Limit(l.cfg.NewPerAddress), l.cfg.PerAddress)}
		l.byAddress[from] = a
	}
	if a.open >= l.cfg.PerAddress {
		return "per_address"
	}
	if !a.rate.AllowN(now, 1) {
		return "new_per_address"
	}
	a.open++
	l.open++
	l.metrics.open.Inc()
	return ""
}

// forget drops addresses without a connection. Those that used up their rate may
// begin anew by it; the map stays bounded.
func (l *limited) forget() {
	for from, a := range l.byAddress {
		if a.open == 0 {
			delete(l.byAddress, from)
		}
	}
}

func (l *limited) leave(from netip.Addr) {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	l.metrics.open.Dec()
	a := l.byAddress[from]
	a.open--
	if a.open == 0 && a.rate.TokensAt(now) >= float64(l.cfg.PerAddress) {
		delete(l.byAddress, from)
	}
}

// counted is a connection that counts itself out.
type counted struct {
	*net.TCPConn
	leave func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	defer c.leave()
	return c.TCPConn.Close()
}
