// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package aggregator wires the parts of plumb-aggregator: evidence flows from
// ingest through state, signatures and verdicts to the read API, and what must
// last goes through the bus.
package aggregator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/aggregator/api"
	"github.com/plumb-dev/plumb/aggregator/bus"
	"github.com/plumb-dev/plumb/aggregator/identity"
	"github.com/plumb-dev/plumb/aggregator/ingest"
	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/aggregator/verdict"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// Config is what plumb-aggregator's flags say.
type Config struct {
	// ListenAddress is where agents push; TLS always.
	ListenAddress string
	// APIAddress is where the read API listens; meant for loopback.
	APIAddress string
	// MetricsAddress serves /metrics, /healthz and /readyz.
	MetricsAddress string
	// AllowedHosts are names besides the loopback ones that the read API answers to.
	AllowedHosts []string
	TLSCert      string
	TLSKey       string
	// NodesFile names the nodes and the key of their tokens.
	NodesFile string
	// SignatureDirs are added to Library.
	SignatureDirs []string
	// Library holds the built-in signatures.
	Library fs.FS
	// DataDir holds the embedded bus; BusURL names an existing JetStream instead.
	DataDir, BusURL string
	// Tenant is the first part of the bus's subjects.
	Tenant string
	// Cluster goes into the verdicts' ids; empty means as the nodes file says.
	Cluster string
	// Interval at which agents send.
	Interval time.Duration
	Log      *slog.Logger
	// OnListen, if set, is told the addresses once everything listens.
	OnListen func(Addresses)
}

// Addresses are those that a running aggregator listens on.
type Addresses struct{ Ingest, API, Metrics string }

// Defaults returns the configuration that the flags begin with.
func Defaults() Config {
	return Config{ListenAddress: ":9951", APIAddress: "127.0.0.1:9952", MetricsAddress: ":9953", Tenant: "default", Interval: 10 * time.Second}
}

const (
	// drain is how long calls that are under way may take at the end.
	drain = 3 * time.Second
	// nodesReload is how often the nodes file is looked at.
	nodesReload = 5 * time.Second
)

// files are the parsed files of a configuration.
type files struct {
	nodes      *identity.Nodes
	signatures []*signature.Signature
	cluster    string
}

// Check reads every file that the configuration names and fails with one line
// for the first that is wrong.
func Check(cfg Config) error {
	_, err := load(cfg, nil)
	if err != nil {
		return err
	}
	if _, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey); err != nil {
		return fmt.Errorf("read the certificate %s and its key %s: %w", cfg.TLSCert, cfg.TLSKey, err)
	}
	return nil
}

func load(cfg Config, registerer prometheus.Registerer) (files, error) {
	var f files
	var err error
	switch {
	case cfg.NodesFile == "":
		return f, errors.New("no nodes file: give --nodes FILE (plumb-aggregator init DIR makes one)")
	case cfg.TLSCert == "" || cfg.TLSKey == "":
		return f, errors.New("no certificate: give --tls-cert and --tls-key, the uplink is never without TLS (plumb-aggregator init DIR makes them)")
	case cfg.DataDir == "" && cfg.BusURL == "":
		return f, errors.New("nowhere to keep episodes and verdicts: give --data-dir DIR or --bus nats://HOST:4222")
	case cfg.DataDir != "" && cfg.BusURL != "":
		return f, errors.New("--data-dir and --bus exclude each other: give one")
	case cfg.Interval < time.Second:
		return f, fmt.Errorf("--interval %s: agents send at most once a second, give at least 1s", cfg.Interval)
	}
	if f.nodes, err = identity.New(identity.Config{Path: cfg.NodesFile, Log: cfg.Log, Registerer: registerer}); err != nil {
		return f, err
	}
	f.cluster = f.nodes.Cluster()
	if cfg.Cluster != "" && cfg.Cluster != f.cluster {
		return f, fmt.Errorf("--cluster %s: nodes file %s is of cluster %s; verdicts are named after the cluster, so the two must agree", cfg.Cluster, cfg.NodesFile, f.cluster)
	}
	catalog := evidence.NewCatalog()
	var lists [][]*signature.Signature
	if cfg.Library != nil {
		builtin, err := signature.LoadBuiltin(cfg.Library, catalog)
		if err != nil {
			return f, fmt.Errorf("load the built-in signatures: %w", oneLine(err))
		}
		lists = append(lists, builtin)
	}
	for _, dir := range cfg.SignatureDirs {
		more, err := signature.LoadDir(dir, catalog)
		if err != nil {
			return f, fmt.Errorf("load signatures of %s: %w", dir, oneLine(err))
		}
		lists = append(lists, more)
	}
	if f.signatures, err = signature.Merge(lists...); err != nil {
		return f, fmt.Errorf("load signatures: %w", oneLine(err))
	}
	return f, nil
}

// oneLine shortens a list of problems to the first and how many there are more.
func oneLine(err error) error {
	first, rest, more := strings.Cut(strings.TrimSpace(err.Error()), "\n")
	if !more {
		return err
	}
	return fmt.Errorf("%s (and %d more; plumb signatures check names them all)", first, strings.Count(rest, "\n")+1)
}

// Run serves until ctx ends, then lets what is under way finish.
func Run(ctx context.Context, cfg Config) (err error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())
	f, err := load(cfg, registry)
	if err != nil {
		return err
	}
	log := cfg.Log
	uplink, err := ingest.Listen(ctx, ingest.ListenConfig{Address: cfg.ListenAddress, CertFile: cfg.TLSCert, KeyFile: cfg.TLSKey, Log: log, Registerer: registry})
	if err != nil {
		return err
	}
	defer uplink.Close()
	apiListener, err := listen(ctx, "the read API", "--api-address", cfg.APIAddress)
	if err != nil {
		return err
	}
	defer apiListener.Close()
	metricsListener, err := listen(ctx, "metrics", "--metrics-address", cfg.MetricsAddress)
	if err != nil {
		return err
	}
	defer metricsListener.Close()

	journal, err := bus.Open(ctx, bus.Config{Dir: cfg.DataDir, URL: cfg.BusURL, Tenant: cfg.Tenant, Cluster: f.cluster, Log: log, Registerer: registry})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, journal.Close()) }()

	catalog := evidence.NewCatalog()
	evidenceState := state.New(state.Config{Catalog: catalog, Interval: cfg.Interval, Log: log.With("component", "state"), Registerer: registry})
	if err := know(evidenceState, f.nodes); err != nil {
		return err
	}
	if err := restoreEpisodes(ctx, journal, evidenceState, log); err != nil {
		return err
	}
	engine, err := verdict.New(verdict.Config{Cluster: f.cluster, State: evidenceState, Catalog: catalog, Rules: verdict.Rules(f.signatures), Journal: journal, Log: log, Registerer: registry})
	if err != nil {
		return err
	}
	if err := engine.Restore(ctx); err != nil {
		return err
	}
	receiver, err := ingest.New(ingest.Config{Authenticator: f.nodes, State: sink{evidenceState}, Journal: journal, Token: bus.Token, Catalog: catalog, KernelBootID: kernelBootID(), Log: log, Registerer: registry})
	if err != nil {
		return err
	}
	engine.SetDirector(receiver)
	query := api.New(api.Config{State: evidenceState, Engine: engine, Signatures: f.signatures, Catalog: catalog, AllowedHosts: cfg.AllowedHosts, Log: log, Registerer: registry})

	servers := []*server{
		{Server: receiver.Server(), listener: uplink},
		{Server: &http.Server{Handler: query.Handler(), Protocols: api.Protocols(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10}, listener: apiListener},
		{Server: metricsServer(registry, journal, log), listener: metricsListener},
	}
	servers[1].RegisterOnShutdown(query.Stop)
	addresses := Addresses{Ingest: uplink.Addr().String(), API: apiListener.Addr().String(), Metrics: metricsListener.Addr().String()}
	log.Info("aggregator is listening", "ingest_address", addresses.Ingest, "api_address", addresses.API, "metrics_address", addresses.Metrics,
		"cluster", f.cluster, "signatures", len(f.signatures), "nodes", len(f.nodes.All()))
	if cfg.OnListen != nil {
		cfg.OnListen(addresses)
	}
	return serve(ctx, servers, engine, f.nodes, evidenceState, log)
}

// serve runs everything until ctx ends. The engine outlives the servers, so that
// what the last batches said is made durable.
func serve(ctx context.Context, servers []*server, engine *verdict.Engine, nodes *identity.Nodes, evidenceState *state.State, log *slog.Logger) error {
	engineCtx, stopEngine := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEngine()
	group, groupCtx := errgroup.WithContext(ctx)
	engineDone := make(chan error, 1)
	go func() { engineDone <- engine.Run(engineCtx) }()
	for _, s := range servers {
		group.Go(func() error { return s.run(groupCtx) })
	}
	group.Go(func() error {
		nodes.Run(groupCtx, nodesReload)
		return nil
	})
	group.Go(func() error {
		tick := time.NewTicker(nodesReload)
		defer tick.Stop()
		for {
			select {
			case <-groupCtx.Done():
				return nil
			case <-tick.C:
				if err := know(evidenceState, nodes); err != nil {
					log.Error("node of the nodes file cannot be shown", "error", err)
				}
			}
		}
	})
	err := group.Wait()
	stopEngine()
	return errors.Join(err, <-engineDone)
}

// server is an HTTP server with its listener.
type server struct {
	*http.Server
	listener net.Listener
}

func (s *server) run(ctx context.Context) error {
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		drainCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		if err := s.Shutdown(drainCtx); err != nil {
			// What does not finish in time is cut off; agents send it again.
			err = s.Close()
			stopped <- err
			return
		}
		stopped <- nil
	}()
	if err := s.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %s: %w", s.listener.Addr(), err)
	}
	return <-stopped
}

func listen(ctx context.Context, what, flag, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("listen for %s on %s: %w: stop the process that has the port or choose another with %s", what, address, unix.EADDRINUSE, flag)
	case err != nil:
		return nil, fmt.Errorf("listen for %s: %w", what, err)
	}
	return l, nil
}

// sink gives ingest the state in its own words.
type sink struct{ state *state.State }

func (s sink) Apply(node identity.Node, arrival time.Time, req *evidencev1.PushRequest) (ingest.Applied, error) {
	applied, err := s.state.Apply(state.NodeInfo(node), arrival, req)
	return ingest.Applied(applied), err
}

// know shows the nodes of the nodes file before they report.
func know(s *state.State, nodes *identity.Nodes) error {
	for _, n := range nodes.All() {
		if err := s.Know(state.NodeInfo(n)); err != nil {
			return err
		}
	}
	return nil
}

// restoreEpisodes brings back the episodes of the bus. One that cannot be read
// is logged and skipped.
func restoreEpisodes(ctx context.Context, journal *bus.Bus, s *state.State, log *slog.Logger) error {
	err := journal.Replay(ctx, ingest.EpisodeSubject+">", func(subject string, _ time.Time, data []byte) error {
		r, err := ingest.DecodeEpisodeRecord(data)
		if err != nil {
			log.Error("episode is not brought back", "subject", subject, "error", err)
			return nil
		}
		return s.Restore(state.NodeInfo(r.Node), state.Episode{
			ID: r.ID, Condition: r.Condition, BootID: r.BootID, Subject: evidence.Subject(r.Subject),
			Onset: r.Onset, OnsetClaimed: r.Claimed, ClosedAt: r.Closed,
		})
	})
	if err != nil {
		return fmt.Errorf("bring back episodes: %w", err)
	}
	return nil
}

// kernelBootID is empty where /proc does not tell; agents then take their
// exchange with this clock at its word.
func kernelBootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
