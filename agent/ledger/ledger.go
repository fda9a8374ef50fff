// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ledger keeps what the agent currently knows: the newest observation of
// every probe and subject, each with the version at which it last changed. The
// uplink asks it for everything, or for what changed since a version; /metrics
// shows it.
package ledger

import (
	"sort"
	"sync"

	"google.golang.org/protobuf/proto"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// A Snapshot is the content of a batch.
type Snapshot struct {
	// Version is the version of the ledger that the snapshot is of.
	Version      uint64
	Observations []*evidencev1.Observation
	// Removed are observations that were known at the earlier version and are gone.
	// Empty in a full snapshot.
	Removed []*evidencev1.SubjectRef
	Probes  []*evidencev1.ProbeStatus
	// OpenEpisodeIDs are the episodes that are open now, sorted.
	OpenEpisodeIDs []string
}

type key struct{ probe, kind, subject string }

type entry struct {
	observation *evidencev1.Observation
	version     uint64
}

// A Ledger holds the newest evidence of one agent. Safe for concurrent use. The
// messages in a Snapshot are shared and must not be changed.
type Ledger struct {
	mu      sync.Mutex
	version uint64
	entries map[key]entry
	removed map[key]uint64
	probes  map[string]*evidencev1.ProbeStatus
	open    map[string]struct{}
}

// New returns an empty ledger.
func New() *Ledger {
	return &Ledger{
		entries: map[key]entry{},
		removed: map[key]uint64{},
		probes:  map[string]*evidencev1.ProbeStatus{},
		open:    map[string]struct{}{},
	}
}

// Replace puts a probe's complete new observations in place of its old ones and
// says whether any of them differs by more than its time stamp.
func (l *Ledger) Replace(probe string, observations []*evidencev1.Observation) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.version + 1
	changed := false
	seen := make(map[key]struct{}, len(observations))
	for _, o := range observations {
		k := key{probe, o.GetSubject().GetKind(), o.GetSubject().GetKey()}
		seen[k] = struct{}{}
		old, known := l.entries[k]
		if known && sameFacts(old.observation, o) {
			// The time of an unchanged observation travels in the probe's status.
			l.entries[k] = entry{o, old.version}
			continue
		}
		l.entries[k] = entry{o, next}
		delete(l.removed, k)
		changed = true
	}
	for k := range l.entries {
		if k.probe != probe {
			continue
		}
		if _, still := seen[k]; !still {
			delete(l.entries, k)
			l.removed[k] = next
			changed = true
		}
	}
	if changed {
		l.version = next
	}
	return changed
}

func sameFacts(a, b *evidencev1.Observation) bool {
	if !proto.Equal(a.GetSubject(), b.GetSubject()) || len(a.GetItems()) != len(b.GetItems()) {
		return false
	}
	for i := range a.GetItems() {
		if !proto.Equal(a.GetItems()[i], b.GetItems()[i]) {
			return false
		}
	}
	return true
}

// Observations returns the newest observations of one probe, sorted by subject.
func (l *Ledger) Observations(probe string) []*evidencev1.Observation {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*evidencev1.Observation
	for k, e := range l.entries {
		if k.probe == probe {
			out = append(out, e.observation)
		}
	}
	sortObservations(out)
	return out
}

// SetProbe records the state of a probe.
func (l *Ledger) SetProbe(status *evidencev1.ProbeStatus) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.probes[status.GetName()] = status
}

// SetOpen records whether an episode is open.
func (l *Ledger) SetOpen(id string, open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if open {
		l.open[id] = struct{}{}
	} else {
		delete(l.open, id)
	}
}

// Full returns everything that is known now.
func (l *Ledger) Full() Snapshot { return l.snapshot(0, true) }

// Since returns what changed after a version.
func (l *Ledger) Since(version uint64) Snapshot { return l.snapshot(version, false) }

func (l *Ledger) snapshot(since uint64, full bool) Snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Snapshot{Version: l.version}
	for _, e := range l.entries {
		if full || e.version > since {
			s.Observations = append(s.Observations, e.observation)
		}
	}
	sortObservations(s.Observations)
	if !full {
		for k, v := range l.removed {
			if v > since {
				s.Removed = append(s.Removed, &evidencev1.SubjectRef{Kind: k.kind, Key: k.subject, Probe: k.probe})
			}
		}
		sort.Slice(s.Removed, func(i, j int) bool {
			a, b := s.Removed[i], s.Removed[j]
			if a.GetKey() != b.GetKey() {
				return a.GetKey() < b.GetKey()
			}
			return a.GetProbe() < b.GetProbe()
		})
	}
	for _, p := range l.probes {
		s.Probes = append(s.Probes, p)
	}
	sort.Slice(s.Probes, func(i, j int) bool { return s.Probes[i].GetName() < s.Probes[j].GetName() })
	for id := range l.open {
		s.OpenEpisodeIDs = append(s.OpenEpisodeIDs, id)
	}
	sort.Strings(s.OpenEpisodeIDs)
	return s
}

// Forget drops the marks of removed observations up to a version that every reader
// has acknowledged, so that they do not pile up.
func (l *Ledger) Forget(version uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, v := range l.removed {
		if v <= version {
			delete(l.removed, k)
		}
	}
}

func sortObservations(o []*evidencev1.Observation) {
	sort.Slice(o, func(i, j int) bool {
		a, b := o[i], o[j]
		if a.GetProbe() != b.GetProbe() {
			return a.GetProbe() < b.GetProbe()
		}
		if a.GetSubject().GetKind() != b.GetSubject().GetKind() {
			return a.GetSubject().GetKind() < b.GetSubject().GetKind()
		}
		return a.GetSubject().GetKey() < b.GetSubject().GetKey()
	})
}
