// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"fmt"
	"time"

	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// grace is how much later than a deadline the run waits for what was reached
// before it: a grade is dated before it is journalled and shown, and lists are
// asked for a few times a second.
const grace = time.Second

// Length is how long a scenario lasts at most from the end of settle: the greater
// of its duration, and the last `until` and the largest `clearsWithin` together.
func Length(s *scenario.Scenario) time.Duration {
	var last time.Duration
	for _, f := range s.Faults {
		if f.Ends() {
			last = max(last, f.Until)
		}
	}
	return max(s.Duration, last+largestClears(s))
}

func largestClears(s *scenario.Scenario) time.Duration {
	var largest time.Duration
	for _, e := range s.Expect {
		largest = max(largest, e.ClearsWithin)
	}
	return largest
}

// End is when a run is over at the latest: its Length after the end of settle, or
// a little later when a fault was injected or healed later than planned, so that
// what counts from that has its whole time. Zero while settle is not over.
func End(s *scenario.Scenario, o Observation) time.Time {
	if o.SettleEnd.IsZero() {
		return time.Time{}
	}
	end := o.SettleEnd.Add(Length(s))
	for i := range s.Faults {
		if at := o.fault(i).EndedAt; at != nil && at.Add(largestClears(s)).After(end) {
			end = at.Add(largestClears(s))
		}
	}
	for _, e := range s.Expect {
		at := o.fault(e.Fault).InjectedAt
		if at.IsZero() || e.Fault >= len(s.Faults) || s.Faults[e.Fault].At+e.Within > Length(s) {
			continue
		}
		if at = at.Add(e.Within); at.After(end) {
			end = at
		}
	}
	return end
}

// Over says whether a run may end now: it has lasted to its End, or every
// expectation is decided, no fault is still to come and, if there is a forbid,
// `duration` is over. Now is the moment at which the newest complete list of
// verdicts was asked for: what happened since is not known.
func Over(s *scenario.Scenario, o Observation, now time.Time) bool {
	end := End(s, o)
	switch {
	case end.IsZero():
		return false
	case past(end, now):
		return true
	case len(s.Forbid) > 0 && now.Before(o.SettleEnd.Add(s.Duration)):
		return false
	}
	for i := range s.Faults {
		if o.fault(i).InjectedAt.IsZero() {
			return false
		}
	}
	records := o.records()
	for i := range s.Expect {
		if !weigh(s, o, records, i, now).Decided {
			return false
		}
	}
	// With nothing to decide the run is as long as its author wrote.
	return len(s.Expect) > 0 || now.After(end)
}

// Decided says of each expectation whether later lists can only confirm it: it
// held (and was cleared, where that is asked for), or its time is over. Now is
// the moment at which the newest complete list of verdicts was asked for.
func Decided(s *scenario.Scenario, o Observation, now time.Time) []bool {
	records := o.records()
	out := make([]bool, len(s.Expect))
	for i := range out {
		out[i] = weigh(s, o, records, i, now).Decided
	}
	return out
}

// past says whether a deadline is over for what is known at now.
func past(deadline, now time.Time) bool { return now.After(deadline.Add(grace)) }

func seconds(d time.Duration) *float64 {
	s := d.Seconds()
	return &s
}

// words says a duration as people do.
func words(d time.Duration) string {
	return fmt.Sprintf("%.1f s", d.Seconds())
}
