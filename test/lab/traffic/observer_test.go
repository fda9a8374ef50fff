// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFirstAffectedIsTheFaults(t *testing.T) {
	t.Parallel()
	zero := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(ms int) time.Time { return zero.Add(time.Duration(ms) * time.Millisecond) }
	event := func(kind EventType, flow string, ms int) Event {
		return Event{Type: kind, Flow: flow, Kind: TCP, At: at(ms + 1050), AffectedAt: at(ms)}
	}
	query := func(kind EventType, name string, ms int) Event {
		e := event(kind, "dns", ms)
		e.Query = name
		return e
	}
	flows := []Flow{{ID: "ab", From: "a", To: "b"}, {ID: "ba", From: "b", To: "a"}, {ID: "ac", From: "a", To: "c"}, {ID: "dns", From: "c"}}
	tests := map[string]struct {
		events []Event
		match  func(Flow) bool
		want   int
		flow   string // "": none
	}{
		"nothing happened":                                                  {},
		"a stall after the fault":                                           {events: []Event{event(Stalled, "ab", 120)}, want: 120, flow: "ab"},
		"an error after the fault":                                          {events: []Event{event(Failed, "ab", 120)}, want: 120, flow: "ab"},
		"the earliest of several, whatever the order":                       {events: []Event{event(Stalled, "ab", 300), event(Stalled, "ac", 80), event(Failed, "ab", 90)}, want: 80, flow: "ac"},
		"a transfer that the fault caught under way counts as of the fault": {events: []Event{event(Stalled, "ab", -190)}, want: 0, flow: "ab"},
		"one that had stalled before does not count":                        {events: []Event{event(Stalled, "ab", -201)}},
		"nor does a flow that was in trouble and is still":                  {events: []Event{event(Failed, "ab", -5000), event(Failed, "ab", 10)}},
		"but once it has recovered":                                         {events: []Event{event(Failed, "ab", -5000), event(Recovered, "ab", 200), event(Failed, "ab", 700)}, want: 700, flow: "ab"},
		"and another flow does":                                             {events: []Event{event(Failed, "ab", -5000), event(Failed, "ab", 10), event(Failed, "ac", 20)}, want: 20, flow: "ac"},
		"one query of a flow may be in trouble before, the other counts":    {events: []Event{query(Failed, SmallQuery, -5000), query(Failed, SmallQuery, 5), query(Failed, LargeQuery, 30)}, want: 30, flow: "dns"},
		"one that was quiet for long does not hide the next":                {events: []Event{event(Stalled, "ab", -400), event(Stalled, "ab", 30)}, want: 30, flow: "ab"},
		"a recovery is no trouble":                                          {events: []Event{event(Recovered, "ab", 10)}},
		"flows nobody knows are passed over":                                {events: []Event{event(Stalled, "zz", 10)}},
		"only flows that touch a node":                                      {events: []Event{event(Stalled, "ab", 10), event(Stalled, "ac", 20)}, match: Touching("c"), want: 20, flow: "ac"},
		"only flows between two sets, both ways":                            {events: []Event{event(Stalled, "ac", 10), event(Stalled, "ba", 20)}, match: Between([]string{"a"}, []string{"b"}), want: 20, flow: "ba"},
		"dns ends at one node":                                              {events: []Event{query(Stalled, LargeQuery, 10)}, match: Touching("c"), want: 10, flow: "dns"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := NewObserver(flows)
			for _, e := range test.events {
				o.Add(e)
			}
			since, e, ok := o.FirstAffected(zero, test.match)
			require.Equal(t, test.flow != "", ok)
			require.Equal(t, test.flow, e.Flow)
			if ok {
				require.Equal(t, at(test.want), since)
			}
		})
	}
}

func TestAnObserverCountsFromManyAtOnce(t *testing.T) {
	t.Parallel()
	o := NewObserver([]Flow{{ID: "f"}})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 100 {
				o.Add(Event{Type: Progress, Flow: "f", Counters: &Counters{OK: 1, Bytes: 10, LongestQuiet: time.Duration(i)}})
				o.Add(Event{Type: Stalled, Flow: "f", At: time.Unix(int64(i)+1, 0), AffectedAt: time.Unix(int64(i), 0)})
				o.FirstAffected(time.Unix(0, 0), nil)
			}
		})
	}
	all.Wait()
	require.Equal(t, Counters{OK: 800, Bytes: 8000, LongestQuiet: 99}, o.Counters("f"))
	require.Zero(t, o.Counters("g"))
	since, _, ok := o.FirstAffected(time.Unix(0, 0), nil)
	require.True(t, ok)
	require.Equal(t, time.Unix(0, 0), since)
}
