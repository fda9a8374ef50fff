// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"fmt"
	"strings"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
)

// maxAssessments bounds what is told of one signature on one node.
const maxAssessments = 64

// Explain weighs every signature on a node now, also those that do not hold, so
// that exonerations can be shown. The second result is false for a node that
// nobody knows.
func (e *Engine) Explain(node string) ([]*apiv1.Assessment, bool) {
	view, ok := e.cfg.State.View(node)
	if !ok {
		return nil, false
	}
	var out []*apiv1.Assessment
	for _, rule := range e.cfg.Rules {
		out = append(out, e.assess(rule, view)...)
	}
	return out, true
}

func (e *Engine) assess(rule Rule, view *state.View) (out []*apiv1.Assessment) {
	unknown := func(because string) []*apiv1.Assessment {
		return []*apiv1.Assessment{{Signature: rule.Info.ID, Title: rule.Info.Title, Result: "unknown", Subject: "node", Because: because}}
	}
	defer func() {
		if r := recover(); r != nil {
			e.metrics.panics.WithLabelValues(rule.Info.ID).Inc()
			out = unknown(fmt.Sprintf("weighing panicked: %v", r))
		}
	}()
	if view.Silent() {
		return unknown(findGone(&entry{}, rule, view, nil).reason)
	}
	var results []signature.Result
	for _, subject := range rule.Subjects(view) {
		results = append(results, rule.Weigh(view, subject))
	}
	if len(results) == 0 {
		results = []signature.Result{rule.Absence(view)}
	}
	byStrength(results)
	for i, r := range results {
		if i == maxAssessments {
			break
		}
		out = append(out, assessment(rule, view.Node.Name, r))
	}
	return out
}

func assessment(rule Rule, node string, r signature.Result) *apiv1.Assessment {
	a := &apiv1.Assessment{
		Signature: rule.Info.ID,
		Title:     rule.Info.Title,
		Result:    r.Grade.String(),
		Subject:   describe(r.Subject),
		Bans:      r.Bans,
		Evidence:  proofs(node, r, true),
		Unknown:   unknownFacts(node, r),
		Because:   r.Reason,
	}
	r.Signature = rule.Info
	a.Refuted = refutations(r)
	if r.Undecided {
		a.Result = "unknown"
	}
	if a.Because == "" && r.Grade == signature.None {
		var claims []string
		for _, p := range a.Evidence {
			claims = append(claims, p.GetClaim())
		}
		a.Because = strings.Join(claims, "; ")
	}
	return a
}
