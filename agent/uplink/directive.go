// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

const (
	// maxDirectivesKnown bounds the ids that are remembered, so that a directive
	// which is repeated is not carried out twice.
	maxDirectivesKnown = 1024
	// maxDirectivesAtOnce and maxDirectivesWaiting bound the work that an
	// aggregator can put on a node.
	maxDirectivesAtOnce  = 4
	maxDirectivesWaiting = 64
	maxDirectiveID       = 256
	// A directive that says no time to live gets defaultTTL; none gets more than
	// maxTTL.
	defaultTTL = 30 * time.Second
	maxTTL     = 10 * time.Minute
)

// A known directive is one that has arrived.
type known struct {
	// askers are the endpoints that wait for its result.
	askers []*endpoint
	result *evidencev1.DirectiveResult
}

// directives carries out what the aggregators ask for, once each. Safe for
// concurrent use.
type directives struct {
	handle func(context.Context, *evidencev1.Directive) error
	log    *slog.Logger
	count  func(outcome string)
	slots  chan struct{}

	mu      sync.Mutex
	ctx     context.Context // nil unless running
	known   map[string]*known
	order   []string
	waiting int
	running sync.WaitGroup
}

func newDirectives(handle func(context.Context, *evidencev1.Directive) error, log *slog.Logger, count func(string)) *directives {
	return &directives{
		handle: handle, log: log, count: count,
		slots: make(chan struct{}, maxDirectivesAtOnce), known: map[string]*known{},
	}
}

// start makes directives run under ctx.
func (d *directives) start(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ctx = ctx
}

// stop waits a moment for running handlers, whose context is done.
func (d *directives) stop() {
	d.mu.Lock()
	d.ctx = nil
	d.mu.Unlock()
	over := make(chan struct{})
	go func() {
		d.running.Wait()
		close(over)
	}()
	within(over, readPatience)
}

// deliver takes a directive from an endpoint. One that is known is not carried
// out again; its result is given again once there is one.
func (d *directives) deliver(from *endpoint, directive *evidencev1.Directive) {
	id := directive.GetId()
	if id == "" || len(id) > maxDirectiveID {
		d.count("malformed") // there is no id to answer to
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx == nil {
		return
	}
	if k := d.known[id]; k != nil {
		if k.result != nil {
			from.report(k.result)
		} else if !slices.Contains(k.askers, from) {
			k.askers = append(k.askers, from)
		}
		return
	}
	k := &known{askers: []*endpoint{from}}
	d.rememberLocked(id, k)
	if err := d.refusal(directive); err != nil {
		d.finishLocked(id, k, "refused", err)
		return
	}
	d.waiting++
	d.running.Add(1)
	ctx, cancel := context.WithTimeout(d.ctx, timeToLive(directive))
	go func() {
		defer d.running.Done()
		defer cancel()
		d.carryOut(ctx, directive, k)
	}()
}

// refusal says why a directive is not carried out. The list of actions is
// closed: what this build does not know it refuses.
func (d *directives) refusal(directive *evidencev1.Directive) error {
	switch directive.GetAction().(type) {
	case *evidencev1.Directive_SampleProbe:
	default:
		return errors.New("refuse directive: this agent does not know the action")
	}
	if d.handle == nil {
		return errors.New("refuse directive: this agent carries out none")
	}
	if d.waiting >= maxDirectivesWaiting {
		return fmt.Errorf("refuse directive: %d others are waiting", d.waiting)
	}
	return nil
}

func timeToLive(directive *evidencev1.Directive) time.Duration {
	if directive.GetTtl() == nil {
		return defaultTTL
	}
	return min(directive.GetTtl().AsDuration(), maxTTL)
}

// carryOut runs the handler within the time to live and reports how it ended. A
// handler that outlives its time keeps its slot until it returns.
func (d *directives) carryOut(ctx context.Context, directive *evidencev1.Directive, k *known) {
	finish := func(outcome string, err error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.waiting--
		d.finishLocked(directive.GetId(), k, outcome, err)
	}
	void := fmt.Errorf("directive was not carried out within its time to live of %s", timeToLive(directive))
	if ctx.Err() == nil {
		select {
		case d.slots <- struct{}{}:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		finish("expired", void)
		return
	}
	answer := make(chan error, 1)
	d.running.Add(1)
	go func() {
		defer d.running.Done()
		defer func() { <-d.slots }()
		defer func() {
			if p := recover(); p != nil {
				answer <- fmt.Errorf("carry out directive: panic: %v", p)
			}
		}()
		answer <- d.handle(ctx, directive)
	}()
	select {
	case err := <-answer:
		if err != nil {
			finish("failed", err)
			return
		}
		finish("done", nil)
	case <-ctx.Done():
		finish("expired", void)
	}
}

// finishLocked stores the result and tells everybody who asked.
func (d *directives) finishLocked(id string, k *known, outcome string, err error) {
	k.result = &evidencev1.DirectiveResult{DirectiveId: id, Done: err == nil}
	if err != nil {
		k.result.Detail = redact(err.Error())
	}
	d.count(outcome)
	d.log.Info("directive ended", "directive", id, "outcome", outcome, "detail", k.result.GetDetail())
	for _, e := range k.askers {
		e.report(k.result)
	}
	k.askers = nil
}

func (d *directives) rememberLocked(id string, k *known) {
	d.known[id] = k
	d.order = append(d.order, id)
	if len(d.order) > maxDirectivesKnown {
		delete(d.known, d.order[0])
		d.order = slices.Clone(d.order[1:])
	}
}

// report queues a result for the next batch and makes that due.
func (e *endpoint) report(result *evidencev1.DirectiveResult) {
	e.mu.Lock()
	queued := slices.ContainsFunc(e.results, func(r *evidencev1.DirectiveResult) bool {
		return r.GetDirectiveId() == result.GetDirectiveId()
	})
	if !queued {
		e.results = append(e.results, result)
		if len(e.results) > maxDirectivesKnown {
			// The aggregator repeats what it has no result for.
			e.results = e.results[1:]
		}
	}
	e.mu.Unlock()
	e.signal()
}
