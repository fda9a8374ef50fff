// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"encoding/json"
	"fmt"
	"time"
)

// EventType says what an Event is about.
type EventType string

// The types of events.
const (
	// Ready: a sender has begun its flows, a receiver listens.
	Ready EventType = "ready"
	// Applied: a command is in force; Detail repeats it.
	Applied EventType = "applied"
	// Rejected: a command could not be understood or carried out.
	Rejected EventType = "rejected"
	// Progress: counters since the last one of the flow, at most once a second, and
	// none while nothing changed. From a receiver it has a kind and no flow.
	Progress EventType = "progress"
	// Stalled: a transfer has made no progress for the limit.
	Stalled EventType = "stalled"
	// Failed: a transfer ended with an error.
	Failed EventType = "error"
	// Recovered: a stalled transfer goes on, or the flow's next transfer completed.
	Recovered EventType = "recovered"
	// Noise: what a confounder did. It is nothing that an application suffers.
	Noise EventType = "noise"
)

// Counters are what a flow did.
type Counters struct {
	// OK, Stalled and Failed count transfers. A transfer that stalls and then ends
	// with an error is in both.
	OK      uint64 `json:"ok,omitempty"`
	Stalled uint64 `json:"stalled,omitempty"`
	Failed  uint64 `json:"failed,omitempty"`
	// Skipped transfers did not begin: too many of the flow were under way.
	Skipped uint64 `json:"skipped,omitempty"`
	// Suppressed stalls and errors are counted and have no event of their own: the
	// rate of events is bounded.
	Suppressed uint64 `json:"suppressed,omitempty"`
	// Bytes that the other side has acknowledged or answered.
	Bytes uint64 `json:"bytes,omitempty"`
	// LongestQuiet is the longest time that a transfer made no progress and was
	// given no event: how far it was from a stall.
	LongestQuiet time.Duration `json:"longestQuietNanoseconds,omitempty"`
}

// plus adds what a later Progress reports.
func (c Counters) plus(d Counters) Counters {
	return Counters{
		OK: c.OK + d.OK, Stalled: c.Stalled + d.Stalled, Failed: c.Failed + d.Failed, Skipped: c.Skipped + d.Skipped,
		Suppressed: c.Suppressed + d.Suppressed, Bytes: c.Bytes + d.Bytes, LongestQuiet: max(c.LongestQuiet, d.LongestQuiet),
	}
}

// An Event is one line of standard output.
type Event struct {
	Type EventType `json:"type"`
	// Flow is the flow's ID; "" when the event is about no flow.
	Flow string `json:"flow,omitempty"`
	Kind Kind   `json:"kind,omitempty"`
	// Query of a DNS flow: "small" or "large".
	Query string `json:"query,omitempty"`
	// Transfer numbers the transfers of a flow (and query) from 1; 0: none.
	Transfer uint64 `json:"transfer,omitempty"`
	// At is when the event was noticed, by the wall clock.
	At time.Time `json:"at"`
	// AffectedAt is when it began. Of a stall: the last progress before it. Of an
	// error: the last progress of the transfer (its begin when there was none); the
	// begin also when the transfer was given up although it moved. Of Recovered:
	// when the transfer went on or completed.
	AffectedAt time.Time `json:"affectedAt,omitzero"`
	// For is At - AffectedAt of stalls and errors, and how long the trouble lasted of
	// Recovered. It is measured by the monotonic clock, and AffectedAt by it from At,
	// so a step of the wall clock meanwhile falsifies neither.
	For time.Duration `json:"forNanoseconds,omitempty"`
	// ZeroWindow of TCP: when the sender last heard of it the receiver's kernel took no
	// more, so the receiver did not read (tcpi_snd_wnd, since Linux 5.4). A cut that
	// comes while the window is closed for a moment leaves it so as well.
	ZeroWindow bool `json:"zeroWindow,omitempty"`
	// Detail is what the application saw, in words.
	Detail string `json:"detail,omitempty"`
	// Counters of Progress.
	Counters *Counters `json:"counters,omitempty"`
}

// maxLine bounds one line in either direction. A configuration of a hundred flows
// has 20 KiB.
const maxLine = 1 << 20

// DecodeEvent decodes one line of a role's standard output. Its error says that
// the line is none. Fields that it does not know are passed over.
func DecodeEvent(line []byte) (Event, error) {
	if len(line) > maxLine {
		return Event{}, fmt.Errorf("decode a traffic event: the line has %d bytes, the limit is %d", len(line), maxLine)
	}
	var e Event
	if err := json.Unmarshal(line, &e); err != nil {
		return Event{}, fmt.Errorf("decode a traffic event from %.80q: %w", line, err)
	}
	if err := e.check(); err != nil {
		return Event{}, fmt.Errorf("decode a traffic event from %.80q: %w", line, err)
	}
	return e, nil
}

func (e Event) check() error {
	switch {
	case e.At.IsZero():
		return fmt.Errorf("it has no time")
	case e.Kind != "" && !e.Kind.known():
		return fmt.Errorf("unknown kind %q", e.Kind)
	case e.For < 0:
		return fmt.Errorf("it lasted %s, less than nothing", e.For)
	}
	switch e.Type {
	case Ready, Applied, Rejected, Noise:
		return nil
	case Progress:
		if e.Counters == nil || e.Kind == "" {
			return fmt.Errorf("a progress without counters or kind")
		}
		return nil
	case Stalled, Failed, Recovered:
		if e.Flow == "" || e.Kind == "" || e.AffectedAt.IsZero() {
			return fmt.Errorf("%s without flow, kind or affectedAt", e.Type)
		}
		return nil
	}
	return fmt.Errorf("unknown type %q", e.Type)
}
