// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/local"
	"github.com/plumb-dev/plumb/internal/testutils"
)

func gathered(t *testing.T, f *fake, node string) localReport {
	t.Helper()
	c, err := newClient(f.serve(t), soon)
	require.NoError(t, err)
	t.Cleanup(c.close)
	a := &app{}
	r, err := a.gather(t.Context(), c, node)
	require.NoError(t, err)
	r.uid = 0
	return r
}

func TestReportOfThisMachine(t *testing.T) {
	stack := &local.Stack{URL: "http://127.0.0.1:41234", Node: "n2", AgentMetrics: "http://127.0.0.1:41235/metrics"}
	for name, term := range map[string]Terminal{"80": {Width: 80, Unicode: true}, "80-ascii": {Width: 80}, "120-color": {Width: 120, Unicode: true, Colour: true}} {
		t.Run(name, func(t *testing.T) {
			r := gathered(t, sick(t), "n2")
			r.uid = 1000
			out := lay(term, func(p *printer) { p.localReport("plumb", stack, r, false) })
			golden(t, "local."+name+".golden", out)
			require.Contains(t, out, "not root")
			require.Contains(t, out, "link.pod_route_mtu_bytes")
			require.Contains(t, out, "curl -s http://127.0.0.1:41234/api/v1/verdicts")
		})
	}
	t.Run("once has nothing to try meanwhile", func(t *testing.T) {
		r := gathered(t, sound(t), "n1")
		out := lay(Terminal{Width: 80, Unicode: true}, func(p *printer) { p.localReport("plumb", stack, r, true) })
		require.NotContains(t, out, "Meanwhile")
		require.Contains(t, out, "nothing is out of true")
	})
	t.Run("for a machine", func(t *testing.T) {
		raw, err := json.Marshal(gathered(t, sick(t), "n1").json(stack.URL))
		require.NoError(t, err)
		var got struct {
			Server     string
			Nodes      struct{ Nodes []map[string]any }
			Explained  struct{ Assessments []map[string]any }
			Verdicts   struct{ Verdicts []map[string]any }
			Unmeasured []unmeasured
		}
		require.NoError(t, json.Unmarshal(raw, &got))
		require.Equal(t, stack.URL, got.Server)
		require.Len(t, got.Nodes.Nodes, 3)
		require.Len(t, got.Verdicts.Verdicts, 3)
		require.NotEmpty(t, got.Explained.Assessments)
		require.Equal(t, []unmeasured{{Probe: "link", Reason: "blind", Detail: "may not enter the pods' namespaces", Items: []string{"link.pod_route_mtu_bytes"}}}, got.Unmeasured)
	})
}

func TestStepsOnATerminalAndElsewhere(t *testing.T) {
	t.Run("plain lines", func(t *testing.T) {
		var b syncBuffer
		s := newSteps(&b, Terminal{Unicode: true}, false)
		s.Step("waiting for evidence")
		s.Waiting("the first report of n1")
		s.Waiting("the first report of n1")
		s.Waiting("the probe clock")
		s.Done("after 2.1 s")
		s.interrupt()
		require.Equal(t, "plumb: waiting for evidence\nplumb: waiting for the first report of n1\nplumb: waiting for the probe clock\nplumb: waiting for evidence: done: after 2.1 s\n", b.String())
	})
	t.Run("spinner", func(t *testing.T) {
		var b syncBuffer
		s := newSteps(&b, Terminal{Unicode: true, Interactive: true, Width: 30}, false)
		s.Step("waiting for evidence")
		s.Waiting("something with a very long name that does not fit")
		testutils.Eventually(t, soon, "the spinner turns", func() bool { return strings.Count(b.String(), "\r\x1b[K") > 2 })
		s.Done("after 2.1 s")
		require.True(t, strings.HasSuffix(b.String(), "\r\x1b[K✓ waiting for evidence: after 2.1 s\n"), "%q", b.String())
		for _, frame := range strings.Split(b.String(), "\r\x1b[K") {
			require.Less(t, len([]rune(strings.TrimRight(frame, "\n"))), 60)
		}
		before := b.String()
		s.Step("next")
		s.interrupt()
		require.NotContains(t, strings.TrimPrefix(b.String(), before), "✓", "what was interrupted is not done")
	})
}

func TestAgeOfAClockAhead(t *testing.T) {
	p := &printer{now: func() time.Time { return now }, loc: time.UTC}
	require.Equal(t, "now", p.age(ago(-200*time.Millisecond)))
	require.Equal(t, "7m 00s ahead", unglue(p.age(ago(-7*time.Minute))))
	require.Equal(t, "never", p.age(nil))
}
