// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/plumb-dev/plumb/test/lab/judge"
)

const (
	// listEvery is how often verdicts are asked for. Their grades are dated by the
	// aggregator, so this is no error of any figure.
	listEvery = 150 * time.Millisecond
	// sampleEvery is how often usage is read.
	sampleEvery = time.Second
)

// watch lists the verdicts of one aggregator, again and again.
func (r *runner) watch(ctx context.Context, i int) {
	d := r.cluster.aggregators[i]
	ticker := time.NewTicker(listEvery)
	defer ticker.Stop()
	for {
		asked := time.Now()
		raw, err := d.get(ctx, "http://"+apiAddress+"/api/v1/verdicts?includeResolved=true")
		if err == nil {
			r.take(i, asked, raw)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (r *runner) take(i int, asked time.Time, raw []byte) {
	name := r.cluster.aggregators[i].machine.Name()
	changes, err := r.observation.History.Add(name, asked, raw)
	if err != nil {
		r.cluster.fail("%v", err)
		return
	}
	r.mu.Lock()
	r.askedLast[i] = asked
	r.mu.Unlock()
	for _, c := range changes {
		if c.Kind == judge.Gone && r.meantDown(i) {
			continue
		}
		// What a healthy cluster rules out is no news.
		if (c.Kind == judge.Refuted || c.Kind == judge.Rivals) && !r.broken() {
			continue
		}
		r.opts.Timeline.Change(c)
	}
}

// broken says whether a fault was injected yet.
func (r *runner) broken() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.observation.Faults, func(f judge.Fault) bool { return !f.InjectedAt.IsZero() })
}

// meantDown says whether a fault has the aggregator down or has had it so: what it
// does not know afterwards is no surprise.
func (r *runner) meantDown(i int) bool {
	d := r.cluster.aggregators[i]
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.wasDown
}

// sample reads now and then what the product used and how much it sent, and tells
// the first evidence of a fault.
func (r *runner) sample(ctx context.Context) {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		for _, d := range r.cluster.agents {
			d.sample()
		}
		for _, d := range r.cluster.aggregators {
			d.sample()
			list, err := d.nodeStatus(ctx)
			if err != nil {
				continue // it may be down; verdicts tell
			}
			r.mu.Lock()
			for _, n := range list {
				if more(n.Batches, r.batches[n.Name].Batches) {
					r.batches[n.Name] = n
				}
			}
			r.mu.Unlock()
		}
		r.tellEvidence(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func more(a, b string) bool {
	x, _ := strconv.ParseUint(a, 10, 64) // "" is none yet
	y, _ := strconv.ParseUint(b, 10, 64) // likewise
	return x > y
}

// tellEvidence tells the first condition that an agent saw after a fault.
func (r *runner) tellEvidence(ctx context.Context) {
	r.mu.Lock()
	told, first := r.evidence, time.Time{}
	for _, f := range r.observation.Faults {
		if !f.InjectedAt.IsZero() && (first.IsZero() || f.InjectedAt.Before(first)) {
			first = f.InjectedAt
		}
	}
	r.mu.Unlock()
	if told || first.IsZero() {
		return
	}
	raw, err := r.cluster.aggregators[0].get(ctx, "http://"+apiAddress+"/api/v1/episodes")
	if err != nil {
		return
	}
	var list struct {
		Episodes []struct {
			Node, Condition, Subject string
			Onset                    time.Time
		}
	}
	if json.Unmarshal(raw, &list) != nil {
		return
	}
	for _, e := range list.Episodes {
		if e.Onset.Before(first) {
			continue
		}
		r.mu.Lock()
		r.evidence = true
		r.mu.Unlock()
		r.opts.Timeline.Evidence(e.Onset, fmt.Sprintf("%s: %s began on %s", e.Node, e.Condition, e.Subject))
		return
	}
}
