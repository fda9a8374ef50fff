// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

func (j *journal) transitions() []string {
	var out []string
	for _, m := range j.records {
		var r record
		if json.Unmarshal(m.data, &r) == nil {
			out = append(out, r.Transition)
		}
	}
	return out
}

func TestEveryTransitionIsRecordedOnce(t *testing.T) {
	b := newBench(t, func(b *bench, _ *Config) { b.skew.info.For = 5 * time.Second })
	b.report("n1", clock{420.0, int64(1), int64(0)}, nil)
	b.pass(5 * time.Second)
	b.report("n1", clock{421.0, int64(1), int64(0)}, nil)
	b.report("n1", skewed, nil)
	b.pass(40 * time.Second)
	b.report("n1", skewed, nil)
	b.report("n1", right, nil)
	b.pass(30 * time.Second)
	require.Equal(t, []string{"pending", "firing", "grade", "stale", "firing", "resolved"}, b.journal.transitions())
	ids := map[string]bool{}
	for _, m := range b.journal.records {
		require.Equal(t, "verdict."+b.only().GetId(), m.subject)
		require.False(t, ids[m.id], "the bus would drop it as a duplicate")
		ids[m.id] = true
	}
}

func TestRestart(t *testing.T) {
	b := newBench(t, nil)
	b.report("n1", clock{420.0, int64(1), int64(0)}, nil)
	b.now = b.now.Add(10 * time.Second)
	b.report("n1", skewed, nil)
	before := b.only()

	b.now = b.now.Add(3 * time.Second)
	b.start(nil)
	b.looks("stale", "proven")
	after := b.only()
	require.Equal(t, before.GetId(), after.GetId())
	require.Equal(t, before.GetOnset().AsTime(), after.GetOnset().AsTime())
	require.Len(t, after.GetGradedAt(), 3)
	for grade, at := range before.GetGradedAt() {
		require.Equal(t, at.AsTime(), after.GetGradedAt()[grade].AsTime(), grade)
	}
	require.Len(t, after.GetProof(), len(before.GetProof()))
	require.Contains(t, after.GetReason(), "restarted")

	b.pass(time.Hour)
	b.looks("stale", "proven")
	b.report("n1", right, func(batch *evidencev1.Batch) { batch.Kind = evidencev1.Batch_DELTA })
	b.looks("stale", "proven")

	t.Run("confirmed", func(t *testing.T) {
		b.t = t
		b.report("n1", skewed, nil)
		b.looks("firing", "proven")
		require.Equal(t, before.GetId(), b.only().GetId())
		require.Equal(t, before.GetOnset().AsTime(), b.only().GetOnset().AsTime())
		require.Equal(t, before.GetGradedAt()["proven"].AsTime(), b.only().GetGradedAt()["proven"].AsTime())
	})
	t.Run("ended", func(t *testing.T) {
		b.t = t
		b.start(nil)
		b.looks("stale", "proven")
		b.report("n1", right, nil)
		b.pass(30 * time.Second)
		b.looks("resolved", "proven")
		b.start(nil)
		b.looks("resolved", "proven")
		b.pass(time.Hour)
		require.Empty(t, b.engine.Verdicts(Filter{IncludeResolved: true}), "listed for an hour")
		b.start(nil)
		require.Empty(t, b.engine.Verdicts(Filter{IncludeResolved: true}))
	})
}

func TestRestartBringsBackNothingThatNeverFired(t *testing.T) {
	b := newBench(t, func(b *bench, _ *Config) { b.skew.info.For = time.Minute })
	b.report("n1", skewed, nil)
	b.start(nil)
	b.looks("pending", "proven")
	b.pass(2 * time.Minute)
	b.looks("pending", "proven")
	b.report("n1", skewed, nil)
	b.looks("pending", "proven")
	b.report("n1", right, nil)
	require.Empty(t, b.engine.Verdicts(Filter{}))
	b.start(nil)
	require.Empty(t, b.engine.Verdicts(Filter{}))
}

func TestRecordsThatAreNotBroughtBack(t *testing.T) {
	b := newBench(t, nil)
	b.report("n1", skewed, nil)
	good := b.journal.records[0]
	edit := func(change func(map[string]any)) []byte {
		var m map[string]any
		require.NoError(t, json.Unmarshal(good.data, &m))
		change(m)
		data, err := json.Marshal(m)
		require.NoError(t, err)
		return data
	}
	for name, data := range map[string][]byte{
		"no JSON":                     []byte("{"),
		"another version":             edit(func(m map[string]any) { m["version"] = 9 }),
		"another cluster":             edit(func(m map[string]any) { m["id"] = "0000000000000000" }),
		"another node":                edit(func(m map[string]any) { m["scope"].(map[string]any)["node"] = "n2" }),
		"a phase that is none":        edit(func(m map[string]any) { m["phase"] = "x" }),
		"a signature that is gone":    edit(func(m map[string]any) { m["signature"] = "network/gone" }),
		"a verdict that is no object": edit(func(m map[string]any) { m["verdict"] = "x" }),
	} {
		t.Run(name, func(t *testing.T) {
			b.journal.records = []message{{good.subject, "x", data}}
			b.start(nil)
			require.Empty(t, b.engine.Verdicts(Filter{IncludeResolved: true}))
		})
	}
	b.journal.records = []message{good}
	b.start(nil)
	b.looks("stale", "proven")
}

func TestBrokenJournalHidesNothing(t *testing.T) {
	b := newBench(t, nil)
	b.journal.broken = errDisk
	b.report("n1", skewed, nil)
	b.report("n2", skewed, nil)
	for _, v := range b.engine.Verdicts(Filter{}) {
		require.Equal(t, "firing", v.GetState())
		require.Equal(t, "disk full", v.GetJournalError())
	}
	b.pass(5 * time.Second)
	require.Empty(t, b.journal.records)
	b.journal.broken = nil
	b.pass(2 * time.Second)
	require.Equal(t, []string{"firing", "firing"}, b.journal.transitions())
	for _, v := range b.engine.Verdicts(Filter{}) {
		require.Empty(t, v.GetJournalError())
	}
	b.pass(5 * time.Second)
	require.Len(t, b.journal.records, 2)
}

func TestLongVerdictIsWrittenAgainBeforeTheJournalForgetsIt(t *testing.T) {
	b := newBench(t, nil)
	b.report("n1", skewed, nil)
	b.now = b.now.Add(25 * time.Hour)
	b.report("n1", skewed, nil)
	b.pass(2 * time.Second)
	require.Equal(t, "rewritten", b.journal.transitions()[len(b.journal.records)-1])
	b.journal.records = b.journal.records[len(b.journal.records)-1:]
	b.start(nil)
	b.looks("stale", "proven")
	require.Equal(t, epoch, b.only().GetOnset().AsTime())
}

func (b *bench) episode(id, condition string, ago time.Duration, change func(*evidencev1.Episode)) func(*evidencev1.Batch) {
	e := &evidencev1.Episode{Id: id, Condition: condition, BootId: b.boot, Subject: evidence.Node().Proto(),
		OnsetBoottimeNanoseconds: b.boottime() - uint64(ago), OnsetClaimedAt: timestamppb.New(b.now.Add(-420 * time.Second))}
	if change != nil {
		change(e)
	}
	return func(batch *evidencev1.Batch) {
		batch.Episodes = append(batch.Episodes, e)
		if e.GetBootId() == batch.GetBootId() && e.GetClosedBoottimeNanoseconds() == 0 {
			batch.OpenEpisodeIds = append(batch.OpenEpisodeIds, e.GetId())
		}
	}
}

func TestOnset(t *testing.T) {
	const ago = 7 * time.Second
	for _, c := range []struct {
		name   string
		batch  func(*bench) func(*evidencev1.Batch)
		want   time.Duration
		source string
	}{
		{"no episode: when it first held", func(*bench) func(*evidencev1.Batch) { return nil }, 0, ""},
		{"the episode of the same measurement", func(b *bench) func(*evidencev1.Batch) {
			return b.episode("e", evidence.ConditionClockOffset, ago, nil)
		}, -ago, "e"},
		{"the earliest of several", func(b *bench) func(*evidencev1.Batch) {
			return func(batch *evidencev1.Batch) {
				b.episode("late", evidence.ConditionClockOffset, time.Second, nil)(batch)
				b.episode("early", evidence.ConditionClockOffset, ago, nil)(batch)
			}
		}, -ago, "early"},
		{"another condition of the same probe, such as a step of a millisecond", func(b *bench) func(*evidencev1.Batch) {
			return func(batch *evidencev1.Batch) {
				b.episode("step", evidence.ConditionClockStep, time.Minute, nil)(batch)
				b.episode("offset", evidence.ConditionClockOffset, ago, nil)(batch)
			}
		}, -ago, "offset"},
		{"an episode of another measurement", func(b *bench) func(*evidencev1.Batch) {
			return b.episode("e", evidence.ConditionOversizeStalledFlow, ago, nil)
		}, 0, ""},
		{"an episode that has ended", func(b *bench) func(*evidencev1.Batch) {
			return b.episode("e", evidence.ConditionClockOffset, ago, func(e *evidencev1.Episode) { e.ClosedBoottimeNanoseconds = b.boottime() - 1 })
		}, 0, ""},
		{"one on the node's own clock, when there is no other", func(b *bench) func(*evidencev1.Batch) {
			return b.episode("e", evidence.ConditionClockOffset, ago, func(e *evidencev1.Episode) { e.BootId = "earlier/1" })
		}, -420 * time.Second, "e"},
		{"never the node's own clock when there is a better one", func(b *bench) func(*evidencev1.Batch) {
			return func(batch *evidencev1.Batch) {
				b.episode("claimed", evidence.ConditionClockOffset, ago, func(e *evidencev1.Episode) { e.BootId = "earlier/1" })(batch)
				b.episode("measured", evidence.ConditionClockOffset, ago, nil)(batch)
			}
		}, -ago, "measured"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, nil)
			b.report("n1", skewed, c.batch(b))
			require.Equal(t, epoch.Add(c.want), b.only().GetOnset().AsTime())
			require.Equal(t, c.source, b.engine.entries[b.only().GetId()].onsetFrom)
			b.start(nil)
			require.Equal(t, epoch.Add(c.want), b.only().GetOnset().AsTime())
		})
	}
}

func TestOnsetMovesOnceToAnEpisodeThatCameLate(t *testing.T) {
	b := newBench(t, nil)
	b.report("n1", skewed, nil)
	b.now = b.now.Add(10 * time.Second)
	b.report("n1", skewed, b.episode("e", evidence.ConditionClockOffset, 15*time.Second, nil))
	require.Equal(t, epoch.Add(-5*time.Second), b.only().GetOnset().AsTime())
	b.report("n1", skewed, b.episode("f", evidence.ConditionClockOffset, time.Hour, nil))
	require.Equal(t, epoch.Add(-5*time.Second), b.only().GetOnset().AsTime())
	require.Equal(t, []string{"firing", "onset"}, b.journal.transitions())
}

func TestOnsetSurvivesARestartOfTheAgent(t *testing.T) {
	b := newBench(t, nil)
	b.report("n1", right, b.episode("e", evidence.ConditionClockOffset, 7*time.Second, nil))
	// The agent is killed before its verdict; the next run sees the condition anew.
	b.now = b.now.Add(20 * time.Second)
	b.boot, b.sequences["n1"] = "k/2", 0
	b.report("n1", skewed, b.episode("e2", evidence.ConditionClockOffset, time.Second, nil))
	require.Equal(t, epoch.Add(-7*time.Second), b.only().GetOnset().AsTime())

	b = newBench(t, nil)
	b.report("n1", right, b.episode("e", evidence.ConditionClockOffset, 7*time.Second, nil))
	b.boot, b.sequences["n1"] = "k/2", 0
	b.report("n1", right, nil)
	b.pass(3 * time.Minute)
	b.report("n1", skewed, nil)
	require.Equal(t, b.now, b.only().GetOnset().AsTime(), "what nobody saw for three minutes is over")
}

// kill -9 between the acknowledgement of an episode and the verdict's first
// record: the onset comes from the episode.
func TestOnsetSurvivesADeathBeforeTheFirstRecord(t *testing.T) {
	b := newBench(t, nil)
	onset := epoch.Add(-7 * time.Second)
	b.now = b.now.Add(10 * time.Second)
	b.start(nil)
	require.NoError(t, b.state.Restore(b.info("n1"), state.Episode{ID: "e", Condition: evidence.ConditionClockOffset, BootID: b.boot, Subject: evidence.Node(), Onset: onset}))
	b.report("n1", skewed, func(batch *evidencev1.Batch) { batch.OpenEpisodeIds = []string{"e"} })
	require.Equal(t, onset, b.only().GetOnset().AsTime())
}

func TestWatch(t *testing.T) {
	b := newBench(t, nil)
	b.report("n1", skewed, nil)
	initial, watch := b.engine.Watch(Filter{Node: "n1"})
	defer watch.Close()
	require.Len(t, initial, 1)
	next := func() []*apiv1.Verdict {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		list, _ := watch.Next(ctx)
		return list
	}
	b.report("n2", skewed, nil)
	b.report("n1", skewed, nil)
	require.Empty(t, next(), "neither another node nor a confirmation is a change")
	b.report("n1", clock{}, nil)
	b.report("n1", clock{420.0, int64(1), int64(0)}, nil)
	got := next()
	require.Len(t, got, 1, "a slow reader gets the newest version only")
	require.Equal(t, "likely", got[0].GetGrade())
	b.report("n1", right, nil)
	b.pass(30 * time.Second)
	require.Equal(t, "resolved", next()[0].GetState())
}

func TestVerdictByPrefix(t *testing.T) {
	b := newBench(t, nil)
	b.report("n1", skewed, nil)
	id := b.only().GetId()
	got, err := b.engine.Verdict(id[:6])
	require.NoError(t, err)
	require.Equal(t, id, got.GetId())
	_, err = b.engine.Verdict("zzzzzz")
	require.ErrorIs(t, err, ErrNotFound)
	b.report("n2", skewed, nil)
	_, err = b.engine.Verdict("")
	require.ErrorIs(t, err, ErrAmbiguous)
}

func TestExplain(t *testing.T) {
	b := newBench(t, nil)
	_, ok := b.engine.Explain("n1")
	require.False(t, ok)
	for _, c := range []struct {
		name    string
		clock   clock
		result  string
		because string
	}{
		{"proven", skewed, "proven", ""},
		{"exonerated", right, "none", "the clock is right"},
		{"refuted", lied, "refuted", "a group dissents"},
		{"nothing can be said", clock{}, "unknown", "cannot be decided"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, nil)
			b.report("n1", c.clock, nil)
			list, ok := b.engine.Explain("n1")
			require.True(t, ok)
			require.Len(t, list, 1)
			require.Equal(t, c.result, list[0].GetResult())
			require.Equal(t, c.because, list[0].GetBecause())
			if c.result == "none" {
				require.Equal(t, "no group dissents", list[0].GetRefuted()[0].GetBecause())
				require.Len(t, list[0].GetEvidence(), 2, "also what speaks against")
			}
		})
	}
	require.NoError(t, b.state.Know(state.NodeInfo{Name: "n0", UID: "u"}))
	list, _ := b.engine.Explain("n0")
	require.Equal(t, "unknown", list[0].GetResult())
	require.Contains(t, list[0].GetBecause(), "no batch of node n0")
	require.Equal(t, signature.None.String(), "none")
}
