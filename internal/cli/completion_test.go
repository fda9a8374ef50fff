// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCompletionAsksTheServer(t *testing.T) {
	server := sick(t).serve(t)
	tests := []struct {
		name string
		args []string
		want []string
	}{
		{"why offers nodes and verdicts, the worst first", []string{"why", ""}, []string{"n1\tnode, reporting", "n2\tnode, reporting", "n3\tnode, silent", "3f9a2c41d07be85a\tproven network/mtu-overlay-mismatch, flannel.1 on n1 (zone a)", "77aa00bb11cc22dd\tlikely network/oversize-drop-local, eth0 on n1 (zone a)", "c0ffee00c0ffee00\tsuspected identity/clock-skew, node n2 (zone b)"}},
		{"why by the start of an id", []string{"why", "3f"}, []string{"3f9a2c41d07be85a\tproven network/mtu-overlay-mismatch, flannel.1 on n1 (zone a)"}},
		{"why takes one argument", []string{"why", "n1", ""}, nil},
		{"evidence offers nodes", []string{"evidence", "n3"}, []string{"n3\tnode, silent"}},
		{"evidence offers the probes of the node", []string{"evidence", "n3", "--probe", ""}, []string{"clock"}},
		{"episodes offers nodes", []string{"episodes", "n2"}, []string{"n2\tnode, reporting"}},
		{"verdicts offers nodes for its flag", []string{"verdicts", "--node", "n1"}, []string{"n1\tnode, reporting"}},
		{"nodes offers nothing", []string{"nodes", ""}, nil},
		{"completion offers shells", []string{"completion", ""}, []string{"bash", "zsh", "fish"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := call(t, callOptions{env: map[string]string{"PLUMB_SERVER": server}}, append([]string{"__complete"}, tt.args...)...)
			require.Zero(t, got.status)
			lines := strings.Split(strings.TrimSpace(got.out), "\n")
			require.Equal(t, tt.want, append([]string(nil), lines[:len(lines)-1]...))
		})
	}
}

func TestCompletionOfADeadServerIsEmptyAndQuick(t *testing.T) {
	hanging := &fake{hang: make(chan struct{})}
	slow := hanging.serve(t)
	t.Cleanup(func() { close(hanging.hang) })
	for _, server := range []string{deadAddress(t), slow, "nonsense"} {
		began := time.Now()
		got := call(t, callOptions{}, "__complete", "--server", server, "evidence", "")
		require.Zero(t, got.status)
		require.True(t, strings.HasPrefix(got.out, ":"), got.out)
		require.Less(t, time.Since(began), 3*completionTimeout)
	}
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		got := call(t, callOptions{}, "completion", shell)
		require.Zero(t, got.status)
		require.Contains(t, got.out, "__complete")
	}
}
