// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// A Weigher weighs one signature; *signature.Signature is one.
type Weigher interface {
	// Subjects are those that the signature applies to, or may apply to.
	Subjects(view *state.View) []evidence.Subject
	Weigh(view *state.View, subject evidence.Subject) signature.Result
	// Absence says what it means that there is no such subject.
	Absence(view *state.View) signature.Result
}

var _ Weigher = (*signature.Signature)(nil)

// A Rule is a signature with what weighs it.
type Rule struct {
	Info *signature.Signature
	Weigher
}

// Rules makes rules of loaded signatures.
func Rules(loaded []*signature.Signature) []Rule {
	out := make([]Rule, len(loaded))
	for i, s := range loaded {
		out[i] = Rule{Info: s, Weigher: s}
	}
	return out
}

// A Journal keeps what must survive the process; *bus.Bus is one.
type Journal interface {
	// Publish returns once data is durable.
	Publish(ctx context.Context, subject, id string, data []byte) error
	// Replay calls fn for everything kept, oldest first.
	Replay(ctx context.Context, filter string, fn func(subject string, at time.Time, data []byte) error) error
}

// A Director hands directives to agents; *ingest.Service is one.
type Director interface {
	Direct(node string, d *evidencev1.Directive) error
}

// Config holds what an Engine needs.
type Config struct {
	// Cluster goes into the verdicts' ids.
	Cluster string
	State   *state.State
	Catalog *evidence.Catalog
	Rules   []Rule
	// Journal may be nil: verdicts then do not survive the process.
	Journal Journal
	// Director may be nil: nothing is asked of agents then. It may also be set
	// later, before Run.
	Director Director
	// Now is the aggregator's clock, the same as the state's. Default time.Now.
	Now func() time.Time
	// Tick is how often time alone is looked at: `for`, keepFiringFor, staleness.
	// Default 1 s.
	Tick time.Duration
	// Coalesce is how long changes are gathered. Default 20 ms.
	Coalesce time.Duration
	// MaxVerdicts bounds what is held. Default 50,000.
	MaxVerdicts int
	Log         *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

// An Engine decides which verdicts stand. What it shows is safe for concurrent
// use; Run and Restore must not run at the same time.
type Engine struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	// The loop's own: entries by id, and by node what was last looked at.
	entries map[string]*entry
	tracks  map[string]*track
	asked   map[askKey]time.Time
	journal journalHealth

	mu          sync.RWMutex
	shown       map[string]*apiv1.Verdict
	subscribers map[*Subscription]struct{}
}

// A track is what the loop knows of a node.
type track struct {
	// uid is of the machine that generation is of: another one of the same name
	// counts from the start.
	uid        string
	generation uint64
	expires    time.Time
	batchAt    time.Time
	entries    map[string]*entry
}

// New checks the configuration and returns an engine that is not running yet.
func New(cfg Config) (*Engine, error) {
	if cfg.State == nil {
		return nil, errors.New("set up verdict engine: Config.State is missing")
	}
	if cfg.Cluster == "" {
		return nil, errors.New("set up verdict engine: the cluster has no name, which the verdicts' ids need; set one")
	}
	if cfg.Catalog == nil {
		cfg.Catalog = evidence.NewCatalog()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Tick <= 0 {
		cfg.Tick = time.Second
	}
	if cfg.Coalesce <= 0 {
		cfg.Coalesce = 20 * time.Millisecond
	}
	if cfg.MaxVerdicts <= 0 {
		cfg.MaxVerdicts = 50_000
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	seen := map[string]bool{}
	for _, r := range cfg.Rules {
		if seen[r.Info.ID] {
			return nil, fmt.Errorf("set up verdict engine: signature %s is loaded twice, from %s as well", r.Info.ID, r.Info.Origin)
		}
		seen[r.Info.ID] = true
	}
	e := &Engine{
		cfg:         cfg,
		log:         cfg.Log.With("component", "verdict"),
		entries:     map[string]*entry{},
		tracks:      map[string]*track{},
		asked:       map[askKey]time.Time{},
		shown:       map[string]*apiv1.Verdict{},
		subscribers: map[*Subscription]struct{}{},
	}
	e.metrics = newMetrics(cfg.Registerer, e)
	return e, nil
}

// SetDirector gives the engine its way to the agents. Call it before Run.
func (e *Engine) SetDirector(d Director) { e.cfg.Director = d }

// Run evaluates until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	tick := time.NewTicker(e.cfg.Tick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			e.retryJournal(context.WithoutCancel(ctx), e.cfg.Now())
			return nil
		case name := <-e.cfg.State.Changed():
			for node := range e.gather(ctx, name) {
				e.evaluate(ctx, node)
			}
		case <-tick.C:
			e.tick(ctx)
		}
	}
}

// gather collects changes for a moment, so that a burst of one node is weighed
// once.
func (e *Engine) gather(ctx context.Context, first string) map[string]struct{} {
	names := map[string]struct{}{first: {}}
	timer := time.NewTimer(e.cfg.Coalesce)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return names
		case name := <-e.cfg.State.Changed():
			names[name] = struct{}{}
		case <-timer.C:
			return names
		}
	}
}

// tick looks at what time alone changes, and at changes whose announcement was
// missed.
func (e *Engine) tick(ctx context.Context) {
	now := e.cfg.Now()
	for _, name := range e.cfg.State.Names() {
		t := e.tracks[name]
		view, ok := e.cfg.State.View(name)
		if !ok {
			continue
		}
		if t == nil || view.Generation() != t.generation || !t.expires.IsZero() && !now.Before(t.expires) || t.waits() {
			e.evaluate(ctx, name)
		}
	}
	var gone []*entry
	for _, en := range e.entries {
		if !en.live() && en.age(now).drop {
			gone = append(gone, en)
		}
	}
	for _, en := range gone {
		e.forget(en)
	}
	e.forgetAsked(now)
	e.retryJournal(ctx, now)
}

// waits says whether a verdict of the node stands before a deadline.
func (t *track) waits() bool {
	for _, en := range t.entries {
		if en.phase == phasePending && !en.stale || en.phase == phaseFiring && !en.ceasedAt.IsZero() {
			return true
		}
	}
	return false
}

// look is one evaluation of one node.
type look struct {
	view *state.View
	now  time.Time
	// saves are the entries that made a transition, in the order in which they
	// did.
	saves []save
	shows map[string]*entry
	drops []*entry
}

// evaluate weighs every signature on one node and shows what came of it.
func (e *Engine) evaluate(ctx context.Context, name string) {
	started := time.Now()
	view, ok := e.cfg.State.View(name)
	if !ok {
		return
	}
	t := e.tracks[name]
	if t == nil {
		t = &track{entries: map[string]*entry{}}
		e.tracks[name] = t
	}
	now := e.cfg.Now()
	due := !t.expires.IsZero() && !now.Before(t.expires)
	if view.Generation() == t.generation && view.Node.UID == t.uid && !due && len(t.entries) == 0 {
		return
	}
	fresh := view.BatchAt().After(t.batchAt)
	t.uid, t.generation, t.expires, t.batchAt = view.Node.UID, view.Generation(), view.Expires(), view.BatchAt()

	l := &look{view: view, now: now, shows: map[string]*entry{}}
	done := map[string]bool{}
	for _, rule := range e.cfg.Rules {
		groups, err := e.weigh(rule, view)
		if err != nil {
			e.log.Error("signature could not be weighed", "signature", rule.Info.ID, "evidence_node", name, "error", err)
		}
		for s, results := range groups {
			byStrength(results)
			id := s.id(e.cfg.Cluster, rule.Info.ID)
			en := e.entries[id]
			if en == nil && results[0].Grade == signature.None {
				continue
			}
			if en == nil {
				if en = e.adopt(id, rule.Info, s); en == nil {
					continue
				}
			}
			done[id] = true
			e.move(l, en, findIn(en, view, results))
			e.direct(view, results[0], now)
		}
		for id, en := range t.entries {
			if en.rule.ID == rule.Info.ID && !done[id] {
				done[id] = true
				e.move(l, en, findGone(en, rule, view, err))
			}
		}
	}
	e.linkConsequences(t, l)
	for _, s := range l.saves {
		e.save(ctx, s, now)
	}
	e.show(l)
	e.metrics.evaluation.Observe(time.Since(started).Seconds())
	// What only the passing of time brought about is no answer to a batch.
	if len(l.saves) > 0 && fresh {
		e.metrics.latency.Observe(e.cfg.Now().Sub(view.BatchAt()).Seconds())
	}
}

// weigh reduces one signature's results to scopes. A silent node is not weighed:
// all its facts are unknown. A signature that panics costs only itself.
func (e *Engine) weigh(rule Rule, view *state.View) (groups map[scope][]signature.Result, err error) {
	if view.Silent() {
		return nil, nil
	}
	defer func() {
		if r := recover(); r != nil {
			e.metrics.panics.WithLabelValues(rule.Info.ID).Inc()
			groups, err = nil, fmt.Errorf("weighing panicked: %v", r)
			e.log.Debug("stack of a panic in a signature", "signature", rule.Info.ID, "stack", string(debug.Stack()))
		}
	}()
	groups = map[scope][]signature.Result{}
	for _, subject := range rule.Subjects(view) {
		s := scopeOf(e.cfg.Catalog, rule.Info, view, subject)
		groups[s] = append(groups[s], rule.Weigh(view, subject))
	}
	return groups, nil
}

func (e *Engine) adopt(id string, rule *signature.Signature, s scope) *entry {
	if len(e.entries) >= e.cfg.MaxVerdicts {
		e.metrics.refused.Inc()
		return nil
	}
	en := &entry{id: id, rule: rule, scope: s}
	e.hold(en)
	return en
}

func (e *Engine) hold(en *entry) {
	e.entries[en.id] = en
	t := e.tracks[en.scope.Node]
	if t == nil {
		t = &track{entries: map[string]*entry{}}
		e.tracks[en.scope.Node] = t
	}
	t.entries[en.id] = en
}

func (e *Engine) forget(en *entry) {
	delete(e.entries, en.id)
	if t := e.tracks[en.scope.Node]; t != nil {
		delete(t.entries, en.id)
	}
	e.mu.Lock()
	delete(e.shown, en.id)
	e.mu.Unlock()
}

// move takes one verdict one step on and notes what is to be saved and shown.
func (e *Engine) move(l *look, en *entry, f finding) {
	before := en.phase
	s := en.advance(f, l.now)
	if s.render || s.transition != "" {
		en.updatedAt = l.now
	}
	if s.render {
		en.base = e.render(en, l.view, f)
		if en.live() && (s.began || en.onsetFrom == "") && e.findOnset(en, l.view, f, s.began) && s.transition == "" {
			s.transition = "onset"
		}
	} else if f.outcome == unseen && len(f.results) > 0 && en.base != nil {
		en.base = withUnknown(en.base, l.view, f.results)
	}
	if s.transition != "" {
		e.metrics.transitions.WithLabelValues(en.rule.ID, s.transition).Inc()
		l.saves = append(l.saves, save{entry: en, transition: s.transition})
		e.log.Info("verdict changed", "verdict_id", en.id, "signature", en.rule.ID, "evidence_node", en.scope.Node,
			"transition", s.transition, "verdict_state", en.state(), "before", string(before), "grade", en.grade.String(), "reason", en.reason)
	}
	if s.drop {
		l.drops = append(l.drops, en)
		return
	}
	l.shows[en.id] = en
}
