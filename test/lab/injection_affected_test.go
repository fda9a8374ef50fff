// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/test/lab/traffic"
)

func TestFirstAffectedIsWhenAnApplicationFeltIt(t *testing.T) {
	tests := []struct {
		name, fault string
		// within is how long after the injection.
		within time.Duration
	}{
		{"a cut path", "kind: path-cut, between: [a, b]", 300 * time.Millisecond},
		{"a cut path, of answers only", "kind: path-cut, between: [a, b], direction: reverse", 300 * time.Millisecond},
		{"large packets", "kind: path-drop-larger, between: [a, b], bytes: 1400", 300 * time.Millisecond},
		{"a link", "kind: link-down, node: n3", 300 * time.Millisecond},
		{"a frozen receiver", "kind: receiver-frozen, node: n3", 300 * time.Millisecond},
		{"DNS", "kind: dns-broken, mode: all, node: n2", 300 * time.Millisecond},
	}
	t.Parallel()
	b := newBed(t, "  cloud: none"+threeNodes+`
  traffic:
    - {from: n1, to: n3, kind: tcp, bytes: 256KiB, every: 100ms}
    - {from: n1, to: n2, kind: tcp, bytes: 256KiB, every: 100ms}
    - {from: n2, kind: dns, every: 100ms}
`)
	const broken, well, asks = "0-tcp", "1-tcp", "2-dns"
	grow := func(t *testing.T) {
		t.Helper()
		before := map[string]uint64{}
		for _, flow := range []string{broken, well, asks} {
			before[flow] = b.observer.Counters(flow).OK
		}
		for _, flow := range []string{broken, well, asks} {
			testutils.Eventually(t, 2*arriveLimit, flow+" completes transfers", func() bool { return b.observer.Counters(flow).OK > before[flow]+5 })
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			began := time.Now()
			grow(t)
			_, _, found := b.observer.FirstAffected(began, nil)
			require.False(t, found, "nothing before the fault")

			injected := time.Now()
			heal := b.inject(t, tt.fault)
			done := time.Now()
			f := b.scenario.Faults[len(b.scenario.Faults)-1]
			var at time.Time
			testutils.Eventually(t, 2*arriveLimit, "an application feels it", func() bool {
				at, _, found = b.firstAffected(f, injected)
				return found
			})
			require.False(t, at.Before(injected))
			require.Less(t, at.Sub(injected), tt.within, "injected within %s", done.Sub(injected))
			t.Logf("affected after %s, the injection took %s", at.Sub(injected), done.Sub(injected))
			_, _, found = b.observer.FirstAffected(injected, traffic.Between([]string{"n1"}, []string{"n2"}))
			require.False(t, found, "what the fault does not reach feels nothing")
			heal()
			grow(t)
		})
	}
}
