// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"time"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/evidence"
)

// A phase is where a verdict stands in its life. Stale is not a phase: it is a
// firing verdict whose evidence is missing.
type phase string

const (
	phaseNone     phase = ""
	phasePending  phase = "pending"
	phaseFiring   phase = "firing"
	phaseResolved phase = "resolved"
	phaseRefuted  phase = "refuted"
)

// stateStale is what the API says of a firing verdict whose evidence is missing.
const stateStale = "stale"

const (
	// keepRefuted is how long a refutation stays listed after it ceased.
	keepRefuted = 10 * time.Minute
	// keepResolved is how long a resolved verdict stays listed (api.proto).
	keepResolved = time.Hour
)

// An outcome is what the evidence says of a verdict now.
type outcome int

const (
	// ceased: the evidence is there and the signature does not hold.
	ceased outcome = iota
	// holds: suspected or more.
	holds
	// refuted: a refuter is true.
	refuted
	// unseen: what the verdict rests on is unknown, so nothing can be said.
	unseen
)

// A finding is an outcome with what it rests on.
type finding struct {
	outcome outcome
	// results are sorted by strength; empty when no subject of the scope is left.
	results []signature.Result
	// reason is one sentence for ceased and unseen.
	reason string
}

func (f finding) best() signature.Result {
	if len(f.results) == 0 {
		return signature.Result{}
	}
	return f.results[0]
}

// A basis is one clause that a verdict rests on, with what must be visible for
// anybody to say that it no longer holds.
type basis struct {
	Clause  string           `json:"clause"`
	Bans    float64          `json:"bans"`
	Subject evidence.Subject `json:"subject"`
	Probes  []string         `json:"probes"`
}

// An entry is one verdict with its history. Only the engine's loop touches it.
type entry struct {
	id    string
	rule  *signature.Signature
	scope scope

	phase phase
	stale bool
	grade signature.Grade
	// activeAt is since when it has held without a break.
	activeAt time.Time
	// ceasedAt is since when a firing verdict does not hold; zero while it does.
	ceasedAt   time.Time
	onset      time.Time
	onsetFrom  string
	gradedAt   map[signature.Grade]time.Time
	resolvedAt time.Time
	refutedAt  time.Time
	reason     string
	rests      []basis

	// base is the newest rendering; compose adds what does not come from it.
	base *apiv1.Verdict
	// updatedAt is when evidence last changed or confirmed it.
	updatedAt time.Time
	// consequences are the ids of the verdicts that this one explains.
	consequences []string
	// journaledAt is of the newest record that is durable; journalErr says why the
	// newest transition is not, and which one that is.
	journaledAt time.Time
	journalErr  string
	unsaved     string
}

// live says whether the verdict is a claim that stands.
func (e *entry) live() bool { return e.phase == phasePending || e.phase == phaseFiring }

// state is the word that the API shows.
func (e *entry) state() string {
	if e.phase == phaseFiring && e.stale {
		return stateStale
	}
	return string(e.phase)
}

// A step says what one look at the evidence did to a verdict.
type step struct {
	// transition names what must go into the journal; empty when nothing must.
	transition string
	// drop is set when nothing is left to show.
	drop bool
	// render is set when the finding's results replace what is shown.
	render bool
	// began is set when a new onset is to be found.
	began bool
}

// advance is the life cycle, as Prometheus has it (rules/alerting.go), with
// staleness and refutation added. It is a pure function of entry, finding and
// time. The caller holds the entry.
func (e *entry) advance(f finding, now time.Time) step {
	switch f.outcome {
	case holds:
		return e.hold(f, now)
	case refuted:
		return e.refute(now)
	case unseen:
		return e.lose(f, now)
	default:
		return e.cease(f, now)
	}
}

func (e *entry) hold(f finding, now time.Time) step {
	s := step{render: true}
	best := f.best()
	if !e.live() {
		e.phase, e.stale = phasePending, false
		e.activeAt, e.onset, e.onsetFrom = now, now, ""
		e.gradedAt = map[signature.Grade]time.Time{}
		e.resolvedAt, e.refutedAt = time.Time{}, time.Time{}
		e.grade = signature.None
		s.began, s.transition = true, "pending"
	}
	if e.stale {
		e.stale = false
		if e.phase == phasePending {
			// `for` counts only time in which it was seen to hold.
			e.activeAt = now
		} else {
			s.transition = "firing"
		}
	}
	e.ceasedAt = time.Time{}
	if best.Grade != e.grade {
		e.grade = best.Grade
		if s.transition == "" {
			s.transition = "grade"
		}
	}
	for _, g := range []signature.Grade{signature.Suspected, signature.Likely, signature.Proven} {
		if _, reached := e.gradedAt[g]; !reached && g <= best.Grade {
			e.gradedAt[g] = now
		}
	}
	if e.phase == phasePending && now.Sub(e.activeAt) >= e.rule.For {
		e.phase = phaseFiring
		s.transition = "firing"
	}
	e.reason = best.Reason
	e.rests = restsOn(f.results)
	return s
}

func (e *entry) refute(now time.Time) step {
	if e.phase == phaseFiring {
		if s, still := e.keepFiring(now, "refuted; it is shown as firing until it has stayed so for "+e.rule.KeepFiringFor.String()); still {
			return s
		}
		e.resolvedAt = now
	}
	s := step{render: true}
	if e.live() {
		s.transition = "resolved"
	}
	if e.phase != phaseRefuted {
		if e.phase != phaseFiring {
			e.onset, e.onsetFrom, e.gradedAt = now, "", map[signature.Grade]time.Time{}
		}
		e.phase, e.stale = phaseRefuted, false
	}
	e.grade, e.refutedAt, e.ceasedAt = signature.Refuted, now, time.Time{}
	return s
}

func (e *entry) lose(f finding, now time.Time) step {
	if !e.live() {
		return e.age(now)
	}
	e.reason = f.reason
	e.ceasedAt = time.Time{}
	if e.stale {
		return step{}
	}
	e.stale = true
	if e.phase == phasePending {
		return step{}
	}
	return step{transition: stateStale}
}

func (e *entry) cease(f finding, now time.Time) step {
	switch e.phase {
	case phasePending:
		// It never fired, so there is nothing to resolve; but its record must not
		// come back at the next start.
		e.phase = phaseNone
		return step{drop: true, transition: "dropped"}
	case phaseFiring:
		if s, still := e.keepFiring(now, f.reason); still {
			return s
		}
		e.phase, e.stale, e.resolvedAt, e.reason = phaseResolved, false, now, f.reason
		return step{transition: "resolved"}
	default:
		return e.age(now)
	}
}

// keepFiring says whether a firing verdict that does not hold is still shown as
// firing, so that a cause that comes and goes stays one verdict.
func (e *entry) keepFiring(now time.Time, reason string) (step, bool) {
	var s step
	if e.stale {
		e.stale = false
		s.transition = "firing"
	}
	if e.ceasedAt.IsZero() {
		e.ceasedAt = now
	}
	e.reason = reason
	return s, now.Sub(e.ceasedAt) < e.rule.KeepFiringFor
}

// age drops what has been shown long enough.
func (e *entry) age(now time.Time) step {
	switch e.phase {
	case phaseRefuted:
		return step{drop: now.Sub(e.refutedAt) >= keepRefuted}
	case phaseResolved:
		return step{drop: now.Sub(e.resolvedAt) >= keepResolved}
	default:
		return step{drop: !e.live()}
	}
}

// restsOn lists the clauses that carry the grade of the strongest result: those
// of its complete proof set, else those that count.
func restsOn(results []signature.Result) []basis {
	if len(results) == 0 {
		return nil
	}
	best := results[0]
	var out []basis
	for _, c := range best.Clauses {
		if c.Truth != signature.True || !c.Decisive && (best.Grade == signature.Proven || c.Bans <= 0) {
			continue
		}
		b := basis{Clause: c.ID, Bans: c.Bans, Subject: best.Subject}
		for _, r := range c.Reads {
			if p := r.Item.Probe(); !contains(b.Probes, p) {
				b.Probes = append(b.Probes, p)
			}
		}
		out = append(out, b)
	}
	return out
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
