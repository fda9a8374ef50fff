// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/test/lab/judge"
	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// tell plays the contract's example.
func tell(t *testing.T, tl *Timeline, s *scenario.Scenario, r Result, looks ...seen) {
	t.Helper()
	_, changes := observe(t, looks...)
	tl.Begin(at(-9.2), s)
	tl.Progress(at(-8.5), "3 nodes")
	tl.Note(at(-5), "3 nodes in 2 zones are up after 4.2 s")
	tl.Settling(at(-5), 5*time.Second)
	tl.Progress(at(-4), "the end of settle")
	tl.Progress(at(-2), "the end of settle")
	tl.Settled(at(0))
	tl.Injected(at(0), 0, s.Faults[0])
	tl.Affected(at(0.7), 0, "n1 → n3 tcp: no byte for 1.5 s")
	tl.Evidence(at(2.1), "n1 reports tcp.stalls")
	healed := false
	for _, c := range changes {
		if c.At.After(at(40)) && !healed {
			tl.Progress(at(39), "the end of fault 0")
			tl.Healed(at(40), 0, s.Faults[0])
			healed = true
		}
		tl.Change(c)
	}
	tl.Result(at(72), r)
	require.NoError(t, tl.Err())
}

func TestTimeline(t *testing.T) {
	t.Parallel()
	good := []seen{{4, []string{suspected}}, {10, []string{proven}}, {72, []string{resolved}}}
	poor := []seen{{4, []string{suspected}}, {15, []string{suspected, falseOne}}, {30, nil}}
	pending := blackHole()
	pending.Pending = true
	tests := []struct {
		name     string
		term     Terminal
		scenario *scenario.Scenario
		looks    []seen
		result   func(t *testing.T) Result
	}{
		{"pipe", Terminal{Unicode: true}, blackHole(), good, held},
		{"terminal", Terminal{Unicode: true, Colour: true, Interactive: true, Width: 100}, blackHole(), good, held},
		{"narrow", Terminal{Width: 46}, blackHole(), good, held},
		{"failed", Terminal{Unicode: true}, blackHole(), poor, failed},
		{"pending", Terminal{Unicode: true}, pending, poor, func(t *testing.T) Result {
			return result(t, pending, poor...)
		}},
		{"unmark", Terminal{Unicode: true}, pending, good, func(t *testing.T) Result { return result(t, pending, good...) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			tell(t, NewTimeline(&out, tt.term, at(-9.2)), tt.scenario, tt.result(t), tt.looks...)
			golden(t, "timeline-"+tt.name, out.String())
			if !tt.term.Interactive {
				require.NotContains(t, out.String(), "\x1b")
				require.NotContains(t, out.String(), "\r")
			}
			if !tt.term.Unicode {
				require.Equal(t, strings.ToValidUTF8(out.String(), ""), strings.Map(func(r rune) rune {
					if r > 0x7e {
						return -1
					}
					return r
				}, out.String()))
			}
		})
	}
}

func TestTimelineOfTheOtherChanges(t *testing.T) {
	t.Parallel()
	v := judge.Verdict{ID: "3f9a2c41d07be85a", Signature: "network/x", State: "stale", Scope: judge.Scope{Kind: "Node", Nodes: []string{"n1"}}, Reason: "node n1 is silent"}
	var out bytes.Buffer
	tl := NewTimeline(&out, Terminal{}, at(-5))
	tl.Settled(at(0))
	for i, c := range []judge.Change{
		{Kind: judge.Rivals, Rivals: []judge.Refutation{{Signature: "network/y", Because: "the link is up"}}},
		{Kind: judge.Stale}, {Kind: judge.Gone, Aggregator: "agg1"}, {Kind: judge.Refuted}, {Kind: judge.Resolved},
	} {
		c.At, c.Verdict = at(float64(i)), v
		tl.Change(c)
	}
	tl.Fail(at(9), "plumb-agent of n2 ended: exit status 2\x1b[31m")
	golden(t, "timeline-changes", out.String())
}

func TestProgress(t *testing.T) {
	t.Parallel()
	beats := func(term Terminal) string {
		var out bytes.Buffer
		tl := NewTimeline(&out, term, at(0))
		tl.Settled(at(0))
		for i := range 40 {
			tl.Progress(at(float64(i)), "proven")
		}
		tl.Note(at(40), "proven")
		return out.String()
	}
	t.Run("nothing in the first two seconds, then one line that is wiped", func(t *testing.T) {
		out := beats(Terminal{Interactive: true, Width: 20})
		require.Equal(t, 2, strings.Count(out, "\n"))
		require.Equal(t, 39, strings.Count(out, "\r\x1b[K"))
		require.NotContains(t, out, "+1s")
		require.Contains(t, out, "\r\x1b[K     +2s  waiting f\r")
		require.True(t, strings.HasSuffix(out, "\r\x1b[K  +40.0s  proven\n"), "%q", out)
	})
	t.Run("in a pipe a line when it changes and every 15 seconds", func(t *testing.T) {
		require.Equal(t, "   +0.0s  settled\n   +2.0s  waiting for proven\n  +17.0s  waiting for proven\n  +32.0s  waiting for proven\n  +40.0s  proven\n", beats(Terminal{}))
	})
}

type broken struct{ writes int }

func (b *broken) Write([]byte) (int, error) { b.writes++; return 0, errors.New("the pipe is closed") }

func TestTimelineRemembersThatNobodyReads(t *testing.T) {
	t.Parallel()
	w := &broken{}
	tl := NewTimeline(w, Terminal{}, at(0))
	tl.Note(at(0), "one")
	tl.Note(at(1), "two")
	require.ErrorContains(t, tl.Err(), "the pipe is closed")
	require.Equal(t, 1, w.writes)
}

func TestEveryFaultHasItsWords(t *testing.T) {
	t.Parallel()
	nodes := scenario.Fault{Nodes: []string{"n1", "n2"}, Selected: true, Server: -1}
	between := scenario.Fault{Nodes: []string{"n1", "n3"}, BetweenNames: []string{"a", "b"}, Server: -1}
	with := func(f scenario.Fault, kind scenario.Kind, change func(*scenario.Fault)) scenario.Fault {
		f.Kind = kind
		if change != nil {
			change(&f)
		}
		return f
	}
	tests := []struct {
		fault scenario.Fault
		want  string
	}{
		{with(between, scenario.PathDropLarger, func(f *scenario.Fault) { f.Bytes = 1400 }), "the fabric drops packets over 1400 bytes between a and b, silently"},
		{with(between, scenario.PathDropLarger, func(f *scenario.Fault) { f.Bytes, f.ICMP, f.Direction = 1400, true, scenario.Reverse }), "the fabric drops packets over 1400 bytes from b to a, and says so by ICMP"},
		{with(between, scenario.PathLoss, func(f *scenario.Fault) { f.Ratio, f.Direction = 0.025, scenario.Forward }), "the fabric loses 2.5 % of the packets from a to b"},
		{with(nodes, scenario.PathDropFragments, nil), "the fabric drops IP fragments to and from n1 and n2"},
		{with(nodes, scenario.PathCut, func(f *scenario.Fault) { f.Direction = scenario.Forward }), "nothing passes from n1 and n2"},
		{with(nodes, scenario.PathCut, func(f *scenario.Fault) { f.Direction = scenario.Reverse }), "nothing passes to n1 and n2"},
		{with(scenario.Fault{}, scenario.PathCut, nil), "nothing passes everywhere"},
		{with(between, scenario.PathRate, func(f *scenario.Fault) { f.BitsPerSecond = 2_500_000 }), "a policer lets through 2.5 Mbit/s between a and b"},
		{with(between, scenario.PathFlap, func(f *scenario.Fault) { f.Every = 2 * time.Second }), "the way between a and b changes every 2s"},
		{with(nodes, scenario.ICMPFilter, func(f *scenario.Fault) { f.In = "pod" }), "the pod drops ICMP frag-needed on n1 and n2"},
		{with(nodes, scenario.UnderlayMTU, func(f *scenario.Fault) { f.MTU = 1400 }), "the underlay's MTU becomes 1400 on n1 and n2"},
		{with(nodes, scenario.OverlayMTU, func(f *scenario.Fault) { f.MTU = 1500 }), "the overlay's MTU becomes 1500 on n1 and n2"},
		{with(nodes, scenario.PodMTU, func(f *scenario.Fault) { f.MTU = 1500 }), "the pods' MTU becomes 1500 on n1 and n2"},
		{with(nodes, scenario.BridgePortMTU, func(f *scenario.Fault) { f.MTU = 1500 }), "the bridge ports' MTU becomes 1500 on n1 and n2"},
		{with(nodes, scenario.LinkDown, nil), "eth0 goes down on n1 and n2"},
		{with(nodes, scenario.LinkFlap, func(f *scenario.Fault) { f.Device, f.Every = "cni0", time.Second }), "cni0 goes down and up every 1s on n1 and n2"},
		{with(nodes, scenario.RingDrop, func(f *scenario.Fault) { f.Ratio = 0.1 }), "the interface drops 10 % of what it receives on n1 and n2"},
		{with(nodes, scenario.ClockOffset, func(f *scenario.Fault) { f.Offset, f.Drift = 90*time.Second, -50 }), "the agent sees a clock that is off by +1m30s and drifts by -50 ppm on n1 and n2"},
		{with(nodes, scenario.ClockOffset, func(f *scenario.Fault) { f.Offset, f.Step, f.StepBy = -time.Second, true, time.Hour }), "the agent sees a clock that jumps by -1s and jumps by +1h0m0s on n1 and n2"},
		{with(nodes, scenario.ClockOffset, nil), "the agent sees a clock that is not touched on n1 and n2"},
		{with(nodes, scenario.NTPLies, func(f *scenario.Fault) { f.Server, f.Offset = 1, time.Second }), "time server 1 answers +1s wrong"},
		{with(nodes, scenario.NTPCut, nil), "every time server answers no more"},
		{with(nodes, scenario.NTPSmear, nil), "every time server smears a leap second"},
		{with(nodes, scenario.IMDS, func(f *scenario.Fault) { f.Mode = "http-500" }), "the metadata server: http-500, on n1 and n2"},
		{with(nodes, scenario.DiskSlow, func(f *scenario.Fault) { f.Fsync, f.IOPS, f.Neighbour = 200*time.Millisecond, 50, true }), "etcd's disk takes 200ms for an fsync and is capped at 50 operations per second and is shared with a noisy writer on n1 and n2"},
		{with(nodes, scenario.DiskSlow, nil), "etcd's disk is slow on n1 and n2"},
		{with(scenario.Fault{}, scenario.EtcdCPUStarved, nil), "etcd gets no CPU time, while its disk is well, on every node"},
		{with(nodes, scenario.APISlow, func(f *scenario.Fault) { f.Delay, f.Zone = 300*time.Millisecond, "a" }), "the API endpoint answers 300ms late in zone a"},
		{with(nodes, scenario.DNSBroken, func(f *scenario.Fault) { f.Mode = "all" }), "DNS does not answer"},
		{with(nodes, scenario.DNSBroken, func(f *scenario.Fault) { f.Mode = "large" }), "large DNS answers do not arrive"},
		{with(nodes, scenario.AgentKill, nil), "the agent is killed on n1 and n2"},
		{with(nodes, scenario.AgentFreeze, nil), "the agent is frozen on n1 and n2"},
		{with(nodes, scenario.AggregatorKill, nil), "the aggregator is killed"},
		{with(nodes, scenario.AggregatorCut, nil), "nobody reaches the aggregator"},
		{with(nodes, scenario.TokenExpired, nil), "the agent's token has expired on n1 and n2"},
		{with(nodes, scenario.TokenWrongNode, nil), "the agent's token is another node's on n1 and n2"},
		{with(nodes, scenario.ReceiverSlow, nil), "no fault: receivers read slowly on n1 and n2"},
		{with(nodes, scenario.ReceiverFrozen, nil), "no fault: receivers do not read at all on n1 and n2"},
		{with(nodes, scenario.QUICProbes, nil), "no fault: QUIC probes the path MTU on n1 and n2"},
		{with(nodes, scenario.TCPTeardownStorm, func(f *scenario.Fault) { f.Nodes = []string{"n1", "n2", "n3", "n4", "n5"} }), "no fault: many TCP connections are torn down on n1, n2, n3 and 2 more"},
		{with(nodes, "something-new", nil), "something-new on n1 and n2"},
	}
	seen := map[scenario.Kind]bool{}
	for _, tt := range tests {
		require.Equal(t, tt.want, FaultWords(tt.fault))
		seen[tt.fault.Kind] = true
	}
	require.Len(t, seen, 33+1, "the contract has 33 kinds")
}

func TestTheArgumentOfASignatureIsToldOnce(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	tl := NewTimeline(&out, Terminal{}, at(0))
	for _, node := range []string{"n1", "n2"} {
		tl.Change(judge.Change{Kind: judge.Graded, At: at(1), Grade: judge.Proven, Verdict: judge.Verdict{
			ID: "id-" + node, Signature: "network/x", Grade: judge.Proven, Summary: "it is broken on " + node,
			Mitigation: "mend it", Proof: []judge.Proof{{Node: node, Claim: "seen"}}, Scope: judge.Scope{Nodes: []string{node}},
		}})
	}
	require.Contains(t, out.String(), "it is broken on n1.")
	require.Contains(t, out.String(), "it is broken on n2.")
	require.Equal(t, 1, strings.Count(out.String(), "mend it"))
	require.Equal(t, 1, strings.Count(out.String(), "proof"))
}
