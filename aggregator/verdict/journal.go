// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/signature"
)

const (
	// journalTimeout bounds one record: a journal that hangs must not keep a
	// verdict from being shown.
	journalTimeout = 2 * time.Second
	// journalBackoff is how long nothing is tried after a failure.
	journalBackoff = time.Second
	// rewriteAfter is the age after which a live verdict is written again, well
	// within the time for which the bus keeps records (7 days).
	rewriteAfter = 24 * time.Hour
	// rewritesPerTick spreads that, and what a failure left behind.
	rewritesPerTick = 64
)

// journalFilter matches the subjects of all records.
const journalFilter = "verdict.>"

const recordVersion = 1

// A record is one transition of one verdict with all that its life needs to go
// on after a restart. The newest record of a verdict stands for it.
type record struct {
	Version    int                  `json:"version"`
	Transition string               `json:"transition"`
	At         time.Time            `json:"at"`
	ID         string               `json:"id"`
	Cluster    string               `json:"cluster"`
	Signature  string               `json:"signature"`
	Scope      scope                `json:"scope"`
	Phase      phase                `json:"phase"`
	Stale      bool                 `json:"stale"`
	Grade      string               `json:"grade"`
	ActiveAt   time.Time            `json:"activeAt"`
	Onset      time.Time            `json:"onset"`
	OnsetFrom  string               `json:"onsetFrom,omitempty"`
	GradedAt   map[string]time.Time `json:"gradedAt"`
	ResolvedAt time.Time            `json:"resolvedAt,omitzero"`
	Rests      []basis              `json:"rests"`
	Verdict    json.RawMessage      `json:"verdict"`
}

// A save is a transition that is to be made durable.
type save struct {
	entry      *entry
	transition string
}

type journalHealth struct {
	retryAt time.Time
	lastErr string
	// records counts those of this process.
	records uint64
}

// save makes a transition durable. When it cannot, the verdict is shown all the
// same, with the reason, and tried again: a full disk must not hide a cause.
func (e *Engine) save(ctx context.Context, s save, now time.Time) bool {
	en := s.entry
	if e.cfg.Journal == nil || en.base == nil {
		return true
	}
	if now.Before(e.journal.retryAt) {
		en.unsaved, en.journalErr = s.transition, e.journal.lastErr
		return false
	}
	data, err := en.record(e.cfg.Cluster, s.transition, now)
	if err == nil {
		publishCtx, cancel := context.WithTimeout(ctx, journalTimeout)
		err = e.cfg.Journal.Publish(publishCtx, "verdict."+en.id, e.recordID(en.id, now), data)
		cancel()
	}
	if err != nil {
		e.metrics.journalFailures.Inc()
		e.journal.retryAt, e.journal.lastErr = now.Add(journalBackoff), err.Error()
		if en.unsaved == "" {
			e.log.Error("verdict transition is not durable; it is tried again", "verdict_id", en.id, "transition", s.transition, "error", err)
		}
		en.unsaved, en.journalErr = s.transition, err.Error()
		return false
	}
	en.unsaved, en.journalErr, en.journaledAt = "", "", now
	return true
}

// recordID is new for every record: two transitions may fall on one reading of
// the clock, and the bus stores an id once.
func (e *Engine) recordID(id string, now time.Time) string {
	e.journal.records++
	return fmt.Sprintf("%s-%d-%d", id, now.UnixNano(), e.journal.records)
}

// retryJournal writes what is not durable yet, and what would grow too old.
func (e *Engine) retryJournal(ctx context.Context, now time.Time) {
	if e.cfg.Journal == nil || now.Before(e.journal.retryAt) {
		return
	}
	unsaved, left := 0, rewritesPerTick
	l := &look{now: now, shows: map[string]*entry{}}
	for _, en := range e.entries {
		transition := en.unsaved
		if transition == "" {
			if !en.live() || now.Sub(en.journaledAt) < rewriteAfter {
				continue
			}
			transition = "rewritten"
		}
		if left--; left < 0 || !e.save(ctx, save{en, transition}, now) {
			unsaved++
			continue
		}
		l.shows[en.id] = en
	}
	e.metrics.unsaved.Set(float64(unsaved))
	e.show(l)
}

func (en *entry) record(cluster, transition string, now time.Time) ([]byte, error) {
	v := en.compose()
	// The record itself is what makes it durable.
	v.JournalError = ""
	message, err := protojson.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("write record of verdict %s: %w", en.id, err)
	}
	graded := map[string]time.Time{}
	for g, at := range en.gradedAt {
		graded[g.String()] = at
	}
	return json.Marshal(record{
		Version: recordVersion, Transition: transition, At: now, ID: en.id, Cluster: cluster, Signature: en.rule.ID,
		Scope: en.scope, Phase: en.phase, Stale: en.stale, Grade: en.grade.String(), ActiveAt: en.activeAt,
		Onset: en.onset, OnsetFrom: en.onsetFrom, GradedAt: graded, ResolvedAt: en.resolvedAt, Rests: en.rests, Verdict: message,
	})
}

// Restore brings back from the journal what was live when the process ended: as
// stale, until evidence confirms or ends it. Call it before Run and before
// batches are taken.
//
// A record that cannot be read is counted and skipped; only a journal that
// cannot be replayed at all is an error.
func (e *Engine) Restore(ctx context.Context) error {
	if e.cfg.Journal == nil {
		return nil
	}
	newest := map[string]record{}
	err := e.cfg.Journal.Replay(ctx, journalFilter, func(subject string, _ time.Time, data []byte) error {
		var r record
		if err := json.Unmarshal(data, &r); err != nil || r.Version != recordVersion || r.ID == "" {
			e.metrics.unreadable.Inc()
			e.log.Error("record of a verdict cannot be read; it is skipped", "subject", subject, "version", r.Version, "error", err)
			return nil
		}
		newest[r.ID] = r
		return nil
	})
	if err != nil {
		return fmt.Errorf("bring back verdicts from the journal: %w", err)
	}
	rules := map[string]*signature.Signature{}
	for _, r := range e.cfg.Rules {
		rules[r.Info.ID] = r.Info
	}
	now := e.cfg.Now()
	l := &look{now: now, shows: map[string]*entry{}}
	for id, r := range newest {
		en, err := r.entry(rules, e.cfg.Cluster)
		if err != nil {
			e.metrics.unreadable.Inc()
			e.log.Error("verdict is not brought back", "verdict_id", id, "signature", r.Signature, "error", err)
			continue
		}
		if !en.live() && en.age(now).drop {
			continue
		}
		e.hold(en)
		l.shows[id] = en
	}
	e.show(l)
	return nil
}

func (r record) entry(rules map[string]*signature.Signature, cluster string) (*entry, error) {
	rule, ok := rules[r.Signature]
	if !ok {
		return nil, fmt.Errorf("signature %s is not loaded any more", r.Signature)
	}
	if want := r.Scope.id(cluster, r.Signature); want != r.ID {
		return nil, fmt.Errorf("its id does not fit its scope (want %s); the record is of another cluster or damaged", want)
	}
	switch r.Phase {
	case phaseNone, phasePending, phaseFiring, phaseResolved, phaseRefuted:
	default:
		return nil, fmt.Errorf("its phase %q is none that this build knows", r.Phase)
	}
	base := &apiv1.Verdict{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(r.Verdict, base); err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	en := &entry{
		id: r.ID, rule: rule, scope: r.Scope, phase: r.Phase, stale: r.Phase == phaseFiring || r.Phase == phasePending,
		activeAt: r.ActiveAt, onset: r.Onset, onsetFrom: r.OnsetFrom, resolvedAt: r.ResolvedAt, refutedAt: r.At,
		gradedAt: map[signature.Grade]time.Time{}, rests: r.Rests, base: base, journaledAt: r.At,
		updatedAt: base.GetUpdatedAt().AsTime(), reason: base.GetReason(), consequences: base.GetConsequences(),
	}
	for _, g := range []signature.Grade{signature.Refuted, signature.Suspected, signature.Likely, signature.Proven} {
		if g.String() == r.Grade {
			en.grade = g
		}
		if at, reached := r.GradedAt[g.String()]; reached {
			en.gradedAt[g] = at
		}
	}
	if en.live() {
		en.reason = "the aggregator was restarted and the node has not reported it again yet"
	}
	return en, nil
}
