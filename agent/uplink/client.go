// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/plumb-dev/plumb/agent/ledger"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/internal/mss"
)

// Defaults of Config.
const (
	DefaultInterval        = 10 * time.Second
	DefaultFullInterval    = 60 * time.Second
	DefaultRingBytes       = 256 << 10
	DefaultSpoolBytes      = 16 << 20
	DefaultReconnectSpread = 30 * time.Second
	// MaxEndpoints is how many replicas one agent pushes to at most.
	MaxEndpoints = 16
)

// ErrNotConnected means that no endpoint is connected at present.
var ErrNotConnected = errors.New("no aggregator is connected")

// A Source is what the agent knows; *ledger.Ledger is one.
type Source interface {
	Full() ledger.Snapshot
	Since(version uint64) ledger.Snapshot
	// Forget is told the version up to which no removed subject need be
	// remembered any more.
	Forget(version uint64)
}

// A Clock reads the node's clocks; *hostclock.Clock is one.
type Clock interface {
	// Now is the node's wall clock, right or wrong.
	Now() time.Time
	// Boottime is CLOCK_BOOTTIME in nanoseconds.
	Boottime() uint64
}

// Config is what a Client needs.
type Config struct {
	// Endpoints are the aggregator's replicas, https://HOST:PORT each. Every
	// batch goes to every one of them.
	Endpoints []string
	// CAPEM pins the certificate authorities of the endpoints. If it is empty
	// CAFile is read instead, again before every connection.
	CAPEM  []byte
	CAFile string
	// TokenFile holds this node's token; read for every call.
	TokenFile string
	Source    Source
	Clock     Clock
	// Interval is the time between batches while nothing calls Wake.
	Interval time.Duration
	// FullInterval is the time between FULL batches.
	FullInterval time.Duration
	// SpoolDir keeps episodes, the last good addresses and the last verified time
	// over restarts. Optional: without it they are kept in memory only.
	SpoolDir string
	// RingBytes bounds the episodes in memory, SpoolBytes those on disk.
	RingBytes  int
	SpoolBytes int64
	// MaxSegment is the largest TCP segment in bytes, 88 to 32767 (internal/mss).
	MaxSegment int
	// ReconnectSpread bounds the random wait before a connection is tried again.
	ReconnectSpread time.Duration
	// BuildTime is when the agent was built; zero when it is not known.
	BuildTime time.Time
	// NodeName is what this node is called. Who it is, the aggregator decides by the
	// token; one that names another node is not used.
	NodeName string
	// Version is display only.
	Version string
	// BootID names this run: "<kernel boot id>/<start in boottime nanoseconds>".
	BootID string
	// MeasuredTime returns what to ADD to the node's clock to get the true time
	// (true time minus node clock), the sources that agree on it, and whether two
	// independent groups do. If ok is false the sources are those that do not
	// agree, for the report. Optional.
	MeasuredTime func() (offset time.Duration, sources []string, ok bool)
	// OnDirective carries out a directive; ctx ends with its time to live.
	// Optional: without it all are refused.
	OnDirective func(ctx context.Context, d *evidencev1.Directive) error
	// OnZone is told the node's zone when an aggregator says it. Optional.
	OnZone func(zone string)
	// Resolver looks up the endpoints' names. Optional: the system's.
	Resolver Resolver
	Log      *slog.Logger
	// Registerer takes the metrics. Optional.
	Registerer prometheus.Registerer
}

func (c *Config) complete() error {
	if c.Source == nil || c.Clock == nil || c.Log == nil {
		return errors.New("configure uplink: Source, Clock and Log are needed")
	}
	if len(c.Endpoints) == 0 || len(c.Endpoints) > MaxEndpoints {
		return fmt.Errorf("configure uplink: %d endpoints; give 1 to %d", len(c.Endpoints), MaxEndpoints)
	}
	if c.TokenFile == "" {
		return errors.New("configure uplink: no token file")
	}
	if kernel, start, ok := strings.Cut(c.BootID, "/"); !ok || kernel == "" || start == "" {
		return fmt.Errorf("configure uplink: boot id %q is not KERNEL-BOOT-ID/START", c.BootID)
	}
	if c.Interval == 0 {
		c.Interval = DefaultInterval
	}
	if c.FullInterval == 0 {
		c.FullInterval = DefaultFullInterval
	}
	if c.RingBytes == 0 {
		c.RingBytes = DefaultRingBytes
	}
	if c.SpoolBytes == 0 {
		c.SpoolBytes = DefaultSpoolBytes
	}
	if c.MaxSegment == 0 {
		c.MaxSegment = mss.Default
	}
	if c.ReconnectSpread == 0 {
		c.ReconnectSpread = DefaultReconnectSpread
	}
	if c.Interval < 0 || c.FullInterval < 0 || c.RingBytes < 0 || c.SpoolBytes < 0 || c.ReconnectSpread < 0 {
		return errors.New("configure uplink: intervals and sizes must not be negative")
	}
	if err := mss.Check(c.MaxSegment); err != nil {
		return fmt.Errorf("configure uplink: %w", err)
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	return nil
}

// A Client pushes what the agent knows to every endpoint. Its methods are safe
// for concurrent use; Run is called once.
type Client struct {
	cfg        Config
	log        *slog.Logger
	endpoints  []*endpoint
	episodes   *episodeStore
	memory     *memory
	directives *directives
	metrics    *metrics
	// inNetwork runs what makes a socket. Tests replace it to be in a network
	// namespace.
	inNetwork func(func() error) error

	// mu guards what all endpoints share; it is taken before an endpoint's own.
	mu       sync.Mutex
	pinned   []*x509.Certificate
	caFailed bool
	zoneNow  string
	forgot   uint64
}

// New checks the configuration, reads the CA and what an earlier run left, and
// returns a client that Run starts. A spool that cannot be used is not an error:
// episodes are in memory only until it can.
func New(cfg Config) (*Client, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, log: cfg.Log.With("component", "uplink"), inNetwork: func(f func() error) error { return f() }}
	if err := c.loadAuthorities(); err != nil {
		return nil, fmt.Errorf("configure uplink: %w", err)
	}
	seen := map[string]bool{}
	for i, raw := range cfg.Endpoints {
		e, err := newEndpoint(c, i, raw)
		if err != nil {
			return nil, fmt.Errorf("configure uplink: %w", err)
		}
		if seen[e.name] {
			return nil, fmt.Errorf("configure uplink: endpoint %s is given twice", e.name)
		}
		seen[e.name] = true
		c.endpoints = append(c.endpoints, e)
	}
	c.memory = newMemory(cfg.SpoolDir, c.log)
	c.episodes = newEpisodeStore(cfg.SpoolDir, cfg.RingBytes, cfg.SpoolBytes, len(c.endpoints), c.log)
	var err error
	if c.metrics, err = newMetrics(c, cfg.Registerer); err != nil {
		return nil, fmt.Errorf("configure uplink: %w", err)
	}
	c.directives = newDirectives(cfg.OnDirective, c.log, c.metrics.directive)
	if cfg.SpoolDir != "" {
		// What an earlier run left goes out with the first batch, if the disk is
		// not hung.
		within(c.episodes.disk.kick(), readPatience)
	}
	return c, nil
}

// Run pushes until ctx is done, hands over what it can within a second, and
// releases everything. It returns nil.
func (c *Client) Run(ctx context.Context) error {
	c.directives.start(ctx)
	var senders sync.WaitGroup
	for _, e := range c.endpoints {
		senders.Go(func() { e.run(ctx) })
	}
	senders.Wait()
	c.directives.stop()
	c.close()
	return nil
}

func (c *Client) close() {
	c.episodes.close()
	c.memory.close()
	c.metrics.unregister()
}

// Wake makes a batch due now instead of at the end of the interval. Calls in
// quick succession make one batch.
func (c *Client) Wake() {
	for _, e := range c.endpoints {
		e.signal()
	}
}

// Episode takes an episode for delivery and makes a batch due. It returns when
// the spool has it (fsynced): from then on it survives kill -9 and power loss.
// It waits 500 ms at most, and not at all while the disk is known to be slow or
// there is no spool; then the episode is in memory and goes out from there, and
// is lost if the agent is killed before an endpoint or the disk has it. An
// episode without a boot id gets this run's.
func (c *Client) Episode(episode *evidencev1.Episode) {
	if episode.GetBootId() == "" {
		episode = proto.CloneOf(episode)
		episode.BootId = c.cfg.BootID
	}
	data, err := proto.Marshal(episode)
	if err == nil && len(data) > maxEpisodeBytes {
		err = fmt.Errorf("%d bytes, at most %d are taken", len(data), maxEpisodeBytes)
	}
	if err != nil {
		c.episodes.lost()
		c.log.Error("dropped an episode that cannot be sent", "episode", episode.GetId(), "condition", episode.GetCondition(), "error", err)
		return
	}
	over := c.episodes.add(data)
	c.Wake()
	c.episodes.settle(over)
}

// loadAuthorities reads the pinned CA. When it is read again and cannot be, the
// former stays in use.
func (c *Client) loadAuthorities() error {
	data := c.cfg.CAPEM
	if len(data) == 0 {
		if c.cfg.CAFile == "" {
			return errors.New("no CA is given; the uplink trusts no public one")
		}
		var err error
		if data, err = os.ReadFile(c.cfg.CAFile); err != nil {
			return fmt.Errorf("read CA file: %w", err)
		}
	}
	pinned, err := parseAuthorities(data)
	if err != nil && len(c.cfg.CAPEM) == 0 {
		return fmt.Errorf("read CA file %s: %w", c.cfg.CAFile, err)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pinned = pinned
	return nil
}

// authorities returns the pinned CA as it is now.
func (c *Client) authorities() []*x509.Certificate {
	err := c.loadAuthorities()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && !c.caFailed {
		c.log.Warn("cannot read the CA again; the former one stays in use", "error", err)
	}
	c.caFailed = err != nil
	return c.pinned
}

// reading gathers what is known of the time.
func (c *Client) reading() reading {
	r := reading{node: c.cfg.Clock.Now(), build: c.cfg.BuildTime, verified: c.memory.lastVerified()}
	if c.cfg.MeasuredTime != nil {
		r.correction, r.sources, r.measured = c.cfg.MeasuredTime()
	}
	return r
}

// forgetLocked lets the source forget what every endpoint knows. Endpoints that
// will get a FULL batch next need nothing remembered.
func (c *Client) forgetLocked() {
	var least uint64
	any := false
	for _, e := range c.endpoints {
		if v, counts := e.remembers(); counts && (!any || v < least) {
			least, any = v, true
		}
	}
	if any && least > c.forgot {
		c.forgot = least
		c.cfg.Source.Forget(least)
	}
}

// zone passes the node's zone on when it is new.
func (c *Client) zone(zone string) {
	c.mu.Lock()
	changed := zone != "" && zone != c.zoneNow
	if changed {
		c.zoneNow = zone
	}
	c.mu.Unlock()
	if changed && c.cfg.OnZone != nil {
		c.cfg.OnZone(zone)
	}
}
