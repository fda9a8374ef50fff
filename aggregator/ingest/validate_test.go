// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

func stamp(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }

func TestBatchThatIsRefused(t *testing.T) {
	type b = evidencev1.PushRequest
	item := func(r *b) *evidencev1.Item { return r.Batch.Observations[0].Items[0] }
	for _, tc := range []struct {
		name   string
		mod    func(*b)
		reason string
		says   string
	}{
		{"no batch", func(r *b) { r.Batch = nil }, "shape", "holds no batch"},
		{"another schema", func(r *b) { r.Batch.SchemaVersion = 9 }, "schema", "version 9 is not spoken here"},
		{"no time of sending", func(r *b) { r.SentBoottimeNanoseconds = 0 }, "time", "time of sending"},
		{"a time of sending beyond reason", func(r *b) { r.SentBoottimeNanoseconds = math.MaxUint64 }, "time", "time of sending"},
		{"sequence 0", func(r *b) { r.Batch.Sequence = 0 }, "shape", "it starts at 1"},
		{"no kind", func(r *b) { r.Batch.Kind = 0 }, "shape", "neither full nor delta"},
		{"no boot id", func(r *b) { r.Batch.BootId = "" }, "shape", "boot id is empty"},
		{"a boot id without the agent's start", func(r *b) { r.Batch.BootId = "k1" }, "shape", "is not <kernel boot id>/<start"},
		{"a boot id too long", func(r *b) { r.Batch.BootId = strings.Repeat("k", 200) + "/1" }, "text", "boot id has 202 bytes"},
		{"too many observations", func(r *b) { r.Batch.Observations = make([]*evidencev1.Observation, 20_001) }, "size", "20001 observations, at most 20000"},
		{"too many episodes", func(r *b) { r.Batch.Episodes = make([]*evidencev1.Episode, 1025) }, "size", "1025 episodes"},
		{"too many removed", func(r *b) { r.Batch.Removed = make([]*evidencev1.SubjectRef, 20_001) }, "size", "removed"},
		{"too many probes", func(r *b) { r.Batch.Probes = make([]*evidencev1.ProbeStatus, 65) }, "size", "65 probes"},
		{"too many results", func(r *b) { r.Batch.DirectiveResults = make([]*evidencev1.DirectiveResult, 129) }, "size", "129 results"},
		{"too many open episodes", func(r *b) { r.Batch.OpenEpisodeIds = make([]string, 20_001) }, "size", "open episodes"},
		{"an observation without probe", func(r *b) { r.Batch.Observations[0].Probe = "" }, "shape", "observation 0: probe is empty"},
		{"an observation without subject", func(r *b) { r.Batch.Observations[0].Subject = nil }, "shape", "has no subject"},
		{"a subject without key", func(r *b) { r.Batch.Observations[0].Subject.Key = "" }, "shape", "subject key is empty"},
		{"a subject key with a line break", func(r *b) { r.Batch.Observations[0].Subject.Key = "a\nb" }, "text", "not printable"},
		{"a subject key too long", func(r *b) { r.Batch.Observations[0].Subject.Key = strings.Repeat("k", 513) }, "text", "513 bytes"},
		{"a second subject for the node", func(r *b) {
			r.Batch.Observations[0].Subject = &evidencev1.Subject{Kind: "node", Key: "other"}
		}, "shape", "one subject that stands for it"},
		{"a parent key that is not printable", func(r *b) { r.Batch.Observations[0].Subject.ParentKey = "\x1b[2J" }, "text", "parent key"},
		{"an observation without time", func(r *b) { r.Batch.Observations[0].ObservedBoottimeNanoseconds = 0 }, "time", "has no time"},
		{"an item without state", func(r *b) { item(r).State = nil }, "item", "silence is never healthy"},
		{"an item without id", func(r *b) { item(r).Id = 0 }, "item", "no state or no id"},
		{"an unknown item without state", func(r *b) { item(r).Id = 999999; item(r).State = nil }, "item", "silence is never healthy"},
		{"a text for an integer", func(r *b) { item(r).State = &evidencev1.Item_Text{Text: "1500"} }, "item", "item link.mtu_bytes is a integer, not a text"},
		{"a number for an integer", func(r *b) { item(r).State = &evidencev1.Item_Number{Number: 1500} }, "item", "not a number"},
		{"a flag for an integer", func(r *b) { item(r).State = &evidencev1.Item_Flag{Flag: true} }, "item", "not a flag"},
		{"not a number", func(r *b) { item(r).State = &evidencev1.Item_Number{Number: math.NaN()} }, "item", "no measurement"},
		{"infinity of an unknown item", func(r *b) { item(r).Id = 999999; item(r).State = &evidencev1.Item_Number{Number: math.Inf(1)} }, "item", "no measurement"},
		{"a negative uncertainty", func(r *b) { item(r).Uncertainty = -1 }, "item", "no half width"},
		{"an uncertainty that is not a number", func(r *b) { item(r).Uncertainty = math.NaN() }, "item", "no half width"},
		{"an infinite uncertainty", func(r *b) { item(r).Uncertainty = math.Inf(1) }, "item", "no half width"},
		{"unknown without a reason", func(r *b) { item(r).State = &evidencev1.Item_Unknown{Unknown: &evidencev1.Unknown{}} }, "item", "without a reason"},
		{"unknown without anything", func(r *b) { item(r).State = &evidencev1.Item_Unknown{} }, "item", "without a reason"},
		{"not applicable without anything", func(r *b) { item(r).State = &evidencev1.Item_NotApplicable{} }, "item", "without saying why"},
		{"an item twice", func(r *b) { r.Batch.Observations[0].Items[1] = proto.Clone(item(r)).(*evidencev1.Item) }, "item", "item 100 is there twice"},
		{"an item of another probe", func(r *b) { item(r).Id = 230 }, "item", "item oversize.encapsulated_drops_total belongs to probe oversize"},
		{"an item of another kind of subject", func(r *b) { r.Batch.Observations[0].Subject = evidence.Node().Proto() }, "item", "about a device, not to link about a node"},
		{"a text over all bounds", func(r *b) {
			r.Batch.Observations[0].Items[1].State = &evidencev1.Item_Text{Text: strings.Repeat("x", 4097)}
		}, "text", "4097 bytes"},
		{"an episode without id", func(r *b) { r.Batch.Episodes[0].Id = "" }, "shape", "episode 0: id is empty"},
		{"an episode without condition", func(r *b) { r.Batch.Episodes[0].Condition = "" }, "shape", "condition is empty"},
		{"an episode without subject", func(r *b) { r.Batch.Episodes[0].Subject = nil }, "shape", "no subject"},
		{"an episode about another kind of subject", func(r *b) { r.Batch.Episodes[0].Condition = "oversize.stalled_flow" }, "item", "about a dropsite, not a node"},
		{"an episode without onset", func(r *b) { r.Batch.Episodes[0].OnsetBoottimeNanoseconds = 0 }, "time", "not possible"},
		{"an episode that ends before it begins", func(r *b) { r.Batch.Episodes[0].ClosedBoottimeNanoseconds = 1 }, "time", "ends before it begins"},
		{"an episode with a malformed item", func(r *b) { r.Batch.Episodes[0].Items[0].State = nil }, "item", "silence is never healthy"},
		{"an episode with an item of the wrong type", func(r *b) { r.Batch.Episodes[0].Items[0].State = &evidencev1.Item_Flag{} }, "item", "is a number, not a flag"},
		{"an episode of a malformed boot", func(r *b) { r.Batch.Episodes[0].BootId = "x" }, "shape", "boot id"},
		{"an episode too large for the journal", func(r *b) {
			r.Batch.Episodes[0].Items = nil
			for _, info := range evidence.NewCatalog().Items() {
				if info.Type == evidence.TypeText {
					r.Batch.Episodes[0].Items = append(r.Batch.Episodes[0].Items, &evidencev1.Item{Id: info.ID, State: &evidencev1.Item_Text{Text: strings.Repeat("x", 4000)}})
				}
			}
		}, "size", "at most 16384 are kept"},
		{"an empty open episode", func(r *b) { r.Batch.OpenEpisodeIds = []string{""} }, "shape", "open episode 0"},
		{"a removed subject without kind", func(r *b) { r.Batch.Removed = []*evidencev1.SubjectRef{{Key: "k"}} }, "shape", "removed subject 0"},
		{"a probe without state", func(r *b) { r.Batch.Probes[0].State = 0 }, "shape", "probe link has no state"},
		{"a probe twice", func(r *b) { r.Batch.Probes = append(r.Batch.Probes, r.Batch.Probes[0]) }, "shape", "probe link is there twice"},
		{"a probe with a negative interval", func(r *b) { r.Batch.Probes[0].Interval = durationpb.New(-1) }, "time", "interval"},
		{"a probe with too many hooks", func(r *b) { r.Batch.Probes[0].Hooks = make([]*evidencev1.Hook, 65) }, "size", "65 hooks"},
		{"a result without id", func(r *b) { r.Batch.DirectiveResults = []*evidencev1.DirectiveResult{{Done: true}} }, "shape", "result 0"},
		{"an agent with an impossible processor time", func(r *b) { r.Batch.Agent.CpuSecondsTotal = math.NaN() }, "item", "processor time"},
		{"an agent with an impossible correction", func(r *b) {
			r.Batch.Agent.TlsTime = &evidencev1.TLSTime{CorrectionSeconds: math.Inf(-1)}
		}, "item", "TLS time"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t, nil)
			req := goodBatch(1)
			tc.mod(req)
			_, err := f.service.Push(context.Background(), with("t1", req))
			require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, tc.says)
			require.NotContains(t, err.Error(), "\n")
			require.Zero(t, f.state.count(), "nothing is applied")
			require.Zero(t, f.journal.count(), "nothing is published")
			require.Empty(t, f.applied)
			require.InDelta(t, 1, value(t, f.service.metrics.batches.WithLabelValues("refused", tc.reason)), 0)
		})
	}
}

func TestWhatANewerAgentSendsIsLeftOutAndCounted(t *testing.T) {
	f := newFixture(t, nil)
	req := goodBatch(1)
	b := req.Batch
	b.Observations[0].Items = append(b.Observations[0].Items, &evidencev1.Item{Id: 4242, State: &evidencev1.Item_Text{Text: "of the future"}})
	b.Observations = append(b.Observations, &evidencev1.Observation{Probe: "gravity", Subject: &evidencev1.Subject{Kind: "wormhole", Key: "w"}, ObservedBoottimeNanoseconds: 1, Items: []*evidencev1.Item{{Id: 4243, State: &evidencev1.Item_Flag{}}}})
	b.Episodes = append(b.Episodes, &evidencev1.Episode{Id: "w1", Condition: "wormhole.open", Subject: &evidencev1.Subject{Kind: "wormhole", Key: "w"}, BootId: "k1/5", OnsetBoottimeNanoseconds: 1})
	_, err := f.service.Push(context.Background(), with("t1", req))
	require.NoError(t, err)
	got := f.state.applied[0].Batch
	require.Len(t, got.Observations, 1)
	require.Len(t, got.Observations[0].Items, 5)
	require.Equal(t, 2, f.journal.count(), "an episode of an unknown condition is durable all the same")
	for what, n := range map[string]float64{ignoredItem: 1, ignoredSubject: 1, ignoredCondition: 1} {
		require.InDelta(t, n, value(t, f.service.metrics.mended.WithLabelValues(what)), 0, what)
	}
}

func TestStampsAndProseArePutRight(t *testing.T) {
	f := newFixture(t, nil)
	req := goodBatch(1)
	b := req.Batch
	b.Observations[0].ObservedBoottimeNanoseconds = 101 * second
	b.Probes[0].SampledBoottimeNanoseconds = 102 * second
	b.Episodes[0].OnsetBoottimeNanoseconds = 103 * second
	b.Episodes[0].ClosedBoottimeNanoseconds = 104 * second
	b.Observations[0].Items[1].State = &evidencev1.Item_Text{Text: "under\x1b[2Jlay\n"}
	b.Observations[0].Items[4].GetUnknown().Detail = strings.Repeat("ä", 2000)
	b.Observations[0].Subject.Name = "eth0\xff"
	_, err := f.service.Push(context.Background(), with("t1", req))
	require.NoError(t, err)
	got := f.state.applied[0].Batch
	require.Equal(t, 100*second, got.Observations[0].ObservedBoottimeNanoseconds)
	require.Equal(t, 100*second, got.Probes[0].SampledBoottimeNanoseconds)
	require.Equal(t, "under [2Jlay ", got.Observations[0].Items[1].GetText())
	require.Equal(t, strings.Repeat("ä", 512), got.Observations[0].Items[4].GetUnknown().GetDetail())
	require.Equal(t, "eth0\uFFFD", got.Observations[0].Subject.Name)
	rec, err := DecodeEpisodeRecord(f.journal.data[0])
	require.NoError(t, err)
	require.Equal(t, rec.Arrival, rec.Onset)
	require.Equal(t, rec.Arrival, rec.Closed)
	require.InDelta(t, 4, value(t, f.service.metrics.mended.WithLabelValues(mendedTime)), 0)
	require.InDelta(t, 3, value(t, f.service.metrics.mended.WithLabelValues(mendedText)), 0)
}

func TestRecordsThatCannotBeRead(t *testing.T) {
	for name, data := range map[string]string{
		"nothing":       "",
		"no record":     "[]",
		"empty":         "{}",
		"newer version": `{"version":2,"node":{"name":"n","uid":"u"},"id":"i","condition":"c","subject":{"kind":"node"},"onset":"2026-01-01T00:00:00Z"}`,
		"no node":       `{"version":1,"id":"i","condition":"c","subject":{"kind":"node"},"onset":"2026-01-01T00:00:00Z"}`,
	} {
		_, err := DecodeEpisodeRecord([]byte(data))
		require.ErrorContains(t, err, "decode an episode", name)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"node":{"name":"n","uid":"u"},"id":"i","condition":"c","subject":{"kind":"node"},"onset":"2026-01-01T00:00:00Z","items":[{"id":1,"name":"x","integer":"9007199254740993"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeEpisodeRecord(data)
		if err != nil {
			return
		}
		again, err := r.Encode()
		require.NoError(t, err)
		back, err := DecodeEpisodeRecord(again)
		require.NoError(t, err)
		once, err := back.Encode()
		require.NoError(t, err)
		require.Equal(t, string(again), string(once))
	})
}

// FuzzBatch puts arbitrary bytes through decoding and checking: nothing panics,
// what is refused changes nothing, and what is taken passes the check again
// unchanged, so that nothing improper is left in it.
func FuzzBatch(f *testing.F) {
	seed, err := proto.Marshal(goodBatch(1))
	require.NoError(f, err)
	f.Add(seed)
	f.Add([]byte{})
	f.Add(seed[:len(seed)/2])
	odd := goodBatch(7)
	odd.Batch.Episodes[0].BootId = "other/1"
	odd.Batch.Episodes[0].OnsetClaimedAt = stamp(time.Unix(1, 0))
	odd.Batch.Observations[0].Items[0].Id = 77
	odd.Batch.Observations[0].Subject.Name = "a\x00b"
	seed, err = proto.Marshal(odd)
	require.NoError(f, err)
	f.Add(seed)
	js, err := protojson.Marshal(goodBatch(3))
	require.NoError(f, err)
	f.Add(js)
	f.Fuzz(func(t *testing.T, data []byte) {
		req := &evidencev1.PushRequest{}
		if proto.Unmarshal(data, req) != nil && protojson.Unmarshal(data, req) != nil {
			return
		}
		fx := newFixture(t, nil)
		_, err := fx.service.Push(context.Background(), with("t1", req))
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			require.Zero(t, fx.state.count())
			require.Zero(t, fx.journal.count())
			return
		}
		require.Equal(t, 1, fx.state.count())
		require.Equal(t, len(req.GetBatch().GetEpisodes()), fx.journal.count())
		for _, data := range fx.journal.data {
			_, err := DecodeEpisodeRecord(data)
			require.NoError(t, err)
		}
		again := proto.Clone(req).(*evidencev1.PushRequest)
		c := &checker{catalog: evidence.NewCatalog(), limits: &fx.service.cfg.Limits, mended: map[string]int{}}
		require.NoError(t, c.check(again))
		delete(c.mended, ignoredCondition) // is kept
		require.Empty(t, c.mended)
		require.True(t, proto.Equal(req, again))
	})
}
