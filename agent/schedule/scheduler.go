// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plumb-dev/plumb/agent/ledger"
	"github.com/plumb-dev/plumb/agent/probe"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// Clock stamps evidence.
type Clock interface {
	// Boottime is CLOCK_BOOTTIME in nanoseconds.
	Boottime() uint64
	// Now is the wall clock, right or wrong.
	Now() time.Time
}

// Uplink is told what cannot wait for the next tick.
type Uplink interface {
	// Wake asks for a push at once.
	Wake()
	// Episode hands over an opened or closed episode, which is kept until every
	// aggregator has acknowledged it.
	Episode(*evidencev1.Episode)
}

// A Spec is one row of the agent's probe table.
type Spec struct {
	Name string
	// Probe is nil when it could not be set up; Err then says why.
	Probe probe.Probe
	Err   error
}

// Config holds what a Scheduler needs.
type Config struct {
	Probes  []Spec
	Catalog *evidence.Catalog
	Ledger  *ledger.Ledger
	Clock   Clock
	// Uplink may be nil: the agent then only serves /metrics.
	Uplink Uplink
	// NodeUID and BootID go into episode ids.
	NodeUID, BootID string
	// Interval between samples of one probe. Default 10 s.
	Interval time.Duration
	// Timeout of one sample. Default 5 s.
	Timeout time.Duration
	// Quiet is the least time between two samples that a watcher asked for, so
	// that a storm of changes cannot make the agent spin. Default 200 ms.
	Quiet time.Duration
	Log   *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

// A Scheduler decides when each probe is sampled and what its answer, or the
// lack of one, means for the ledger. Safe for concurrent use.
type Scheduler struct {
	cfg     Config
	metrics *metrics
	runners map[string]*runner
	order   []string
}

// New checks the table and returns a scheduler that is not running yet.
func New(cfg Config) (*Scheduler, error) {
	if cfg.Interval <= 0 {
		cfg.Interval = 10 * time.Second
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Quiet <= 0 {
		cfg.Quiet = 200 * time.Millisecond
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Scheduler{cfg: cfg, metrics: newMetrics(cfg.Registerer), runners: map[string]*runner{}}
	for _, spec := range cfg.Probes {
		if _, dup := s.runners[spec.Name]; dup {
			return nil, fmt.Errorf("set up scheduler: probe %q is in the table twice", spec.Name)
		}
		s.runners[spec.Name] = newRunner(s, spec)
		s.order = append(s.order, spec.Name)
	}
	return s, nil
}

// Run samples until ctx ends. It returns when every probe that still answers
// has stopped; one that hangs is left behind.
func (s *Scheduler) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, name := range s.order {
		r := s.runners[name]
		wg.Add(1)
		go func() {
			defer wg.Done()
			r.run(ctx)
		}()
	}
	wg.Wait()
}

// SampleNow samples one probe and returns when its evidence is in the ledger
// and the uplink was told. It fails for a name that is not in the table and for
// a probe that fails.
func (s *Scheduler) SampleNow(ctx context.Context, name string) error {
	r, ok := s.runners[name]
	if !ok {
		return fmt.Errorf("sample probe %q: this agent has no such probe; it has %v", name, s.order)
	}
	return r.demand(ctx)
}

// Hooks returns the hooks of every probe that measures through one, in the
// order of the table.
func (s *Scheduler) Hooks() []probe.Hook {
	var out []probe.Hook
	for _, name := range s.order {
		if h, ok := s.runners[name].spec.Probe.(probe.Hooked); ok {
			out = append(out, h.Hooks()...)
		}
	}
	return out
}

// Ready says whether every probe has been sampled once, or has failed to be.
func (s *Scheduler) Ready() bool {
	for _, r := range s.runners {
		if !r.started() {
			return false
		}
	}
	return true
}
