// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"testing"

	"github.com/stretchr/testify/require"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

func observation(probe, key string, at uint64, value int64) *evidencev1.Observation {
	return &evidencev1.Observation{
		Probe: probe, Subject: &evidencev1.Subject{Kind: "device", Key: key}, ObservedBoottimeNanoseconds: at,
		Items: []*evidencev1.Item{{Id: 100, State: &evidencev1.Item_Integer{Integer: value}}},
	}
}

func TestLedgerGivesOutWhatChanged(t *testing.T) {
	l := New()
	require.True(t, l.Replace("link", []*evidencev1.Observation{observation("link", "a", 1, 1500), observation("link", "b", 1, 1500)}))
	first := l.Full()
	require.Len(t, first.Observations, 2)

	require.False(t, l.Replace("link", []*evidencev1.Observation{observation("link", "a", 2, 1500), observation("link", "b", 2, 1500)}),
		"a newer time stamp alone is no change")
	require.Empty(t, l.Since(first.Version).Observations)
	require.Equal(t, uint64(2), l.Full().Observations[0].GetObservedBoottimeNanoseconds(), "but a full snapshot carries it")

	require.True(t, l.Replace("link", []*evidencev1.Observation{observation("link", "a", 3, 1400)}))
	delta := l.Since(first.Version)
	require.Len(t, delta.Observations, 1)
	require.Equal(t, "a", delta.Observations[0].GetSubject().GetKey())
	require.Len(t, delta.Removed, 1)
	require.Equal(t, "b", delta.Removed[0].GetKey())
	require.Empty(t, l.Full().Removed)

	l.Forget(delta.Version)
	require.Empty(t, l.Since(first.Version).Removed)
}

func TestARemovalNamesTheProbeWhoseObservationIsGone(t *testing.T) {
	l := New()
	l.Replace("link", []*evidencev1.Observation{observation("link", "a", 1, 1)})
	l.Replace("oversize", []*evidencev1.Observation{observation("oversize", "a", 1, 1)})
	before := l.Full().Version
	l.Replace("oversize", nil)
	removed := l.Since(before).Removed
	require.Len(t, removed, 1)
	require.Equal(t, "oversize", removed[0].GetProbe())
	require.Len(t, l.Full().Observations, 1, "what the other probe knows of the device stays")
}

func TestOpenEpisodesAndProbes(t *testing.T) {
	l := New()
	l.SetOpen("b", true)
	l.SetOpen("a", true)
	l.SetProbe(&evidencev1.ProbeStatus{Name: "link"})
	require.Equal(t, []string{"a", "b"}, l.Full().OpenEpisodeIDs)
	l.SetOpen("a", false)
	require.Equal(t, []string{"b"}, l.Full().OpenEpisodeIDs)
	require.Len(t, l.Since(99).Probes, 1, "every snapshot carries the probes' states")
}
