// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package judge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
)

func TestUnknownFieldsPassThroughUntouched(t *testing.T) {
	t.Parallel()
	raw := `{"id":"abcdef0011","signature":"x/y","grade":"proven","bans":"NaN","batches":"18446744073709551615","future":{"<a>":[1.50,1e3]},"gradedAt":{"proven":"2026-03-04T05:06:07.123456789+02:00"},"resolvedAt":null}`
	h := &History{}
	_, err := h.Add("agg1", at(9), []byte(`{"verdicts":[`+raw+`],"next":"7"}`))
	require.NoError(t, err)
	shown, earlier := h.Verdicts()
	require.Equal(t, raw, string(shown[0]))
	require.Empty(t, earlier)
	reached, ok := h.Records()[0].Spells[0].Reached(Proven)
	require.True(t, ok)
	require.Equal(t, "2026-03-04T03:06:07.123456789Z", reached.UTC().Format(time.RFC3339Nano))
}

func TestAnswersThatCannotBeRead(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, answer, err string }{
		{"no JSON", `<html>`, "aggregator agg1: read verdicts: "},
		{"an error of the API", `{"code":"not_found","message":"x"}`, `has no field "verdicts"`},
		{"a list that is none", `{"verdicts":null}`, `has no field "verdicts"`},
		{"a verdict without an id", `{"verdicts":[{"id":"a"},{}]}`, "verdict 2 of 2: read verdict: it has no id"},
		{"a time that is none", `{"verdicts":[{"id":"a","gradedAt":{"proven":"yesterday"}}]}`, "verdict 1 of 1: read verdict: parsing time"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := &History{}
			_, err := h.Add("agg1", at(0), []byte(tt.answer))
			require.ErrorContains(t, err, tt.err)
			require.Empty(t, h.Records(), "it changes nothing")
			_, err = h.AddVerdict("agg1", at(0), []byte(`{}`))
			require.ErrorContains(t, err, "no id")
		})
	}
}

func TestSpells(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		looks []look
		want  []string // "aggregator best state"
		shown string   // state of the one shown
	}{
		{"one spell, growing", []look{{3, []v{{suspected: 2}}, ""}, {9, []v{{suspected: 2, proven: 8}}, ""}, {20, []v{{suspected: 2, proven: 8, state: "resolved", resolved: 19}}, ""}}, []string{"agg1 proven resolved"}, "resolved"},
		{"its onset moves back", []look{{3, []v{{suspected: 2, onset: 2}}, ""}, {9, []v{{suspected: 2, onset: 1}}, ""}}, []string{"agg1 suspected firing"}, "firing"},
		{"it flaps between two looks", []look{{3, []v{{proven: 2}}, ""}, {9, []v{{likely: 8}}, ""}}, []string{"agg1 proven firing", "agg1 likely firing"}, "firing"},
		{"refuted after it fired", []look{{3, []v{{proven: 2}}, ""}, {9, []v{{proven: 2, state: "refuted", resolved: 8}}, ""}}, []string{"agg1 proven refuted"}, "refuted"},
		{"refuted while pending: the claim is shown", []look{{3, []v{{likely: 2, state: "pending"}}, ""}, {9, []v{{state: "refuted", onset: 8}}, ""}, {12, []v{{state: "refuted", onset: 8}}, ""}}, []string{"agg1 likely pending", "agg1  refuted"}, "pending"},
		{"refuted, then proven", []look{{3, []v{{state: "refuted"}}, ""}, {9, []v{{proven: 8}}, ""}}, []string{"agg1  refuted", "agg1 proven firing"}, "firing"},
		{"refuted twice with a claim between", []look{{3, []v{{state: "refuted"}}, ""}, {9, []v{{proven: 8}}, ""}, {20, []v{{state: "refuted", onset: 19, resolved: 15}}, ""}}, []string{"agg1  refuted", "agg1 proven firing", "agg1  refuted"}, "firing"},
		{"two aggregators", []look{{3, []v{{proven: 2}}, "agg1"}, {3, []v{{proven: 2.5}}, "agg2"}, {9, []v{{proven: 2, state: "stale"}}, "agg1"}}, []string{"agg1 proven stale", "agg2 proven firing"}, "firing"},
		{"two aggregators that agree to the nanosecond", []look{{3, []v{{proven: 2}}, "agg1"}, {4, []v{{proven: 2}}, "agg2"}}, []string{"agg1 proven firing", "agg2 proven firing"}, "firing"},
		{"an older answer comes late and adds what it knows", []look{{9, []v{{suspected: 2}}, ""}, {8, []v{{suspected: 2, likely: 7, state: "stale"}}, ""}}, []string{"agg1 likely firing"}, "firing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := history(t, tt.looks...)
			require.Len(t, h.Records(), 1)
			var got []string
			for _, s := range h.Records()[0].Spells {
				got = append(got, fmt.Sprintf("%s %s %s", s.Aggregator, s.Best(), s.Verdict.State))
			}
			require.Equal(t, tt.want, got)
			shown, earlier := h.Verdicts()
			require.Len(t, shown, 1)
			require.Len(t, earlier, len(tt.want)-1)
			var v Verdict
			require.NoError(t, json.Unmarshal(shown[0], &v))
			require.Equal(t, tt.shown, v.State)
		})
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		looks []look
		want  []string // "kind grade seconds"
	}{
		{"grades as they are reached", []look{{3, []v{{suspected: 2}}, ""}, {4, []v{{suspected: 2}}, ""}, {9, []v{{suspected: 2, likely: 5, proven: 8}}, ""}}, []string{"graded suspected 2", "graded proven 8"}},
		{"resolved", []look{{9, []v{{proven: 8}}, ""}, {20, []v{{proven: 8, state: "resolved", resolved: 19}}, ""}, {21, []v{{proven: 8, state: "resolved", resolved: 19}}, ""}}, []string{"graded proven 8", "resolved  19"}},
		{"stale and back", []look{{9, []v{{proven: 8}}, ""}, {20, []v{{proven: 8, state: "stale"}}, ""}, {21, []v{{proven: 8, state: "stale"}}, ""}, {30, []v{{proven: 8}}, ""}}, []string{"graded proven 8", "stale  20"}},
		{"refuted", []look{{9, []v{{state: "refuted", update: 8}}, ""}, {20, []v{{state: "refuted", update: 19}}, ""}}, []string{"refuted  8"}},
		{"rivals come later", []look{{9, []v{{likely: 8}}, ""}, {20, []v{{likely: 8, refuted: []string{"a", "b"}, update: 19}}, ""}, {21, []v{{likely: 8, refuted: []string{"a"}}}, ""}}, []string{"graded likely 8", "rivals  19"}},
		{"gone", []look{{9, []v{{likely: 8}}, ""}, {20, nil, ""}, {21, nil, ""}}, []string{"graded likely 8", "gone  20"}},
		{"what is resolved may go in silence", []look{{9, []v{{likely: 8, state: "resolved", resolved: 8.5}}, ""}, {20, nil, ""}}, []string{"graded likely 8", "resolved  8.5"}},
		{"a second aggregator says the same", []look{
			{9, []v{{likely: 8, refuted: []string{"a"}}}, "agg1"}, {9, []v{{likely: 8.5, refuted: []string{"a"}}}, "agg2"},
			{20, []v{{likely: 8, state: "resolved", resolved: 19}}, "agg1"}, {20, []v{{likely: 8.5, state: "resolved", resolved: 19.5}}, "agg2"},
		}, []string{"graded likely 8", "resolved  19"}},
		{"a second aggregator is ahead", []look{{9, []v{{likely: 8}}, "agg1"}, {9, []v{{likely: 7, proven: 8.5}}, "agg2"}}, []string{"graded likely 8", "graded proven 8.5"}},
		{"it comes again", []look{{9, []v{{likely: 8}}, ""}, {20, []v{{likely: 8, state: "resolved", resolved: 19}}, ""}, {30, []v{{likely: 29}}, ""}}, []string{"graded likely 8", "resolved  19", "graded likely 29"}},
		{"it comes again in the other aggregator", []look{{20, []v{{likely: 8, state: "resolved", resolved: 19}}, "agg1"}, {30, []v{{likely: 29}}, "agg2"}}, []string{"graded likely 8", "resolved  19", "graded likely 29"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := &History{}
			var got []string
			for _, l := range tt.looks {
				from := l.from
				if from == "" {
					from = "agg1"
				}
				changes, err := h.Add(from, at(l.seconds), answer(t, l.list...))
				require.NoError(t, err)
				for _, c := range changes {
					got = append(got, fmt.Sprintf("%s %s %v", c.Kind, c.Grade, c.At.Sub(start()).Seconds()))
				}
			}
			require.Equal(t, tt.want, got)
		})
	}
}

func TestAVerdictOfAWatch(t *testing.T) {
	t.Parallel()
	raw := bytes.TrimSuffix(bytes.TrimPrefix(answer(t, v{proven: 3}), []byte(`{"verdicts":[`)), []byte(`]}`))
	h := &History{}
	changes, err := h.AddVerdict("agg1", at(4), raw)
	require.NoError(t, err)
	require.Len(t, changes, 1)
	changes, err = h.Add("agg1", at(3.9), answer(t))
	require.NoError(t, err)
	require.Empty(t, changes, "a list that was asked for before does not take it away")
	changes, err = h.Add("agg1", at(5), answer(t))
	require.NoError(t, err)
	require.Equal(t, Gone, changes[0].Kind)
}

func TestAHistoryIsReadWhileItIsWritten(t *testing.T) {
	t.Parallel()
	h := &History{}
	s := plain(expected())
	var both sync.WaitGroup
	for _, from := range []string{"agg1", "agg2"} {
		both.Go(func() {
			for i := range 50 {
				_, err := h.Add(from, at(float64(i)), answer(t, v{suspected: 1, proven: float64(2 + i/10), scope: zones("a", "b")}))
				if err != nil {
					t.Error(err)
				}
				Judge(s, whole(h))
			}
		})
	}
	both.Wait()
	require.True(t, Judge(s, whole(h)).OK)
}

// Whatever an API answers, reading it neither panics nor loses or changes a byte
// of a verdict, and reading it twice adds nothing.
func FuzzAnswer(f *testing.F) {
	f.Add(answer(f, v{suspected: 2, proven: 3}, v{id: "bbbb00", state: "refuted"}))
	f.Add([]byte(`{"verdicts":[{"id":"a","gradedAt":{"likely":null,"proven":"0001-01-01T00:00:00Z","x":"2026-03-04T05:06:07Z"},"resolvedAt":"2026-03-04T05:06:07Z","state":"resolved"}]}`))
	f.Add([]byte(`{"verdicts":[{"id":"a","grade":"proven"},{"id":"a","grade":"refuted","state":"refuted"},{"id":"a","gradedAt":{"proven":"2026-03-04T05:06:07Z"}}]}`))
	f.Add([]byte(`{"verdicts":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h := &History{}
		_, err := h.Add("agg1", at(1), raw)
		if err != nil {
			return
		}
		var list struct{ Verdicts []json.RawMessage }
		require.NoError(t, json.Unmarshal(raw, &list))
		shown, earlier := h.Verdicts()
		require.LessOrEqual(t, len(shown)+len(earlier), len(list.Verdicts))
		for _, one := range append(shown, earlier...) {
			found := false
			for _, v := range list.Verdicts {
				found = found || bytes.Equal(bytes.TrimSpace(v), one)
			}
			require.True(t, found, "%s", one)
		}
		ids := map[string]bool{}
		for _, r := range h.Records() {
			require.False(t, ids[r.ID])
			ids[r.ID] = true
			require.NotEmpty(t, r.Spells)
		}
		s := plain(expected())
		s.Forbid = grades()
		before := Judge(s, whole(h))
		if len(ids) == len(list.Verdicts) {
			_, err = h.Add("agg1", at(1), raw)
			require.NoError(t, err)
			require.Equal(t, before, Judge(s, whole(h)))
		}
	})
}

// The contract shows every field; the API leaves none out.
func TestTheAPISaysWhatIsNotThere(t *testing.T) {
	t.Parallel()
	raw, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(&apiv1.Verdict{Id: "abcdef", Scope: &apiv1.Scope{}})
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, json.Unmarshal(raw, &fields))
	for key, want := range map[string]any{
		"resolvedAt": nil, "onset": nil, "gradedAt": map[string]any{}, "proof": []any{}, "refuted": []any{}, "unknown": []any{},
		"consequences": []any{}, "mitigation": "", "loop": "",
		"scope": map[string]any{"kind": "", "zones": []any{}, "nodes": []any{}, "device": "", "pool": "", "pod": ""},
	} {
		require.Contains(t, fields, key)
		require.Equal(t, want, fields[key], key)
	}
	_, err = (&History{}).AddVerdict("agg1", at(0), raw)
	require.NoError(t, err, "an unset time is null, and that can be read")
}
