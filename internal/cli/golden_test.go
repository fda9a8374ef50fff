// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestVerbsOnEveryTerminal(t *testing.T) {
	sick, sound := sick(t).serve(t), sound(t).serve(t)
	terminals := map[string]Terminal{
		"80":       {Width: 80, Unicode: true},
		"120":      {Width: 120, Unicode: true},
		"80-color": {Width: 80, Unicode: true, Colour: true},
		"80-ascii": {Width: 80},
		"pipe":     {Unicode: true},
	}
	tests := []struct {
		name   string
		server string
		args   []string
		status int
	}{
		{"nodes", sick, []string{"nodes"}, 1},
		{"verdicts", sick, []string{"verdicts"}, 1},
		{"verdicts-all", sick, []string{"verdicts", "--all"}, 1},
		{"verdicts-sound", sound, []string{"verdicts"}, 0},
		{"verdicts-silent-node", sick, []string{"verdicts", "--node", "n3"}, 0},
		{"why-proven", sick, []string{"why", "3f9a2c"}, 1},
		{"why-pending", sick, []string{"why", "c0ffee"}, 0},
		{"why-resolved", sick, []string{"why", "012345"}, 0},
		{"why-sick-node", sick, []string{"why", "n1"}, 1},
		{"why-blind-node", sick, []string{"why", "n2"}, 0},
		{"why-silent-node", sick, []string{"why", "n3"}, 0},
		{"why-sound-node", sound, []string{"why", "n1"}, 0},
		{"evidence", sick, []string{"evidence", "n1"}, 0},
		{"evidence-probe", sick, []string{"evidence", "n1", "--probe", "clock"}, 0},
		{"episodes", sick, []string{"episodes"}, 0},
		{"signatures", sick, []string{"signatures", "list"}, 0},
	}
	for _, tt := range tests {
		for name, terminal := range terminals {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				got := call(t, callOptions{term: terminal}, append([]string{"--server", tt.server}, tt.args...)...)
				require.Empty(t, got.err)
				require.Equal(t, tt.status, got.status)
				golden(t, tt.name+"."+name+".golden", got.out)
				checkTerminal(t, terminal, got.out)
			})
		}
	}
}

// checkTerminal holds what is true of any output, golden or not.
func checkTerminal(t *testing.T, terminal Terminal, out string) {
	t.Helper()
	require.Equal(t, terminal.Colour, strings.Contains(out, "\x1b["), "colour only where it is allowed")
	for line := range strings.SplitSeq(out, "\n") {
		if !terminal.Unicode {
			for _, r := range line {
				require.Less(t, r, rune(0x80), "not ASCII: %q", line)
			}
		}
		// Commands are never wrapped, everything else is.
		if terminal.Width > 0 && !terminal.Colour && !strings.HasPrefix(line, "      kubectl") {
			require.LessOrEqual(t, width(line), terminal.Width, "wider than the terminal: %q", line)
		}
	}
}

func TestJSONIsWhatTheAPISays(t *testing.T) {
	server := sick(t).serve(t)
	tests := []struct {
		name   string
		args   []string
		status int
		keys   []string
	}{
		{"nodes", []string{"nodes"}, 1, []string{"nodes"}},
		{"verdicts", []string{"verdicts"}, 1, []string{"verdicts"}},
		{"why-verdict", []string{"why", "3f9a2c"}, 1, []string{"id", "signature", "loop", "grade", "state", "scope", "onset", "gradedAt", "resolvedAt", "proof", "refuted", "unknown", "consequences", "mitigation"}},
		{"why-node", []string{"why", "n1"}, 1, []string{"node", "verdicts", "assessments"}},
		{"evidence", []string{"evidence", "n1", "--probe", "link"}, 0, []string{"node", "subjects"}},
		{"episodes", []string{"episodes", "n1"}, 0, []string{"episodes"}},
		{"signatures", []string{"signatures", "list"}, 0, []string{"signatures"}},
		{"version", []string{"version"}, 0, []string{"version", "buildTime", "goVersion", "platform"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := call(t, callOptions{term: Terminal{Width: 40, Colour: true}}, append([]string{"--json", "--server", server}, tt.args...)...)
			require.Empty(t, got.err)
			require.Equal(t, tt.status, got.status)
			require.NotContains(t, got.out, "\x1b")
			var object map[string]any
			require.NoError(t, json.Unmarshal([]byte(got.out), &object))
			for _, key := range tt.keys {
				require.Contains(t, object, key)
			}
			golden(t, tt.name+".json.golden", got.out)
		})
	}
}

func TestHelpTeaches(t *testing.T) {
	for _, verb := range [][]string{nil, {"nodes"}, {"verdicts"}, {"why"}, {"evidence"}, {"episodes"}, {"signatures"}, {"signatures", "check"}, {"signatures", "test"}, {"local"}, {"completion"}} {
		t.Run("plumb "+strings.Join(verb, " "), func(t *testing.T) {
			got := call(t, callOptions{}, append(verb, "--help")...)
			require.Zero(t, got.status)
			require.Contains(t, got.out, "Examples:")
			require.Contains(t, got.out, "[PLUMB_SERVER]")
			require.NotContains(t, got.out, "{plumb}")
			plugin := call(t, callOptions{program: "/usr/local/bin/kubectl-plumb"}, append(verb, "--help")...)
			require.Contains(t, plugin.out, "kubectl plumb")
		})
	}
	golden(t, "help.golden", call(t, callOptions{}, "--help").out)
	golden(t, "help-kubectl.golden", call(t, callOptions{program: "kubectl-plumb"}, "why", "--help").out)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "write it with go test ./internal/cli -update")
	require.Equal(t, string(want), got)
}
