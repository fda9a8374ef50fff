// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"crypto/rand"
	"encoding/hex"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// askEvery is the least time between two directives for one probe of one node.
const askEvery = 10 * time.Second

// directiveTTL is how long a directive is worth carrying out: after one interval
// the probe was sampled anyway.
const directiveTTL = 10 * time.Second

type askKey struct{ node, probe string }

// direct asks the agent to sample the probes for want of whose items a result
// is not proven. What a probe cannot see at all is not asked for.
func (e *Engine) direct(view *state.View, r signature.Result, now time.Time) {
	if e.cfg.Director == nil || r.Grade < signature.Suspected || r.Grade == signature.Proven {
		return
	}
	for _, missing := range r.Missing {
		if missing.Fact.Reason == evidence.Blind || missing.Fact.Reason == evidence.SharedKernel {
			continue
		}
		key := askKey{view.Node.Name, missing.Item.Probe()}
		if last, asked := e.asked[key]; asked && now.Sub(last) < askEvery {
			continue
		}
		e.asked[key] = now
		err := e.cfg.Director.Direct(view.Node.Name, &evidencev1.Directive{
			Id:     directiveID(),
			Ttl:    durationpb.New(directiveTTL),
			Action: &evidencev1.Directive_SampleProbe{SampleProbe: &evidencev1.SampleProbe{Probe: key.probe}},
		})
		if err != nil {
			e.metrics.directives.WithLabelValues("failed").Inc()
			e.log.Warn("agent could not be asked for what a proof lacks", "evidence_node", view.Node.Name, "probe", key.probe, "signature", r.Signature.ID, "error", err)
			continue
		}
		e.metrics.directives.WithLabelValues("sent").Inc()
	}
}

// forgetAsked keeps the memory of what was asked small.
func (e *Engine) forgetAsked(now time.Time) {
	for key, at := range e.asked {
		if now.Sub(at) >= askEvery {
			delete(e.asked, key)
		}
	}
}

func directiveID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}
