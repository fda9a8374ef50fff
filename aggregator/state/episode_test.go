// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

func (f *fixture) episode(id, boot string, onset, closed uint64) *evidencev1.Episode {
	return &evidencev1.Episode{Id: id, BootId: boot, Condition: evidence.ConditionClockOffset, Subject: evidence.Node().Proto(),
		OnsetBoottimeNanoseconds: onset, ClosedBoottimeNanoseconds: closed,
		OnsetClaimedAt: timestamppb.New(epoch.Add(-time.Hour)), ClosedClaimedAt: timestamppb.New(epoch.Add(-time.Minute))}
}

func (f *fixture) episodes(kind evidencev1.Batch_Kind, boot string, sequence uint64, open []string, episodes ...*evidencev1.Episode) {
	f.t.Helper()
	f.apply(f.batch(kind, boot, sequence, func(b *evidencev1.Batch) { b.Episodes, b.OpenEpisodeIds = episodes, open }))
}

func (f *fixture) only() Episode {
	f.t.Helper()
	list := f.state.Episodes("n1")
	require.Len(f.t, list, 1)
	return list[0]
}

func TestOnsetIsInTheAggregatorsTime(t *testing.T) {
	for _, c := range []struct {
		name, boot string
		onset      time.Time
		claimed    bool
	}{
		{"same run of the agent", "k/2", epoch.Add(-9 * time.Second), false},
		{"an earlier run on the same boot of the kernel", "k/1", epoch.Add(-9 * time.Second), false},
		{"an earlier boot", "j/1", epoch.Add(-time.Hour), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, nil)
			f.episodes(evidencev1.Batch_DELTA, "k/2", 1, nil, f.episode("e", c.boot, 991*second, 0))
			got := f.only()
			require.Equal(t, c.onset, got.Onset)
			require.Equal(t, c.claimed, got.OnsetClaimed)
			require.Zero(t, got.ClosedAt)
			require.Equal(t, "n1", got.Node)
		})
	}
	t.Run("a claim from the future counts as now", func(t *testing.T) {
		f := newFixture(t, nil)
		ep := f.episode("e", "j/1", 1, 0)
		ep.OnsetClaimedAt = timestamppb.New(epoch.AddDate(2, 0, 0))
		f.episodes(evidencev1.Batch_DELTA, "k/2", 1, nil, ep)
		require.Equal(t, epoch, f.only().Onset)
	})
}

func TestEpisodeKeepsItsFirstOnset(t *testing.T) {
	f := newFixture(t, nil)
	f.episodes(evidencev1.Batch_DELTA, "k/1", 1, nil, f.episode("e", "k/1", 991*second, 0))
	// Sent again, after 300 ms more in transit.
	req := f.batch(evidencev1.Batch_DELTA, "k/1", 2, func(b *evidencev1.Batch) {
		b.Episodes = append(b.Episodes, f.episode("e", "k/1", 991*second, 0))
	})
	f.now = f.now.Add(300 * time.Millisecond)
	f.apply(req)
	require.Equal(t, epoch.Add(-9*time.Second), f.only().Onset)
	f.episodes(evidencev1.Batch_DELTA, "k/1", 3, nil, f.episode("e", "k/1", 991*second, 1000*second))
	got := f.only()
	require.Equal(t, epoch.Add(-9*time.Second), got.Onset)
	require.Equal(t, epoch, got.ClosedAt)
	require.False(t, got.LostSight)
	f.episodes(evidencev1.Batch_DELTA, "k/1", 4, nil, f.episode("e", "k/1", 991*second, 0))
	require.NotZero(t, f.only().ClosedAt, "an opening that was overtaken by its closing")
}

func TestFullBatchClosesWhatNobodyWatchesAnyMore(t *testing.T) {
	f := newFixture(t, nil)
	f.episodes(evidencev1.Batch_FULL, "k/1", 1, []string{"kept", "dropped"}, f.episode("kept", "k/1", 990*second, 0), f.episode("dropped", "k/1", 991*second, 0))
	f.episodes(evidencev1.Batch_FULL, "k/1", 2, []string{"kept"})
	list := f.state.Episodes("n1")
	require.Zero(t, list[0].ClosedAt)
	require.True(t, list[1].LostSight)
	require.Equal(t, epoch, list[1].ClosedAt)

	f.now = f.now.Add(5 * time.Second)
	f.episodes(evidencev1.Batch_DELTA, "k/2", 1, nil)
	require.Zero(t, f.state.Episodes("n1")[0].ClosedAt, "a delta of the next run says nothing of it")
	f.episodes(evidencev1.Batch_FULL, "k/2", 2, []string{"kept"})
	require.True(t, f.state.Episodes("n1")[0].LostSight, "another run cannot vouch for it")
	f.episodes(evidencev1.Batch_DELTA, "k/2", 3, nil, f.episode("kept", "k/1", 990*second, 999*second))
	got := f.state.Episodes("n1")[0]
	require.False(t, got.LostSight, "the end that the earlier run saw arrives late from its spool")
	require.Equal(t, epoch.Add(-time.Second), got.ClosedAt)
}

func TestEpisodesAreBounded(t *testing.T) {
	f := newFixture(t, nil)
	var many []*evidencev1.Episode
	for i := range maxOpenEpisodes + 10 {
		many = append(many, f.episode(fmt.Sprint(i), "k/1", 990*second, 0))
	}
	f.episodes(evidencev1.Batch_DELTA, "k/1", 1, nil, many...)
	require.Len(t, f.state.Episodes("n1"), maxOpenEpisodes)
	f.episodes(evidencev1.Batch_FULL, "k/1", 2, nil)
	require.Len(t, f.state.Episodes("n1"), maxClosedEpisodes)
}

func TestRestoredEpisode(t *testing.T) {
	f := newFixture(t, nil)
	ep := Episode{ID: "e", Condition: evidence.ConditionClockOffset, BootID: "k/1", Subject: evidence.Node(), Onset: epoch.Add(-time.Hour)}
	require.NoError(t, f.state.Restore(node1, ep))
	f.episodes(evidencev1.Batch_FULL, "k/1", 9, []string{"e"})
	got := f.only()
	require.Equal(t, epoch.Add(-time.Hour), got.Onset)
	require.Zero(t, got.ClosedAt, "the agent lists it as open")
	require.NoError(t, f.state.Restore(NodeInfo{Name: "n1", UID: "another"}, Episode{ID: "x"}))
	require.Len(t, f.state.Episodes("n1"), 1)
}
