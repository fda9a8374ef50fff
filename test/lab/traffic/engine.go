// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// DefaultStallAfter is how long a transfer may make no progress. Linux retransmits a
// lost segment after 200 ms at first and doubles that (TCP_RTO_MIN, RFC 6298 section
// 5.5), so a second bears two losses of the same segment (200 + 400 ms) with 400 ms
// to spare for a loaded machine; it does not bear the loss of a first SYN (1 s,
// TCP_TIMEOUT_INIT), which an application does feel. Only time in which this
// process ran counts, see engine.watch.
const DefaultStallAfter = time.Second

const (
	// watchEvery is how often transfers are looked at. It does not bound how exactly
	// the begin of a stall is known: that comes from the reads themselves and from
	// tcpi_last_ack_recv.
	watchEvery = 50 * time.Millisecond
	// reportEvery is how often counters are written.
	reportEvery = time.Second
	// eventRate bounds the events per second of a flow, eventBurst those at once. At
	// this rate a trouble that begins while the flow is already failing is told at
	// most 50 ms late.
	eventRate, eventBurst = 20, 20
	// blockSize is how much is written at once. All flows share one block.
	blockSize = 64 << 10
)

// An engine is what the flows of one sender share.
type engine struct {
	out   *output
	limit time.Duration
	block []byte

	// ran is how long the engine has been seen to run, in nanoseconds.
	ran atomic.Int64

	mu    sync.Mutex
	live  map[*transfer]struct{}
	lanes []*lane
}

func newEngine(out *output, limit time.Duration) *engine {
	if limit == 0 {
		limit = DefaultStallAfter
	}
	return &engine{out: out, limit: limit, block: make([]byte, blockSize), live: map[*transfer]struct{}{}}
}

// watch looks at all transfers and writes counters, until the context ends. Each
// look adds at most two intervals to the time that the engine has run: while the
// machine did not let this process run, or it was stopped, its transfers could not
// be seen to make progress, and that is no stall.
func (e *engine) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last, reported := time.Now(), time.Now()
	var live []*transfer
	for {
		select {
		case <-ctx.Done():
			e.report()
			return
		case <-tick.C:
		}
		now := time.Now()
		e.ran.Add(int64(min(now.Sub(last), 2*watchEvery)))
		last = now
		live = e.transfers(live[:0])
		for _, t := range live {
			t.look()
		}
		clear(live)
		if now.Sub(reported) >= reportEvery {
			reported = now
			e.report()
		}
	}
}

func (e *engine) transfers(into []*transfer) []*transfer {
	e.mu.Lock()
	defer e.mu.Unlock()
	for t := range e.live {
		into = append(into, t)
	}
	return into
}

// report writes what every lane did since the last report.
func (e *engine) report() {
	e.mu.Lock()
	lanes := slices.Clone(e.lanes)
	e.mu.Unlock()
	for _, l := range lanes {
		l.report()
	}
}

// A lane is a flow, or one of the queries of a DNS flow: what recovers by itself.
type lane struct {
	e      *engine
	flow   Flow
	query  string
	most   int
	events *rate.Limiter

	mu       sync.Mutex
	counted  Counters
	number   uint64
	underWay int
	// troubled since, zero: not, or not told.
	troubled time.Time
}

// newLane makes a lane that has at most most transfers under way.
func (e *engine) newLane(f Flow, query string, most int) *lane {
	l := &lane{e: e, flow: f, query: query, most: most, events: rate.NewLimiter(eventRate, eventBurst)}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lanes = append(e.lanes, l)
	return l
}

func (l *lane) event(t EventType, now time.Time) Event {
	return Event{Type: t, Flow: l.flow.ID, Kind: l.flow.Kind, Query: l.query, At: now}
}

func (l *lane) count(change func(*Counters)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.counted)
}

// report writes the counters if they changed, and keeps them when there was no
// room.
func (l *lane) report() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counted == (Counters{}) {
		return
	}
	e := l.event(Progress, time.Now())
	counters := l.counted
	e.Counters = &counters
	if l.e.out.put(e) {
		l.counted = Counters{}
	}
}

// trouble counts a stall or an error and writes its event, if the rate allows. It
// says whether it did.
func (l *lane) trouble(e Event) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Type == Stalled {
		l.counted.Stalled++
	} else {
		l.counted.Failed++
	}
	if !l.events.Allow() || !l.e.out.put(e) {
		l.counted.Suppressed++
		return false
	}
	if l.troubled.IsZero() {
		l.troubled = e.At.Add(-e.For)
	}
	return true
}

// well ends the lane's trouble, if it was in one that was told: by a transfer that
// goes on (told) or that has completed.
func (l *lane) well(number uint64, at time.Time, lasted time.Duration, told bool, words string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !told && l.troubled.IsZero() {
		return
	}
	e := l.event(Recovered, time.Now())
	e.Transfer, e.AffectedAt, e.For, e.Detail = number, at, lasted, words
	if !told {
		e.For = max(0, at.Sub(l.troubled))
	}
	if l.e.out.put(e) {
		l.troubled = time.Time{}
	}
}
