// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOnlyWholeEventsAreDecoded(t *testing.T) {
	t.Parallel()
	const when = `"at":"2026-01-02T03:04:05.000000006Z"`
	tests := map[string]struct{ line, words string }{
		"ready":                      {`{"type":"ready",` + when + `}`, ""},
		"a field of a later version": {`{"type":"ready",` + when + `,"more":1}`, ""},
		"a stall":                    {`{"type":"stalled","flow":"f","kind":"tcp",` + when + `,"affectedAt":"2026-01-02T03:04:04Z"}`, ""},
		"progress":                   {`{"type":"progress","kind":"tcp",` + when + `,"counters":{"ok":1}}`, ""},
		"no JSON":                    {`ready`, "invalid character"},
		"nothing":                    {``, "unexpected end"},
		"no type":                    {`{` + when + `}`, "unknown type"},
		"no time":                    {`{"type":"ready"}`, "no time"},
		"unknown kind":               {`{"type":"ready","kind":"sctp",` + when + `}`, "unknown kind"},
		"progress without counters":  {`{"type":"progress","kind":"tcp",` + when + `}`, "without counters"},
		"a stall of no flow":         {`{"type":"stalled","kind":"tcp",` + when + `,"affectedAt":"2026-01-02T03:04:04Z"}`, "without flow"},
		"an error without a begin":   {`{"type":"error","flow":"f","kind":"tcp",` + when + `}`, "without flow"},
		"less than nothing":          {`{"type":"ready",` + when + `,"forNanoseconds":-1}`, "less than nothing"},
		"much too long":              {string(make([]byte, maxLine+1)), "the limit is"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := DecodeEvent([]byte(test.line))
			if test.words == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.words)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func FuzzDecodeEvent(f *testing.F) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, e := range []Event{
		{Type: Ready, At: now},
		{Type: Stalled, Flow: "f", Kind: TCP, Transfer: 3, At: now, AffectedAt: now.Add(-time.Second), For: time.Second, ZeroWindow: true, Detail: "x"},
		{Type: Failed, Flow: "f", Kind: DNS, Query: LargeQuery, At: now, AffectedAt: now},
		{Type: Progress, Kind: UDP, At: now, Counters: &Counters{OK: 1, Bytes: 2}},
	} {
		line, err := json.Marshal(e)
		require.NoError(f, err)
		f.Add(line)
	}
	f.Add([]byte(`{"type":"stalled"`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := DecodeEvent(line)
		if err != nil {
			return
		}
		o := NewObserver([]Flow{{ID: e.Flow}})
		o.Add(e)
		o.FirstAffected(e.At, nil)
		again, err := json.Marshal(e)
		if err != nil {
			return // a year that JSON has no room for
		}
		back, err := DecodeEvent(again)
		require.NoError(t, err)
		require.True(t, e.At.Equal(back.At))
		require.True(t, e.AffectedAt.Equal(back.AffectedAt))
		e.At, e.AffectedAt, back.At, back.AffectedAt = now, now, now, now
		require.Equal(t, e, back)
	})
}
