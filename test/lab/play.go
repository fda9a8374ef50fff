// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/plumb-dev/plumb/test/lab/judge"
	"github.com/plumb-dev/plumb/test/lab/report"
	"github.com/plumb-dev/plumb/test/lab/scenario"
	"github.com/plumb-dev/plumb/test/lab/traffic"
)

// A runner plays one scenario on a cluster that is up.
type runner struct {
	opts     Options
	scenario *scenario.Scenario
	cluster  *cluster
	began    time.Time
	up       time.Time
	settling time.Time

	mu          sync.Mutex
	observation judge.Observation
	// askedLast is when each aggregator last gave a complete list.
	askedLast []time.Time
	batches   map[string]status
	told      map[int]bool // first stalls that the timeline has told
	evidence  bool
}

// play settles, injects and waits until all is decided. It fails when a fault could
// not be injected.
func (r *runner) play(ctx context.Context) error {
	r.up = time.Now()
	r.batches, r.told = map[string]status{}, map[int]bool{}
	r.askedLast = make([]time.Time, len(r.cluster.aggregators))
	r.opts.Timeline.Note(r.up, fmt.Sprintf("%d nodes are up and report, after %.1f s", len(r.cluster.nodes), r.up.Sub(r.began).Seconds()))

	watching, stop := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer stop()
	for i := range r.cluster.aggregators {
		watchers.Go(func() { r.watch(watching, i) })
	}
	watchers.Go(func() { r.sample(watching) })

	r.settling = time.Now()
	r.opts.Timeline.Settling(r.settling, r.scenario.Settle)
	if !r.settle(ctx) {
		return r.cutShort(ctx)
	}
	faults := make(chan error, 1)
	injecting, stopInjecting := context.WithCancel(ctx)
	go func() { faults <- r.injectAll(injecting) }()
	injected := error(nil)
	done := false
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for running := true; running; {
		select {
		case injected = <-faults:
			done = true
			running = injected == nil
			faults = nil
		case <-ctx.Done():
			running = false
		case now := <-ticker.C:
			running = !r.over(now)
		}
	}
	// Nothing counts any more from here on: what is taken back now is only so that
	// the end is quick.
	stop()
	watchers.Wait()
	stopInjecting()
	if !done {
		<-faults // what its commands say of being stopped is no failure
	}
	r.affected(time.Now())
	// What was being injected when the run was cut short failed for that reason,
	// whatever its commands say of it.
	if ctx.Err() != nil {
		return r.cutShort(ctx)
	}
	if injected != nil && !errors.Is(injected, context.Canceled) {
		return injected
	}
	return nil
}

func (r *runner) cutShort(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.observation.Ending = judge.Interrupted
	if errors.Is(context.Cause(ctx), errTimeout) {
		r.observation.Ending = judge.TimedOut
	}
	return nil
}

// settle waits for the healthy time to pass.
func (r *runner) settle(ctx context.Context) bool {
	timer := time.NewTimer(r.scenario.Settle)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	now := time.Now()
	r.mu.Lock()
	r.observation.SettleEnd = now
	r.mu.Unlock()
	r.opts.Timeline.Settled(now)
	return true
}

// over says whether the run may end, and tells what happens meanwhile.
func (r *runner) over(now time.Time) bool {
	r.affected(now)
	r.opts.Timeline.Progress(now, r.waitingFor(now))
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.known()
	for _, f := range r.observation.Faults {
		// The first stall of a fault is not known before this.
		if now.Sub(f.InjectedAt) < stallKnown+2*tick && now.Before(judge.End(r.scenario, r.observation)) {
			return false
		}
	}
	if judge.Over(r.scenario, r.observation, known) || r.opts.FailFast && r.hasFailed(known) {
		return true
	}
	end := judge.End(r.scenario, r.observation)
	return !end.IsZero() && now.After(end.Add(lostLimit))
}

// hasFailed says whether a pending scenario can hold no more. The caller holds the
// lock.
func (r *runner) hasFailed(known time.Time) bool {
	if !r.scenario.Pending || r.observation.SettleEnd.IsZero() {
		return false
	}
	o := r.observation
	o.RunEnd = known
	judged := judge.Judge(r.scenario, o).Expectations
	for i, done := range judge.Decided(r.scenario, o, known) {
		if done && !judged[i].Held {
			return true
		}
	}
	return false
}

// known is the moment up to which every aggregator that answers was asked.
func (r *runner) known() time.Time {
	newest := slices.MaxFunc(r.askedLast, time.Time.Compare)
	known := newest
	for _, at := range r.askedLast {
		// One that has not answered for long is down; the other is not waited for.
		if newest.Sub(at) < lostLimit && at.Before(known) {
			known = at
		}
	}
	return known
}

// waitingFor names what the run still waits for.
func (r *runner) waitingFor(now time.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.observation
	o.RunEnd = now
	for i, done := range judge.Decided(r.scenario, o, now) {
		if done {
			continue
		}
		e := r.scenario.Expect[i]
		reached := judge.Judge(r.scenario, o).Expectations[i].AfterSeconds != nil
		switch {
		case e.Refuted != "":
			return e.Refuted + " to be refuted"
		case reached:
			return e.Signature + " to clear"
		case e.Grade != "":
			return e.Signature + " to be " + e.Grade
		default:
			return e.Signature
		}
	}
	return "the end of the run"
}

// A moment of the script.
type moment struct {
	at    time.Duration
	index int
	heal  bool
}

// injectAll follows the script: each fault at its time, mends before new faults.
// Mends run beside it, for one that takes long must not hold up another fault; only
// a fault of the same sort waits for them. It takes back what is left when ctx ends.
func (r *runner) injectAll(ctx context.Context) error {
	var script []moment
	for i, f := range r.scenario.Faults {
		script = append(script, moment{at: f.At, index: i})
		if f.Ends() {
			script = append(script, moment{at: f.Until, index: i, heal: true})
		}
	}
	slices.SortStableFunc(script, func(a, b moment) int {
		switch {
		case a.at != b.at:
			return int((a.at - b.at) / max((a.at-b.at).Abs(), 1))
		case a.heal != b.heal && a.heal:
			return -1
		case a.heal != b.heal:
			return 1
		}
		return 0
	})
	back := map[int]undo{}
	// mending has, for each sort of fault, the newest mend that was begun; each waits
	// for the one before.
	mending := map[string]chan struct{}{}
	defer func() {
		for _, done := range mending {
			<-done
		}
		// The rest goes with the namespaces; processes that are stopped or starved would
		// be slow to end, and a disk that is in use cannot be taken down.
		for i, f := range r.scenario.Faults {
			switch f.Kind {
			case scenario.AgentFreeze, scenario.ReceiverFrozen, scenario.EtcdCPUStarved, scenario.DiskSlow, scenario.LinkFlap:
				if u := back[i]; u != nil {
					_ = u(context.WithoutCancel(ctx)) // the run is over
				}
			}
		}
	}()
	r.mu.Lock()
	start := r.observation.SettleEnd
	r.mu.Unlock()
	for _, m := range script {
		timer := time.NewTimer(time.Until(start.Add(m.at)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		sort := sortOf(r.scenario.Faults[m.index].Kind)
		if m.heal {
			u := back[m.index]
			delete(back, m.index)
			before := mending[sort]
			done := make(chan struct{})
			mending[sort] = done
			go func() {
				defer close(done)
				if before != nil {
					<-before
				}
				r.mend(ctx, m.index, u)
			}()
			continue
		}
		if before := mending[sort]; before != nil {
			<-before
		}
		at := time.Now()
		u, err := r.cluster.inject(ctx, m.index)
		if ctx.Err() != nil && err != nil {
			return ctx.Err() // cut short, which is nobody's failure
		}
		if changed := new(MTUError); err != nil && sort == "product" && !errors.As(err, &changed) {
			// The product was not there to be broken: that is its failure, not the
			// scenario's.
			r.cluster.fail("%v", err)
			continue
		}
		if err != nil {
			return err
		}
		back[m.index] = u
		r.mu.Lock()
		r.observation.Faults[m.index].InjectedAt = at
		r.mu.Unlock()
		r.opts.Timeline.Injected(at, m.index, r.scenario.Faults[m.index])
	}
	<-ctx.Done()
	return ctx.Err()
}

// sortOf groups kinds that change the same thing.
func sortOf(k scenario.Kind) string {
	switch k {
	case scenario.UnderlayMTU, scenario.OverlayMTU, scenario.PodMTU, scenario.BridgePortMTU:
		return "mtu"
	case scenario.LinkDown, scenario.LinkFlap:
		return "link"
	case scenario.AgentKill, scenario.AgentFreeze, scenario.TokenExpired, scenario.TokenWrongNode, scenario.AggregatorKill:
		return "product"
	case scenario.NTPLies, scenario.NTPCut, scenario.NTPSmear:
		return "time"
	case scenario.ReceiverSlow, scenario.ReceiverFrozen:
		return "receiver"
	default:
		return string(k)
	}
}

// mend takes a fault back.
func (r *runner) mend(ctx context.Context, i int, u undo) {
	if u != nil {
		if err := u(ctx); err != nil && ctx.Err() == nil {
			r.cluster.fail("%v", err)
		}
	}
	// What was never there cannot end.
	if ctx.Err() != nil || u == nil {
		return
	}
	at := time.Now()
	r.mu.Lock()
	r.observation.Faults[i].EndedAt = &at
	r.mu.Unlock()
	r.opts.Timeline.Healed(at, i, r.scenario.Faults[i])
}

// affected looks for the first stall that each fault caused.
func (r *runner) affected(now time.Time) {
	for i, f := range r.scenario.Faults {
		r.mu.Lock()
		injected, ended, told := r.observation.Faults[i].InjectedAt, r.observation.Faults[i].EndedAt, r.told[i]
		r.mu.Unlock()
		if injected.IsZero() || now.Sub(injected) < stallKnown {
			continue
		}
		at, what, found := r.cluster.firstAffected(f, injected)
		// After the end it was something else.
		if !found || ended != nil && at.After(*ended) {
			continue
		}
		r.mu.Lock()
		r.observation.Faults[i].FirstAffectedAt = &at
		r.told[i] = true
		r.mu.Unlock()
		if !told {
			r.opts.Timeline.Affected(at, i, what)
		}
	}
	for _, t := range r.cluster.troubles() {
		r.mu.Lock()
		known := slices.Contains(r.observation.Failures, t)
		if !known {
			r.observation.Failures = append(r.observation.Failures, t)
		}
		r.mu.Unlock()
		if !known {
			r.opts.Timeline.Fail(now, t)
		}
	}
}

// stallKnown is how long after a fault its first stall is known: one that began at
// once is noticed after DefaultStallAfter, and an error may be told before it.
const stallKnown = traffic.DefaultStallAfter + 200*time.Millisecond

// firstAffected is when an application first felt a fault. Faults that reach no
// application (clocks, time servers, metadata, the product's own processes, and
// what only looks like a fault) have none.
func (c *cluster) firstAffected(f scenario.Fault, since time.Time) (time.Time, string, bool) {
	var match func(traffic.Flow) bool
	switch f.Kind {
	case scenario.DiskSlow, scenario.EtcdCPUStarved:
		return c.firstMark(since)
	case scenario.PathDropLarger, scenario.PathLoss, scenario.PathDropFragments, scenario.PathCut, scenario.PathRate, scenario.PathFlap,
		scenario.ICMPFilter, scenario.UnderlayMTU, scenario.OverlayMTU, scenario.PodMTU, scenario.BridgePortMTU,
		scenario.LinkDown, scenario.LinkFlap, scenario.RingDrop, scenario.ReceiverSlow, scenario.ReceiverFrozen:
		if len(f.Between) == 2 {
			match = traffic.Between(f.Between[0], f.Between[1])
		} else if f.Selected {
			match = traffic.Touching(f.Nodes...)
		}
	case scenario.DNSBroken:
		match = func(flow traffic.Flow) bool {
			return flow.Kind == traffic.DNS && (!f.Selected || slices.Contains(f.Nodes, flow.From))
		}
	default:
		return time.Time{}, "", false
	}
	at, e, found := c.observer.FirstAffected(since, match)
	if !found {
		return time.Time{}, "", false
	}
	return at, fmt.Sprintf("%s of flow %s: %s", e.Kind, e.Flow, e.Detail), true
}

// firstMark is the first write to etcd that hurt; all members feel one slow disk.
func (c *cluster) firstMark(since time.Time) (time.Time, string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var first mark
	for _, m := range c.marks {
		if m.at.Before(since) || !first.at.IsZero() && !m.at.Before(first.at) {
			continue
		}
		first = m
	}
	if first.at.IsZero() {
		return time.Time{}, "", false
	}
	return first.at, first.node + ": " + first.what, true
}

// result judges what was seen.
func (r *runner) result() report.Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	facts := report.Facts{Kernel: kernel()}
	if len(r.askedLast) > 0 {
		r.observation.RunEnd = r.known()
	}
	if r.observation.RunEnd.IsZero() {
		r.observation.RunEnd = now
	}
	if !r.up.IsZero() {
		facts.Start = r.up.Sub(r.began)
	}
	if end := r.observation.SettleEnd; !end.IsZero() {
		facts.Settle, facts.Run = end.Sub(r.settling), now.Sub(end)
	}
	if r.cluster != nil && !r.up.IsZero() {
		for _, n := range r.cluster.nodes {
			a := report.Agent{Node: n.Name(), Usage: r.cluster.agents[n.Name()].report()}
			a.Batches, _ = strconv.ParseUint(r.batches[n.Name()].Batches, 10, 64)         // "" before the first answer
			a.Dropped, _ = strconv.ParseUint(r.batches[n.Name()].DroppedEpisodes, 10, 64) // likewise
			facts.Agents = append(facts.Agents, a)
		}
		for _, d := range r.cluster.aggregators {
			facts.Aggregators = append(facts.Aggregators, report.Aggregator{Name: d.machine.Name(), Usage: d.report()})
		}
	}
	return report.New(r.scenario, r.observation, judge.Judge(r.scenario, r.observation), facts)
}

func (d *daemon) report() report.Usage {
	u := d.used()
	return report.Usage{CPUSeconds: u.cpu.Seconds(), MaxRSSBytes: u.maxRSSBytes}
}
