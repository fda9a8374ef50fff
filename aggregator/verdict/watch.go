// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"context"
	"errors"
	"slices"
	"sort"
	"strings"
	"sync"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
)

// ErrNotFound means that no verdict has that id, or that a prefix is of none or
// of several.
var ErrNotFound = errors.New("no such verdict")

// ErrAmbiguous means that several ids begin with the prefix.
var ErrAmbiguous = errors.New("several verdicts have ids that begin so")

// A Filter selects verdicts; the zero value selects all that are not resolved.
type Filter struct {
	Node, Signature string
	IncludeResolved bool
}

func (f Filter) takes(v *apiv1.Verdict) bool {
	return (f.Node == "" || slices.Contains(v.GetScope().GetNodes(), f.Node)) &&
		(f.Signature == "" || f.Signature == v.GetSignature()) &&
		(f.IncludeResolved || v.GetState() != string(phaseResolved))
}

// Verdicts returns the selected verdicts, newest onset first. The messages are
// shared and must not be changed.
func (e *Engine) Verdicts(f Filter) []*apiv1.Verdict {
	e.mu.RLock()
	out := make([]*apiv1.Verdict, 0, len(e.shown))
	for _, v := range e.shown {
		if f.takes(v) {
			out = append(out, v)
		}
	}
	e.mu.RUnlock()
	sortVerdicts(out)
	return out
}

func sortVerdicts(list []*apiv1.Verdict) {
	sort.Slice(list, func(i, j int) bool {
		a, b := list[i].GetOnset().AsTime(), list[j].GetOnset().AsTime()
		if !a.Equal(b) {
			return a.After(b)
		}
		return list[i].GetId() < list[j].GetId()
	})
}

// Verdict returns the one whose id begins with prefix.
func (e *Engine) Verdict(prefix string) (*apiv1.Verdict, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if v, ok := e.shown[prefix]; ok {
		return v, nil
	}
	var found *apiv1.Verdict
	for id, v := range e.shown {
		if !strings.HasPrefix(id, prefix) {
			continue
		}
		if found != nil {
			return nil, ErrAmbiguous
		}
		found = v
	}
	if found == nil {
		return nil, ErrNotFound
	}
	return found, nil
}

// A Subscription follows verdicts. A reader that is slow misses versions in
// between, never the newest one, and holds no more than one version of each
// verdict.
type Subscription struct {
	engine *Engine
	filter Filter
	wake   chan struct{}

	mu      sync.Mutex
	pending map[string]*apiv1.Verdict
}

// Watch returns the verdicts that are there and a subscription to every later
// change of one. Close it.
func (e *Engine) Watch(f Filter) ([]*apiv1.Verdict, *Subscription) {
	s := &Subscription{engine: e, filter: f, wake: make(chan struct{}, 1), pending: map[string]*apiv1.Verdict{}}
	// The end of a verdict is a change, whatever the initial set holds.
	s.filter.IncludeResolved = true
	e.mu.Lock()
	e.subscribers[s] = struct{}{}
	var initial []*apiv1.Verdict
	for _, v := range e.shown {
		if f.takes(v) {
			initial = append(initial, v)
		}
	}
	e.mu.Unlock()
	sortVerdicts(initial)
	return initial, s
}

func (s *Subscription) offer(v *apiv1.Verdict) {
	if !s.filter.takes(v) {
		return
	}
	s.mu.Lock()
	s.pending[v.GetId()] = v
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Next waits for changes and returns the newest version of each verdict that
// changed, oldest change first. It fails when ctx ends.
func (s *Subscription) Next(ctx context.Context) ([]*apiv1.Verdict, error) {
	for {
		s.mu.Lock()
		if len(s.pending) > 0 {
			out := make([]*apiv1.Verdict, 0, len(s.pending))
			for _, v := range s.pending {
				out = append(out, v)
			}
			s.pending = map[string]*apiv1.Verdict{}
			s.mu.Unlock()
			sort.Slice(out, func(i, j int) bool {
				return out[i].GetUpdatedAt().AsTime().Before(out[j].GetUpdatedAt().AsTime())
			})
			return out, nil
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.wake:
		}
	}
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.engine.mu.Lock()
	delete(s.engine.subscribers, s)
	s.engine.mu.Unlock()
}
