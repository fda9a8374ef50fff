// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
)

// askTimeout bounds one question to the aggregator while we wait.
const askTimeout = 2 * time.Second

// WaitEvidence returns when this machine reports and every probe has said what
// it can do. It also returns, saying so, when the time is up and only some
// probes are still starting; without any report that is an error.
func (s *Stack) WaitEvidence(ctx context.Context) error {
	s.cfg.Progress.Step("waiting for evidence")
	began := time.Now()
	reporting := false
	err := s.until(ctx, s.cfg.EvidenceTimeout, func(ctx context.Context) (string, error) {
		res, err := s.rpc.ListNodes(ctx, connect.NewRequest(&apiv1.ListNodesRequest{}))
		if err != nil {
			return "the aggregator to answer", nil
		}
		var missing string
		missing, reporting = lacking(res.Msg.GetNodes(), s.Node)
		return missing, nil
	})
	var late *lateError
	switch {
	case errors.As(err, &late) && reporting:
		s.cfg.Progress.Done(fmt.Sprintf("going on without %s", late.what))
		return nil
	case errors.As(err, &late):
		return fmt.Errorf("wait for evidence: %w; the agent's log says:\n%s", err, strings.Join(s.agent.tail(10), "\n"))
	case err != nil:
		return err
	}
	s.cfg.Progress.Done(fmt.Sprintf("after %.1f s", time.Since(began).Seconds()))
	return nil
}

// lacking says what evidence is still to come from node, and whether the node
// reports at all.
func lacking(nodes []*apiv1.Node, node string) (string, bool) {
	for _, n := range nodes {
		if n.GetName() != node {
			continue
		}
		if n.GetState() != "reporting" {
			break
		}
		if len(n.GetProbes()) == 0 {
			return "the first probe", true
		}
		var starting []string
		for _, p := range n.GetProbes() {
			if p.GetState() == "starting" {
				starting = append(starting, p.GetName())
			}
		}
		if len(starting) > 0 {
			return "the probes that are starting: " + strings.Join(starting, ", "), true
		}
		return "", true
	}
	return "the first report of " + node, false
}

// A lateError says what had not come when the time was up.
type lateError struct {
	what  string
	after time.Duration
}

func (e *lateError) Error() string {
	return fmt.Sprintf("after %s still waiting for %s", e.after, e.what)
}

// until polls ready, which names what is missing, until nothing is. It ends
// early when a child crashes or ctx is done.
func (s *Stack) until(ctx context.Context, limit time.Duration, ready func(context.Context) (string, error)) error {
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		askCtx, cancel := context.WithTimeout(ctx, askTimeout)
		missing, err := ready(askCtx)
		cancel()
		if crash := s.crashed(); crash != nil {
			return crash
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return err
		case missing == "":
			return nil
		case time.Now().After(deadline):
			return &lateError{what: missing, after: limit}
		}
		s.cfg.Progress.Waiting(missing)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// crashed returns the end of a child that we did not ask for.
func (s *Stack) crashed() error {
	for _, c := range []*child{s.aggregator, s.agent} {
		if c == nil {
			continue
		}
		select {
		case <-c.done:
			if !c.stopping.Load() {
				return &CrashError{Name: c.name, How: c.ended(), Tail: c.tail(20)}
			}
		default:
		}
	}
	return nil
}

// Wait returns nil when ctx is done, and a *CrashError when a child ends first.
func (s *Stack) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.aggregator.done:
	case <-s.agent.done:
	}
	if ctx.Err() != nil {
		return nil
	}
	return s.crashed()
}

// Close ends both processes, the agent first so that it can say goodbye, and
// removes the directory. It takes at most twice the grace time of 5 s.
func (s *Stack) Close() error {
	for _, c := range []*child{s.agent, s.aggregator} {
		if c != nil {
			c.stop()
		}
	}
	s.http.CloseIdleConnections()
	return s.dir.remove()
}
