// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// An invalid batch is refused; reason is a label of the metrics.
type invalid struct {
	reason string
	err    error
}

func (e *invalid) Error() string { return e.err.Error() }
func (e *invalid) Unwrap() error { return e.err }

func refuse(reason, format string, args ...any) error {
	return &invalid{reason: reason, err: fmt.Errorf(format, args...)}
}

// Names of what is left out or put right without refusing the batch.
const (
	ignoredItem      = "unknown_item"
	ignoredSubject   = "unknown_subject"
	ignoredCondition = "unknown_condition"
	mendedTime       = "time_clamped"
	mendedText       = "text_cut"
)

// A checker goes over one batch and puts right in place what may be put right.
// It is used once.
type checker struct {
	catalog *evidence.Catalog
	limits  *Limits
	// mended counts by the names above.
	mended map[string]int
}

// check decides whether a request may be taken. It changes the request: items
// and subjects of kinds that this build does not know are removed, time stamps
// that lie after the sending are set to it, long or unprintable prose is cut or
// replaced. After an error the request must not be used.
func (c *checker) check(req *evidencev1.PushRequest) error {
	b := req.GetBatch()
	sent := req.GetSentBoottimeNanoseconds()
	switch {
	case b == nil:
		return refuse("shape", "the request holds no batch")
	case b.GetSchemaVersion() != evidence.SchemaVersion:
		return refuse("schema", "schema version %d is not spoken here, version %d is: upgrade the older side", b.GetSchemaVersion(), evidence.SchemaVersion)
	case sent == 0 || sent > maxBoottime:
		return refuse("time", "the time of sending, %d ns of boottime, is not possible", sent)
	case b.GetSequence() == 0 || b.GetSequence() > math.MaxInt64:
		return refuse("shape", "sequence %d is not possible, it starts at 1", b.GetSequence())
	case b.GetKind() != evidencev1.Batch_FULL && b.GetKind() != evidencev1.Batch_DELTA:
		return refuse("shape", "batch kind %d is neither full nor delta", b.GetKind())
	case len(b.GetObservations()) > c.limits.Observations:
		return refuse("size", "%d observations, at most %d are taken", len(b.GetObservations()), c.limits.Observations)
	case len(b.GetEpisodes()) > c.limits.Episodes:
		return refuse("size", "%d episodes, at most %d are taken", len(b.GetEpisodes()), c.limits.Episodes)
	case len(b.GetOpenEpisodeIds()) > c.limits.Observations:
		return refuse("size", "%d open episodes, at most %d are taken", len(b.GetOpenEpisodeIds()), c.limits.Observations)
	case len(b.GetRemoved()) > c.limits.Removed:
		return refuse("size", "%d removed subjects, at most %d are taken", len(b.GetRemoved()), c.limits.Removed)
	case len(b.GetProbes()) > c.limits.Probes:
		return refuse("size", "%d probes, at most %d are taken", len(b.GetProbes()), c.limits.Probes)
	case len(b.GetDirectiveResults()) > 4*c.limits.Directives:
		return refuse("size", "%d results of directives, at most %d are taken", len(b.GetDirectiveResults()), 4*c.limits.Directives)
	}
	if err := checkIdentifier("node uid", b.GetNodeUid(), maxName); err != nil {
		return err
	}
	if err := checkBootID(b.GetBootId()); err != nil {
		return err
	}
	return first(c.observations(b, sent), c.removed(b), c.episodes(b, sent), c.probes(b, sent), c.rest(b))
}

func (c *checker) observations(b *evidencev1.Batch, sent uint64) error {
	kept := b.GetObservations()[:0]
	for i, o := range b.GetObservations() {
		if err := checkIdentifier("probe", o.GetProbe(), maxIdentifier); err != nil {
			return fmt.Errorf("observation %d: %w", i, err)
		}
		known, err := c.subject(o.GetSubject())
		if err != nil {
			return fmt.Errorf("observation %d of probe %s: %w", i, o.GetProbe(), err)
		}
		if o.GetObservedBoottimeNanoseconds() == 0 {
			return refuse("time", "observation %d of probe %s has no time", i, o.GetProbe())
		}
		c.clamp(&o.ObservedBoottimeNanoseconds, sent)
		if !known {
			c.mended[ignoredSubject]++
			continue
		}
		if o.Items, err = c.items(o.GetItems(), o.GetProbe(), o.GetSubject().GetKind()); err != nil {
			return fmt.Errorf("observation %d of probe %s: %w", i, o.GetProbe(), err)
		}
		kept = append(kept, o)
	}
	b.Observations = kept
	return nil
}

// subject says whether the kind is one that this build knows.
func (c *checker) subject(s *evidencev1.Subject) (known bool, err error) {
	if s == nil {
		return false, refuse("shape", "it has no subject")
	}
	if err := checkIdentifier("subject kind", s.GetKind(), maxIdentifier); err != nil {
		return false, err
	}
	if err := checkIdentifier("subject key", s.GetKey(), maxKey); err != nil {
		return false, err
	}
	if s.GetKind() == evidence.SubjectNode && s.GetKey() != evidence.Node().Key {
		return false, refuse("shape", "a node has one subject that stands for it, %q, not %q", evidence.Node().Key, clip(s.GetKey()))
	}
	for _, f := range []struct{ name, value string }{{"parent key", s.GetParentKey()}, {"pod uid", s.GetPodUid()}} {
		if f.value == "" {
			continue
		}
		if err := checkIdentifier(f.name, f.value, maxKey); err != nil {
			return false, err
		}
	}
	c.prose(&s.Name, maxName)
	_, known = c.catalog.Subject(s.GetKind())
	return known, nil
}

// items checks each item against the catalogue and leaves out those that it does
// not know. An empty probe lets items of any probe pass, as episodes carry them.
func (c *checker) items(items []*evidencev1.Item, probe, kind string) ([]*evidencev1.Item, error) {
	kept := items[:0]
	seen := make(map[uint32]bool, len(items))
	for _, it := range items {
		info, ok := c.catalog.ByID(it.GetId())
		if it.GetId() == 0 || it.GetState() == nil {
			return nil, refuse("item", "item %d has no state or no id: silence is never healthy", it.GetId())
		}
		if u := it.GetUncertainty(); u < 0 || math.IsNaN(u) || math.IsInf(u, 0) {
			return nil, refuse("item", "item %d has the uncertainty %v, which is no half width", it.GetId(), u)
		}
		if seen[it.GetId()] {
			return nil, refuse("item", "item %d is there twice", it.GetId())
		}
		seen[it.GetId()] = true
		c.prose(&it.Rung, maxDetail)
		if err := c.value(it, info, ok); err != nil {
			return nil, err
		}
		if !ok || info.Obsolete {
			c.mended[ignoredItem]++
			continue
		}
		if probe != "" && (info.Probe() != probe || info.Subject != kind) {
			return nil, refuse("item", "item %s belongs to probe %s about a %s, not to %s about a %s", info.Name, info.Probe(), info.Subject, clip(probe), clip(kind))
		}
		kept = append(kept, it)
	}
	return kept, nil
}

// value checks the state of an item; known says whether info holds its row.
func (c *checker) value(it *evidencev1.Item, info evidence.ItemInfo, known bool) error {
	var got evidence.Type
	switch s := it.GetState().(type) {
	case *evidencev1.Item_Integer:
		got = evidence.TypeInteger
	case *evidencev1.Item_Number:
		got = evidence.TypeNumber
		if math.IsNaN(s.Number) || math.IsInf(s.Number, 0) {
			return refuse("item", "item %d has the value %v, which is no measurement", it.GetId(), s.Number)
		}
	case *evidencev1.Item_Text:
		got = evidence.TypeText
		if len(s.Text) > maxText {
			return refuse("text", "item %d has a text of %d bytes, at most %d are taken", it.GetId(), len(s.Text), maxText)
		}
		c.prose(&s.Text, maxText)
	case *evidencev1.Item_Flag:
		got = evidence.TypeFlag
	case *evidencev1.Item_Unknown:
		if s.Unknown.GetReason() == evidencev1.Unknown_REASON_UNSPECIFIED {
			return refuse("item", "item %d is unknown without a reason", it.GetId())
		}
		c.prose(&s.Unknown.Detail, maxDetail)
		return nil
	case *evidencev1.Item_NotApplicable:
		if s.NotApplicable == nil {
			return refuse("item", "item %d is not applicable without saying why", it.GetId())
		}
		c.prose(&s.NotApplicable.Detail, maxDetail)
		return nil
	}
	if known && got != info.Type {
		return refuse("item", "item %s is a %s, not a %s", info.Name, info.Type, got)
	}
	return nil
}

func (c *checker) removed(b *evidencev1.Batch) error {
	for i, r := range b.GetRemoved() {
		if err := first(checkIdentifier("subject kind", r.GetKind(), maxIdentifier), checkIdentifier("subject key", r.GetKey(), maxKey), checkIdentifier("probe", r.GetProbe(), maxIdentifier)); err != nil {
			return fmt.Errorf("removed subject %d: %w", i, err)
		}
	}
	return nil
}

// episodes are kept even if their condition is not known here: they are durable
// for whoever reads the journal after an upgrade.
func (c *checker) episodes(b *evidencev1.Batch, sent uint64) error {
	for i, e := range b.GetEpisodes() {
		if err := c.episode(e, b.GetBootId(), sent); err != nil {
			return fmt.Errorf("episode %d: %w", i, err)
		}
	}
	for i, id := range b.GetOpenEpisodeIds() {
		if err := checkIdentifier("id", id, maxIdentifier); err != nil {
			return fmt.Errorf("open episode %d: %w", i, err)
		}
	}
	return nil
}

func (c *checker) episode(e *evidencev1.Episode, bootID string, sent uint64) error {
	if err := first(
		checkIdentifier("id", e.GetId(), maxIdentifier),
		checkIdentifier("condition", e.GetCondition(), maxIdentifier),
		checkBootID(e.GetBootId()),
	); err != nil {
		return err
	}
	if _, err := c.subject(e.GetSubject()); err != nil {
		return err
	}
	if info, ok := c.catalog.Condition(e.GetCondition()); !ok {
		c.mended[ignoredCondition]++
	} else if info.Subject != e.GetSubject().GetKind() {
		return refuse("item", "condition %s is about a %s, not a %s", info.Name, info.Subject, clip(e.GetSubject().GetKind()))
	}
	onset, closed := e.GetOnsetBoottimeNanoseconds(), e.GetClosedBoottimeNanoseconds()
	switch {
	case onset == 0 || onset > maxBoottime || closed > maxBoottime:
		return refuse("time", "its onset or its end is not possible")
	case closed != 0 && closed < onset:
		return refuse("time", "it ends before it begins")
	}
	if sameKernel(e.GetBootId(), bootID) {
		c.clamp(&e.OnsetBoottimeNanoseconds, sent)
		c.clamp(&e.ClosedBoottimeNanoseconds, sent)
	} else if e.GetOnsetClaimedAt().CheckValid() != nil || (closed != 0 && e.GetClosedClaimedAt().CheckValid() != nil) {
		return refuse("time", "it is of an earlier boot and lacks the wall clock's claim")
	}
	var err error
	e.Items, err = c.items(e.GetItems(), "", "")
	return err
}

func (c *checker) probes(b *evidencev1.Batch, sent uint64) error {
	seen := map[string]bool{}
	for i, p := range b.GetProbes() {
		if err := checkIdentifier("name", p.GetName(), maxIdentifier); err != nil {
			return fmt.Errorf("probe %d: %w", i, err)
		}
		if seen[p.GetName()] {
			return refuse("shape", "probe %s is there twice", p.GetName())
		}
		seen[p.GetName()] = true
		if p.GetState() == evidencev1.ProbeStatus_STATE_UNSPECIFIED {
			return refuse("shape", "probe %s has no state", p.GetName())
		}
		if d := p.GetInterval(); d != nil && (d.CheckValid() != nil || d.AsDuration() < 0) {
			return refuse("time", "probe %s has an interval that is not possible", p.GetName())
		}
		if len(p.GetHooks()) > c.limits.Probes {
			return refuse("size", "probe %s has %d hooks, at most %d are taken", p.GetName(), len(p.GetHooks()), c.limits.Probes)
		}
		c.clamp(&p.SampledBoottimeNanoseconds, sent)
		c.prose(&p.Detail, maxDetail)
		for _, h := range p.GetHooks() {
			if h == nil {
				return refuse("shape", "probe %s has an empty hook", p.GetName())
			}
			c.prose(&h.Signal, maxIdentifier)
			c.prose(&h.Rung, maxDetail)
			c.prose(&h.Detail, maxDetail)
		}
	}
	return nil
}

func (c *checker) rest(b *evidencev1.Batch) error {
	for i, r := range b.GetDirectiveResults() {
		if err := checkIdentifier("id", r.GetDirectiveId(), maxIdentifier); err != nil {
			return fmt.Errorf("result %d of a directive: %w", i, err)
		}
		c.prose(&r.Detail, maxDetail)
	}
	a := b.GetAgent()
	if a == nil {
		return nil
	}
	c.prose(&a.Version, maxIdentifier)
	c.prose(&a.KernelRelease, maxName)
	c.prose(&a.Architecture, maxIdentifier)
	c.prose(&a.NodeName, maxName)
	if math.IsNaN(a.GetCpuSecondsTotal()) || math.IsInf(a.GetCpuSecondsTotal(), 0) || a.GetCpuSecondsTotal() < 0 {
		return refuse("item", "the agent's processor time is %v", a.GetCpuSecondsTotal())
	}
	if t := a.GetTlsTime(); t != nil {
		if math.IsNaN(t.GetCorrectionSeconds()) || math.IsInf(t.GetCorrectionSeconds(), 0) {
			return refuse("item", "the agent's TLS time is corrected by %v", t.GetCorrectionSeconds())
		}
		c.prose(&t.Detail, maxDetail)
	}
	return nil
}

// clamp keeps a stamp from lying after the sending. It may do so by a race
// between two reads of the clock; by more it is a fault that only makes its own
// node's evidence look younger than it is.
func (c *checker) clamp(stamp *uint64, sent uint64) {
	if *stamp > sent {
		*stamp = sent
		c.mended[mendedTime]++
	}
}

// prose cuts a text and replaces what could not be printed: control characters
// would reach terminals and logs.
func (c *checker) prose(text *string, limit int) {
	s := *text
	if len(s) <= limit && utf8.ValidString(s) && !strings.ContainsFunc(s, control) {
		return
	}
	c.mended[mendedText]++
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if control(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > limit {
		cut := limit
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut]
	}
	*text = s
}

// size is what a request counts against the byte rate of its node.
func size(req *evidencev1.PushRequest) int { return proto.Size(req) }
