// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/agent/check"
	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/agent/ledger"
	"github.com/plumb-dev/plumb/agent/metrics"
	"github.com/plumb-dev/plumb/agent/schedule"
	"github.com/plumb-dev/plumb/agent/uplink"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// node is one assembled agent.
type node struct {
	cfg       Config
	catalog   *evidence.Catalog
	clock     *hostclock.Clock
	ledger    *ledger.Ledger
	registry  *prometheus.Registry
	probes    *probes
	uplink    *uplink.Client
	scheduler *schedule.Scheduler
}

// assemble builds everything and starts nothing. A probe that cannot be set up
// is part of the table with its error.
func assemble(cfg Config, interval time.Duration) (*node, error) {
	n := &node{
		cfg: cfg, catalog: evidence.NewCatalog(), clock: hostclock.New(), ledger: ledger.New(),
		registry: prometheus.NewRegistry(),
	}
	kernelBoot, err := kernelBootID(cfg.ProcPath)
	if err != nil {
		return nil, err
	}
	bootID := fmt.Sprintf("%s/%d", kernelBoot, n.clock.Boottime())
	nodeUID := cfg.NodeName
	if len(cfg.Aggregators) > 0 {
		if uid, err := uplink.NodeUID(cfg.TokenFile); err == nil {
			nodeUID = uid
		} else {
			// The file may come later; until then evidence waits in the uplink. The uid
			// only makes episode ids differ between nodes, which the boot id does too.
			cfg.Log.Warn("token cannot be read yet", "error", err.Error())
		}
		n.uplink, err = uplink.New(uplink.Config{
			Endpoints: cfg.Aggregators, CAFile: cfg.CAFile, TokenFile: cfg.TokenFile,
			Source: n.ledger, Clock: n.clock, Interval: cfg.PushInterval, SpoolDir: cfg.SpoolDir,
			MaxSegment: cfg.MaxSegment, BuildTime: cfg.BuildTime, NodeName: cfg.NodeName, Version: cfg.Version,
			BootID: bootID, MeasuredTime: n.measuredTime, OnDirective: n.carryOut, OnZone: cfg.OnZone,
			Log: cfg.Log, Registerer: n.registry,
		})
		if err != nil {
			return nil, err
		}
	}
	n.probes = newProbes(cfg, n.clock, kernelBoot, n.uplink, n.registry)
	schedulerConfig := schedule.Config{
		Probes: n.probes.table, Catalog: n.catalog, Ledger: n.ledger, Clock: n.clock,
		NodeUID: nodeUID, BootID: bootID, Interval: interval,
		Log: cfg.Log.With("component", "schedule"), Registerer: n.registry,
	}
	if n.uplink != nil {
		schedulerConfig.Uplink = n.uplink
	}
	if n.scheduler, err = schedule.New(schedulerConfig); err != nil {
		n.probes.close()
		return nil, err
	}
	n.registry.MustRegister(
		metrics.New(n.ledger, n.catalog, cfg.PodMetrics),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewGoCollector(),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "plumb_agent_build_info", Help: "Always 1; the labels say which build this is.",
			ConstLabels: prometheus.Labels{"version": cfg.Version},
		}, func() float64 { return 1 }),
	)
	return n, nil
}

// Run measures and pushes until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	n, err := assemble(cfg, cfg.Interval)
	if err != nil {
		return err
	}
	defer n.probes.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	var wg sync.WaitGroup
	if cfg.ListenAddress != "" {
		// The address is taken before anything is measured: a second agent on the
		// node ends here.
		listener, err := net.Listen("tcp", cfg.ListenAddress)
		if err != nil {
			return fmt.Errorf("serve metrics: %w; give another --listen-address, or none as ''", err)
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := n.serve(ctx, listener); err != nil {
				cancel(err)
			}
		}()
	}
	if n.uplink != nil {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := n.uplink.Run(ctx); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		}()
	} else {
		cfg.Log.Warn("no aggregator is configured, evidence stays on this node's /metrics")
	}
	cfg.Log.Info("agent started", "version", cfg.Version, "probes", strings.Join(cfg.Probes, ","), "aggregators", len(cfg.Aggregators))
	n.scheduler.Run(ctx)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// Check samples every probe and reports what it can see. It pushes nothing.
func Check(ctx context.Context, cfg Config) (*check.Report, error) {
	cfg.Aggregators = nil
	n, err := assemble(cfg, time.Second)
	if err != nil {
		return nil, err
	}
	defer n.probes.close()
	report := &check.Report{Version: cfg.Version, User: os.Geteuid()}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err == nil {
		report.Kernel = unix.ByteSliceToString(uts.Release[:])
		report.Architecture = unix.ByteSliceToString(uts.Machine[:])
	}
	if report.Capabilities, err = check.Capabilities(cfg.ProcPath); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.scheduler.Run(running)
	}()
	n.settle(ctx)
	report.Fill(n.ledger.Full(), n.scheduler.Hooks(), n.catalog)
	stop()
	<-done
	return report, nil
}

// settleTime is how long --check waits, after the first sample of every probe,
// for hooks that need several exchanges (time servers).
const settleTime = 5 * time.Second

func (n *node) settle(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var until time.Time
	for {
		if n.scheduler.Ready() {
			if until.IsZero() {
				until = time.Now().Add(settleTime)
			}
			if n.allActive() || time.Now().After(until) {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (n *node) allActive() bool {
	for _, h := range n.scheduler.Hooks() {
		if !h.Confirmed {
			return false
		}
	}
	return true
}

// carryOut does what a directive of the closed list asks.
func (n *node) carryOut(ctx context.Context, d *evidencev1.Directive) error {
	switch action := d.GetAction().(type) {
	case *evidencev1.Directive_SampleProbe:
		return n.scheduler.SampleNow(ctx, action.SampleProbe.GetProbe())
	default:
		return errors.New("refuse directive: this agent does not know its action; a newer agent may")
	}
}

// serve answers scrapes and health checks until ctx ends.
func (n *node) serve(ctx context.Context, listener net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !n.scheduler.Ready() {
			http.Error(w, "not every probe has been sampled yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10, IdleTimeout: time.Minute}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		quiet, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = server.Shutdown(quiet) // the process ends anyway
	}()
	err := server.Serve(listener)
	<-stopped
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve metrics: %w", err)
}

// kernelBootID names this boot of this kernel.
func kernelBootID(procPath string) (string, error) {
	path := filepath.Join(procPath, "sys", "kernel", "random", "boot_id")
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read kernel boot id: %w; mount the node's /proc and give --proc-path", err)
	}
	return strings.TrimSpace(string(raw)), nil
}
