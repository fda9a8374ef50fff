// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/plumb-dev/plumb/agent/probe"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// errBusy means that an earlier sample has not come back yet.
var errBusy = errors.New("the sample before has not come back yet; the probe hangs")

// stopWait is how long a watcher may take to end once its context has.
const stopWait = 2 * time.Second

// A runner owns one probe: it alone calls Sample, so a probe needs no locks of
// its own for that.
type runner struct {
	s    *Scheduler
	spec Spec

	wake    chan struct{}
	demands chan chan error
	// pending carries the outcome of a sample that outlived its time-out.
	pending chan outcome
	hanging bool

	episodes *episodes
	sampled  uint64
	done     atomic.Bool
}

type outcome struct {
	sample *evidence.Sample
	err    error
	took   time.Duration
}

func newRunner(s *Scheduler, spec Spec) *runner {
	return &runner{
		s:        s,
		spec:     spec,
		wake:     make(chan struct{}, 1),
		demands:  make(chan chan error),
		pending:  make(chan outcome, 1),
		episodes: newEpisodes(s.cfg),
	}
}

func (r *runner) started() bool { return r.done.Load() }

func (r *runner) run(ctx context.Context) {
	if r.spec.Probe == nil {
		r.unsupported()
		r.refuse(ctx)
		return
	}
	r.status(evidencev1.ProbeStatus_STARTING, "the first sample has not ended yet")
	if w, ok := r.spec.Probe.(probe.Watcher); ok {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			r.watch(ctx, w)
		}()
		defer func() {
			select {
			case <-ended:
			case <-time.After(stopWait):
				r.s.cfg.Log.Warn("watcher does not end, it is left behind", "probe", r.spec.Name)
			}
		}()
	}
	tick := time.NewTicker(r.s.cfg.Interval)
	defer tick.Stop()
	r.sample(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.sample(ctx)
		case <-r.wake:
			if changed, _ := r.sample(ctx); changed {
				r.push()
			}
			if !wait(ctx, r.s.cfg.Quiet) {
				return
			}
		case reply := <-r.demands:
			_, err := r.sample(ctx)
			r.push()
			reply <- err
		case late := <-r.pending:
			r.hanging = false
			r.s.cfg.Log.Warn("probe came back after its time-out", "probe", r.spec.Name, "took_seconds", late.took.Seconds())
		}
	}
}

// refuse answers demands for a probe that could not be set up.
func (r *runner) refuse(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case reply := <-r.demands:
			reply <- fmt.Errorf("sample probe %q: %w", r.spec.Name, r.spec.Err)
		}
	}
}

func (r *runner) demand(ctx context.Context) error {
	reply := make(chan error, 1)
	select {
	case r.demands <- reply:
	case <-ctx.Done():
		return fmt.Errorf("sample probe %q: %w", r.spec.Name, ctx.Err())
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return fmt.Errorf("sample probe %q: %w", r.spec.Name, ctx.Err())
	}
}

func (r *runner) push() {
	if r.s.cfg.Uplink != nil {
		r.s.cfg.Uplink.Wake()
	}
}

// watch keeps the probe's watcher running; one that fails is started again with
// a growing delay, and the loss of wake-ups is logged, since evidence then comes
// by the interval only.
func (r *runner) watch(ctx context.Context, w probe.Watcher) {
	delay := time.Second
	for ctx.Err() == nil {
		err := r.guardWatch(ctx, w)
		if ctx.Err() != nil {
			return
		}
		r.s.metrics.watchFailures.WithLabelValues(r.spec.Name).Inc()
		r.s.cfg.Log.Warn("watcher ended, evidence comes by the interval until it is back", "probe", r.spec.Name, "error", fmt.Sprint(err), "retry_in_seconds", delay.Seconds())
		if !wait(ctx, delay) {
			return
		}
		delay = min(2*delay, time.Minute)
	}
}

func (r *runner) guardWatch(ctx context.Context, w probe.Watcher) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.s.metrics.panics.WithLabelValues(r.spec.Name).Inc()
			r.s.cfg.Log.Error("watcher panicked", "probe", r.spec.Name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return w.Watch(ctx, func() {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	})
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// sample runs the probe once and books the outcome. It says whether the ledger
// changed.
func (r *runner) sample(ctx context.Context) (bool, error) {
	out := r.call(ctx)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	defer r.done.Store(true)
	name := r.spec.Name
	r.s.metrics.duration.WithLabelValues(name).Observe(out.took.Seconds())
	if out.err == nil {
		r.s.metrics.success.WithLabelValues(name).Set(1)
		return r.book(out.sample), nil
	}
	r.s.metrics.success.WithLabelValues(name).Set(0)
	if errors.Is(out.err, probe.ErrNoData) {
		r.status(evidencev1.ProbeStatus_NO_DATA, out.err.Error())
		return r.s.cfg.Ledger.Replace(name, nil), nil
	}
	r.s.metrics.failures.WithLabelValues(name).Inc()
	r.s.cfg.Log.Warn("probe failed, its evidence is unknown", "probe", name, "error", out.err.Error())
	return r.fail(out), out.err
}

// call runs Sample with a time-out that holds even if the probe ignores its
// context: the evidence is then given up, the goroutine is not waited for, and
// the probe is not called again until it came back.
func (r *runner) call(ctx context.Context) outcome {
	if r.hanging {
		select {
		case <-r.pending:
			r.hanging = false
		default:
			return outcome{sample: &evidence.Sample{}, err: errBusy}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, r.s.cfg.Timeout)
	begin := r.s.cfg.Clock.Boottime()
	result := make(chan outcome, 1)
	go func() {
		defer cancel()
		sample := &evidence.Sample{}
		err := r.guardSample(ctx, sample)
		result <- outcome{sample, err, time.Duration(r.s.cfg.Clock.Boottime() - begin)}
	}()
	select {
	case out := <-result:
		return out
	case <-ctx.Done():
	}
	// A probe that honours its context is about to return; its own error says
	// more than ours.
	grace := time.NewTimer(r.s.cfg.Timeout / 10)
	defer grace.Stop()
	select {
	case out := <-result:
		return out
	case <-grace.C:
	}
	r.s.metrics.timeouts.WithLabelValues(r.spec.Name).Inc()
	r.hanging = true
	go func() { r.pending <- <-result }()
	return outcome{
		sample: &evidence.Sample{},
		err:    fmt.Errorf("the sample did not return within %s", r.s.cfg.Timeout),
		took:   time.Duration(r.s.cfg.Clock.Boottime() - begin),
	}
}

func (r *runner) guardSample(ctx context.Context, dst *evidence.Sample) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.s.metrics.panics.WithLabelValues(r.spec.Name).Inc()
			r.s.cfg.Log.Error("probe panicked", "probe", r.spec.Name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return r.spec.Probe.Sample(ctx, dst)
}

// book puts a successful sample into the ledger.
func (r *runner) book(sample *evidence.Sample) bool {
	now := r.s.cfg.Clock.Boottime()
	r.sampled = now
	observations, missing := complete(r.s.cfg.Catalog, r.spec.Name, sample, now)
	if missing > 0 {
		r.s.metrics.missing.WithLabelValues(r.spec.Name).Add(float64(missing))
		r.s.cfg.Log.Error("probe left items out, they are reported as unknown", "probe", r.spec.Name, "items", missing)
	}
	changed := r.s.cfg.Ledger.Replace(r.spec.Name, observations)
	r.status(evidencev1.ProbeStatus_OK, "")
	transitions := r.episodes.update(sample.Active, now)
	for _, e := range transitions {
		r.s.metrics.episodes.WithLabelValues(e.GetCondition()).Inc()
		if r.s.cfg.Uplink != nil {
			r.s.cfg.Uplink.Episode(e)
		}
	}
	if len(transitions) > 0 {
		r.push()
	}
	return changed
}

// fail keeps what the probe found before it failed and turns everything else
// that it used to know into unknown.
func (r *runner) fail(out outcome) bool {
	now := r.s.cfg.Clock.Boottime()
	reason := evidence.Failed
	state := evidencev1.ProbeStatus_FAILED
	if errors.Is(out.err, probe.ErrNotSupported) {
		reason = evidence.Blind
		state = evidencev1.ProbeStatus_UNSUPPORTED
	}
	observations, _ := complete(r.s.cfg.Catalog, r.spec.Name, out.sample, now)
	kept := map[evidence.Subject]bool{}
	for _, o := range observations {
		kept[evidence.Subject{Kind: o.GetSubject().GetKind(), Key: o.GetSubject().GetKey()}] = true
	}
	for _, old := range r.s.cfg.Ledger.Observations(r.spec.Name) {
		id := evidence.Subject{Kind: old.GetSubject().GetKind(), Key: old.GetSubject().GetKey()}
		if kept[id] {
			continue
		}
		kept[id] = true
		observations = append(observations, blank(r.s.cfg.Catalog, r.spec.Name, evidence.SubjectFromProto(old.GetSubject()), reason, out.err.Error(), now))
	}
	node := evidence.Node()
	if !kept[evidence.Subject{Kind: node.Kind, Key: node.Key}] {
		if o := blank(r.s.cfg.Catalog, r.spec.Name, node, reason, out.err.Error(), now); len(o.GetItems()) > 0 {
			observations = append(observations, o)
		}
	}
	changed := r.s.cfg.Ledger.Replace(r.spec.Name, observations)
	r.status(state, out.err.Error())
	return changed
}

// unsupported reports a probe that could not be set up.
func (r *runner) unsupported() {
	now := r.s.cfg.Clock.Boottime()
	detail := "the probe could not be set up"
	if r.spec.Err != nil {
		detail = r.spec.Err.Error()
	}
	r.s.metrics.success.WithLabelValues(r.spec.Name).Set(0)
	r.s.cfg.Log.Warn("probe is not supported here, its evidence is unknown", "probe", r.spec.Name, "error", detail)
	if o := blank(r.s.cfg.Catalog, r.spec.Name, evidence.Node(), evidence.Blind, detail, now); len(o.GetItems()) > 0 {
		r.s.cfg.Ledger.Replace(r.spec.Name, []*evidencev1.Observation{o})
	}
	r.status(evidencev1.ProbeStatus_UNSUPPORTED, detail)
	r.done.Store(true)
}

func (r *runner) status(state evidencev1.ProbeStatus_State, detail string) {
	status := &evidencev1.ProbeStatus{
		Name:                       r.spec.Name,
		State:                      state,
		Detail:                     detail,
		SampledBoottimeNanoseconds: r.sampled,
		Interval:                   durationpb.New(r.s.cfg.Interval),
	}
	if h, ok := r.spec.Probe.(probe.Hooked); ok {
		hooks := h.Hooks()
		for _, k := range hooks {
			status.Hooks = append(status.Hooks, &evidencev1.Hook{Signal: k.Signal, Rung: k.Rung, Confirmed: k.Confirmed, Detail: k.Detail})
		}
		r.s.metrics.setHooks(hooks)
	}
	r.s.cfg.Ledger.SetProbe(status)
}
