// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

func line(t *testing.T, b *bytes.Buffer) map[string]any {
	t.Helper()
	var m map[string]any
	require.NoError(t, json.Unmarshal(b.Bytes(), &m), b.String())
	b.Reset()
	return m
}

func TestEveryLineCarriesTheFiveFields(t *testing.T) {
	var b bytes.Buffer
	var zone Zone
	log := New(&b, slog.LevelInfo, Identity{Namespace: "plumb", Pod: "plumb-agent-x", Node: "n1"}, &zone)

	log.Info("batch sent", "sequence", 1)
	m := line(t, &b)
	for field, want := range map[string]any{"namespace": "plumb", "pod": "plumb-agent-x", "node": "n1", "zone": ""} {
		require.Equal(t, want, m[field], field)
	}
	require.Regexp(t, "^[0-9a-f]{32}$", m["trace_id"])
	process := m["trace_id"]

	zone.Set("a")
	log.With("component", "uplink").WithGroup("g").InfoContext(WithTrace(context.Background(), "0123456789abcdef0123456789abcdef"), "x")
	m = line(t, &b)
	require.Equal(t, "a", m["zone"])
	require.Equal(t, "n1", m["node"], "fields stay at the top level")
	require.Equal(t, "0123456789abcdef0123456789abcdef", m["trace_id"])

	log.Info("x")
	require.Equal(t, process, line(t, &b)["trace_id"], "lines without a trace share the process's")
	log.Debug("hidden")
	require.Empty(t, b.String())
}
