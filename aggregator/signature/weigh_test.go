// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature_test

import (
	"math"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
)

var (
	now      = time.Date(2026, time.March, 4, 5, 6, 7, 0, time.UTC)
	flannel  = evidence.Subject{Kind: evidence.SubjectDevice, Key: "4026531840/7", Name: "flannel.1"}
	dropsite = evidence.Subject{Kind: evidence.SubjectDropsite, Key: "x", Name: "x", ParentKey: "4026531840/7"}
)

type items = map[uint32]state.Fact

func value(v any) state.Fact { return state.Fact{Status: state.Value, Value: v, ObservedAt: now} }

func aged(v any, age time.Duration) state.Fact {
	f := value(v)
	f.ObservedAt = now.Add(-age)
	return f
}

func blind(detail string) state.Fact { return state.Fact{Reason: evidence.Blind, Detail: detail} }

func none(detail string) state.Fact {
	return state.Fact{Status: state.NotApplicable, Detail: detail, ObservedAt: now}
}

func node(facts map[evidence.Subject]items) *state.View {
	return state.NewView(state.NodeInfo{Name: "node-a", UID: "uid-a", Zone: "zone-a"}, now, facts)
}

func device(facts items) *state.View { return node(map[evidence.Subject]items{flannel: facts}) }

// parts is a signature of which a test writes evidence, refuters and the rest.
func parts(t *testing.T, body string) *signature.Signature {
	t.Helper()
	content := `apiVersion: plumb.dev/v1alpha1
kind: FailureSignature
metadata: {name: parts}
spec:
  id: network/parts
  title: parts
  severity: info
  symptom: none
  scope: Node
  each: device
  summary: "{subject.name} in {subject.zone}: {link.mtu_bytes}"
  mitigation: none
` + body
	list, err := signature.Load(fstest.MapFS{"parts.yaml": {Data: []byte(content)}}, evidence.NewCatalog())
	require.NoError(t, err)
	return list[0]
}

const noProof = "\n  noProof: this is a test\n"

func clause(expr string) string {
	return "  evidence:\n    - {id: c, bans: 1.5, claim: 'it is {link.mtu_bytes}', expr: '" + expr + "'}" + noProof
}

func TestAClauseHasFourStates(t *testing.T) {
	mtu, up, drift := uint32(evidence.LinkMTUBytes), uint32(evidence.LinkUp), uint32(evidence.LinkOverheadBytes)
	for _, tc := range []struct {
		name, expr string
		facts      items
		truth      signature.Truth
		detail     string
	}{
		{"true", "link.mtu_bytes > 1450", items{mtu: value(int64(1500))}, signature.True, ""},
		{"false", "link.mtu_bytes > 1450", items{mtu: value(int64(1400))}, signature.False, ""},
		{"never reported", "link.mtu_bytes > 1450", items{}, signature.TruthUnknown, "link.mtu_bytes is unknown (blind): not reported by this node's agent"},
		{"reported unknown", "link.mtu_bytes > 1450", items{mtu: blind("no CAP_NET_ADMIN")}, signature.TruthUnknown, "no CAP_NET_ADMIN"},
		{"an unknown flag is not false", "!link.up", items{up: blind("")}, signature.TruthUnknown, "link.up is unknown (blind)"},
		{"not applicable", "link.mtu_bytes > 1450", items{mtu: none("no such thing")}, signature.TruthNotApplicable, "link.mtu_bytes is not applicable: no such thing"},
		{"not applicable beside unknown", "link.mtu_bytes > 1450 && link.up", items{mtu: none("no such thing")}, signature.TruthNotApplicable, "no such thing"},
		{"not applicable is decided before CEL may absorb it", "link.mtu_bytes > 1450 || link.up", items{mtu: none("no such thing"), up: value(true)}, signature.TruthNotApplicable, "no such thing"},
		{"an unknown side that && absorbs", "link.mtu_bytes > 1450 && link.up", items{mtu: value(int64(1400)), up: blind("")}, signature.False, ""},
		{"an unknown side that || absorbs", "link.up || link.mtu_bytes > 1450", items{mtu: value(int64(1500)), up: blind("")}, signature.True, ""},
		{"an unknown side that decides", "link.mtu_bytes > 1450 && link.up", items{mtu: value(int64(1500)), up: blind("why")}, signature.TruthUnknown, "why"},
		{"an unknown condition", "link.up ? true : false", items{up: blind("why")}, signature.TruthUnknown, "why"},
		{"division by zero", "link.mtu_bytes / link.overhead_bytes > 1", items{mtu: value(int64(1)), drift: value(int64(0))}, signature.TruthUnknown, "cannot be computed: division by zero"},
		{"integer overflow", "link.mtu_bytes + link.overhead_bytes > 1", items{mtu: value(int64(math.MaxInt64)), drift: value(int64(1))}, signature.TruthUnknown, "overflow"},
		{"a value of the wrong type", "link.mtu_bytes > 1450", items{mtu: value("1500")}, signature.TruthUnknown, "the reported value 1500 is no integer"},
		{"an integer against a fraction", "link.mtu_bytes > 1450.5", items{mtu: value(int64(1451))}, signature.True, ""},
		{"abs", "abs(link.mtu_bytes - 1500) == 50", items{mtu: value(int64(1450))}, signature.True, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := parts(t, clause(tc.expr)).Weigh(device(tc.facts), flannel)
			c := r.Clauses[0]
			require.Equal(t, tc.truth.String(), c.Truth.String(), c.Detail)
			require.Contains(t, c.Detail, tc.detail)
			require.Equal(t, tc.truth == signature.True, c.Bans == 1.5)
			require.Equal(t, tc.truth == signature.True || tc.truth == signature.False, c.Claim != "")
			require.Equal(t, tc.truth == signature.TruthUnknown, r.Undecided, "what is unknown is never all is well")
		})
	}
}

func TestNotANumberNeverReadsAsHealthy(t *testing.T) {
	s := parts(t, "  evidence:\n    - {id: c, bans: 1.5, claim: c, expr: 'clock.offset_at_least_seconds <= 0.5'}\n    - {id: d, bans: 1.5, claim: c, expr: '!(clock.offset_at_least_seconds > 0.5)'}"+noProof)
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		r := s.Weigh(node(map[evidence.Subject]items{flannel: {}, evidence.Node(): {uint32(evidence.ClockOffsetAtLeastSeconds): value(v)}}), flannel)
		require.Equal(t, signature.TruthUnknown, r.Clauses[0].Truth)
		require.Equal(t, signature.TruthUnknown, r.Clauses[1].Truth)
	}
}

func TestItemsOfParentsAreRead(t *testing.T) {
	content := `apiVersion: plumb.dev/v1alpha1
kind: FailureSignature
metadata: {name: parts}
spec: {id: network/parts, title: parts, severity: info, symptom: none, scope: Node, each: dropsite, summary: "at {subject.parent}", mitigation: none,
  noProof: test, evidence: [{id: c, bans: 1.5, claim: c, expr: "link.mtu_bytes > 1 && clock.groups_total > 1 && oversize.drops_window > 1"}]}
`
	list, err := signature.Load(fstest.MapFS{"parts.yaml": {Data: []byte(content)}}, evidence.NewCatalog())
	require.NoError(t, err)
	facts := map[evidence.Subject]items{
		dropsite:        {uint32(evidence.OversizeDropsWindow): value(int64(2))},
		flannel:         {uint32(evidence.LinkMTUBytes): value(int64(2))},
		evidence.Node(): {uint32(evidence.ClockGroupsTotal): value(int64(2))},
	}
	r := list[0].Weigh(node(facts), dropsite)
	require.Equal(t, signature.True, r.Clauses[0].Truth)
	require.Equal(t, "at flannel.1", r.Summary)
	require.Equal(t, []string{evidence.KindClockSourceGroup, evidence.KindConfiguration, evidence.KindKernelDropEvent}, r.Clauses[0].Kinds)
	require.Equal(t, flannel, r.Clauses[0].Reads[0].Subject)
	require.Equal(t, evidence.Node(), r.Clauses[0].Reads[1].Subject)

	delete(facts, flannel)
	r = list[0].Weigh(node(facts), dropsite)
	require.Equal(t, signature.TruthUnknown, r.Clauses[0].Truth)
	require.Contains(t, r.Clauses[0].Detail, "the device that this dropsite belongs to is not reported")
}

func TestAWindowMakesOldFactsUnknown(t *testing.T) {
	s := parts(t, "  evidence:\n    - {id: young, bans: 1.0, claim: c, window: 30s, expr: 'link.mtu_bytes > 1'}\n    - {id: any, bans: 1.0, claim: c, expr: 'link.mtu_bytes > 1'}"+noProof)
	for age, truth := range map[time.Duration]signature.Truth{0: signature.True, 30 * time.Second: signature.True, 31 * time.Second: signature.TruthUnknown} {
		r := s.Weigh(device(items{uint32(evidence.LinkMTUBytes): aged(int64(1500), age)}), flannel)
		require.Equal(t, truth, r.Clauses[0].Truth, "%s", age)
		require.Equal(t, signature.True, r.Clauses[1].Truth)
		if truth == signature.TruthUnknown {
			require.Equal(t, "link.mtu_bytes is unknown (stale): 31s old, the window is 30s", r.Clauses[0].Detail)
			require.Equal(t, evidence.Stale, r.Clauses[0].Reads[0].Fact.Reason)
		}
	}
}

func TestOfAFamilyTheStrongestCounts(t *testing.T) {
	s := parts(t, `  evidence:
    - {id: a, bans: 0.7, claim: c, expr: 'link.mtu_bytes > 1'}
    - {id: b, bans: 0.9, claim: c, expr: 'link.mtu_bytes > 2'}
    - {id: c, bans: 0.3, claim: c, expr: 'link.mtu_bytes > 3'}
    - {id: d, bans: -0.2, claim: c, expr: 'link.mtu_bytes > 4'}
  families: [[a, b]]`+noProof)
	for mtu, want := range map[int64][]float64{1: {0, 0, 0, 0}, 2: {0.7, 0, 0, 0}, 3: {0, 0.9, 0, 0}, 4: {0, 0.9, 0.3, 0}, 5: {0, 0.9, 0.3, -0.2}} {
		r := s.Weigh(device(items{uint32(evidence.LinkMTUBytes): value(mtu)}), flannel)
		sum := 0.0
		for i, w := range want {
			require.Equal(t, w, r.Clauses[i].Bans, "mtu %d clause %d", mtu, i)
			sum += w
		}
		require.InDelta(t, sum, r.Bans, 1e-9)
		require.Equal(t, sum >= 1, r.Grade == signature.Suspected, "%v", r.Bans)
	}
}

// graded is a signature with everything that moves a grade.
const graded = `  evidence:
    - {id: needed, bans: 1.0, required: true, claim: c, otherwise: it is down, expr: link.up}
    - {id: big, bans: 1.0, claim: c, otherwise: it is small, expr: link.mtu_bytes > 1450}
    - {id: drops, bans: 0.5, claim: c, otherwise: nothing was dropped, expr: oversize.encapsulated_drops_window > 0}
  proof:
    - {name: both, all: [needed, big, drops]}
  refuters:
    - {id: metadata, expr: link.collect_metadata, rival: per packet, because: it takes its remote per packet, exonerates: fixed}
    - {id: spike, expr: link.remotes < 2, rival: a spike, because: one remote only, exonerates: many, atMost: suspected}
  rungCaps: [{item: link.mtu_bytes, rungPrefix: sysfs, grade: likely, because: sysfs is late}]
`

func TestGrades(t *testing.T) {
	up, mtu, drops := uint32(evidence.LinkUp), uint32(evidence.LinkMTUBytes), uint32(evidence.OversizeEncapsulatedDropsWindow)
	metadata, remotes := uint32(evidence.LinkCollectMetadata), uint32(evidence.LinkRemotes)
	s := parts(t, graded)
	sysfs := value(int64(1500))
	sysfs.Rung = "sysfs/mtu"
	for _, tc := range []struct {
		name    string
		change  items
		grade   signature.Grade
		reason  string
		missing []string
	}{
		{"everything holds", nil, signature.Proven, "", nil},
		{"a proof clause is false", items{drops: value(int64(0))}, signature.Likely, "not proven: nothing was dropped", nil},
		{"a proof clause is unknown", items{drops: blind("no BPF")}, signature.Likely, "not proven: oversize.encapsulated_drops_window is unknown (blind): no BPF", []string{"oversize.encapsulated_drops_window"}},
		{"a proof clause is not applicable", items{drops: none("no overlay")}, signature.Likely, "not proven: drops is not applicable: oversize.encapsulated_drops_window is not applicable: no overlay", nil},
		{"two clauses are missing", items{drops: value(int64(0)), mtu: value(int64(1400))}, signature.Suspected, "not proven: it is small; nothing was dropped", nil},
		{"a refuter is true", items{metadata: value(true)}, signature.Refuted, "it takes its remote per packet", nil},
		{"a refuter is unknown", items{metadata: blind("why")}, signature.Likely, "not proven: whether per packet explains it cannot be decided: link.collect_metadata is unknown (blind): why", []string{"link.collect_metadata"}},
		{"a refuter is not applicable", items{metadata: none("no tunnel")}, signature.Proven, "", nil},
		{"a limiting refuter is true", items{remotes: value(int64(1))}, signature.Suspected, "not proven: one remote only", nil},
		{"a limiting refuter is unknown", items{remotes: blind("")}, signature.Suspected, "not proven: whether a spike explains it cannot be decided: link.remotes is unknown (blind)", []string{"link.remotes"}},
		{"a lesser hook measured it", items{mtu: sysfs}, signature.Likely, "not proven: sysfs is late", nil},
		{"what is required is false", items{up: value(false)}, signature.None, "it is down", nil},
		{"what is required is false and a refuter true", items{up: value(false), metadata: value(true)}, signature.None, "it is down", nil},
		{"what is required is unknown", items{up: blind("why")}, signature.Suspected, "not proven: link.up is unknown (blind): why", []string{"link.up"}},
		{"a refuter without anything to refute", items{metadata: value(true), up: blind(""), mtu: value(int64(1)), drops: value(int64(0))}, signature.None, "it is small", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			facts := items{up: value(true), mtu: value(int64(1500)), drops: value(int64(3)), metadata: value(false), remotes: value(int64(2))}
			for id, f := range tc.change {
				facts[id] = f
			}
			r := s.Weigh(device(facts), flannel)
			require.Equal(t, tc.grade.String(), r.Grade.String(), r.Reason)
			require.Equal(t, tc.reason, r.Reason)
			var missing []string
			for _, m := range r.Missing {
				missing = append(missing, m.Item.Name)
			}
			require.Equal(t, tc.missing, missing)
			require.Equal(t, tc.grade == signature.Proven, r.ProofSet == "both")
			require.Equal(t, tc.grade == signature.Proven, r.Clauses[2].Decisive)
		})
	}
}

func TestWithoutAPossibleProofItStaysLikely(t *testing.T) {
	s := parts(t, "  noProof: the disk of a managed control plane cannot be seen\n  evidence:\n    - {id: c, bans: 2, claim: c, expr: link.up}\n")
	r := s.Weigh(device(items{uint32(evidence.LinkUp): value(true)}), flannel)
	require.Equal(t, signature.Likely, r.Grade)
	require.Equal(t, "not proven: cannot be proven: the disk of a managed control plane cannot be seen", r.Reason)
}

func TestSourcesNeedTwoThatAgree(t *testing.T) {
	s := parts(t, "  evidence:\n    - {id: c, bans: 1, claim: c, expr: clock.offset_at_least_seconds > 0.5}\n  proof: [{name: groups, all: [c], sources: clock.groups_agreeing}]\n")
	for n, grade := range map[any]signature.Grade{int64(1): signature.Suspected, int64(2): signature.Proven, "two": signature.Suspected} {
		r := s.Weigh(node(map[evidence.Subject]items{flannel: {}, evidence.Node(): {
			uint32(evidence.ClockOffsetAtLeastSeconds): value(1.0), uint32(evidence.ClockGroupsAgreeing): value(n),
		}}), flannel)
		require.Equal(t, grade, r.Grade, "%v: %s", n, r.Reason)
	}
}

func TestWhenChoosesSubjects(t *testing.T) {
	s := parts(t, "  when: link.role == \"overlay\"\n"+clause("link.up"))
	role := uint32(evidence.LinkRole)
	other := evidence.Subject{Kind: evidence.SubjectDevice, Key: "a/1", Name: "eth0"}
	third := evidence.Subject{Kind: evidence.SubjectDevice, Key: "z/9", Name: "veth1"}
	view := node(map[evidence.Subject]items{flannel: {role: value("overlay")}, other: {role: value("underlay")}, third: {role: none("gone")}})
	require.Equal(t, []evidence.Subject{flannel}, s.Subjects(view))

	view = node(map[evidence.Subject]items{flannel: {role: blind("why"), uint32(evidence.LinkUp): value(true)}})
	require.Equal(t, []evidence.Subject{flannel}, s.Subjects(view))
	r := s.Weigh(view, flannel)
	require.Equal(t, signature.None, r.Grade)
	require.True(t, r.Undecided)
	require.Equal(t, "cannot be decided whether it applies: link.role is unknown (blind): why", r.Reason)
	require.Equal(t, "link.role", r.Missing[0].Item.Name)
}

func TestSentencesCarryNumbersAndSums(t *testing.T) {
	s := parts(t, "  evidence:\n    - {id: c, bans: 1, claim: '{link.mtu_bytes + link.overhead_bytes} of {link.type}, {link.learned_path_mtu_bytes}, {link.route_mtu_bytes + 1}', expr: link.mtu_bytes + link.overhead_bytes > 1500}"+noProof)
	r := s.Weigh(device(items{
		uint32(evidence.LinkMTUBytes): value(int64(1500)), uint32(evidence.LinkOverheadBytes): value(int64(50)),
		uint32(evidence.LinkType): value("vx\nlan\x1b[31m"), uint32(evidence.LinkLearnedPathMTUBytes): none(""),
	}), flannel)
	require.Equal(t, "1550 of vx lan [31m, not applicable, unknown", r.Clauses[0].Claim)
	require.Equal(t, []signature.Step{{Expression: "link.mtu_bytes + link.overhead_bytes", Value: int64(1550)}}, r.Clauses[0].Steps)
	require.Equal(t, "flannel.1 in zone-a: 1500", r.Summary)
	r = s.Weigh(device(items{uint32(evidence.LinkMTUBytes): value(int64(1400)), uint32(evidence.LinkOverheadBytes): value(int64(50)), uint32(evidence.LinkType): value("vxlan")}), flannel)
	require.True(t, strings.HasPrefix(r.Clauses[0].Claim, "not so: 1450 of vxlan"), r.Clauses[0].Claim)
}

func TestWeighingIsPureAndConcurrent(t *testing.T) {
	s := parts(t, graded)
	view := device(items{uint32(evidence.LinkUp): value(true), uint32(evidence.LinkMTUBytes): value(int64(1500))})
	want := s.Weigh(view, flannel)
	done := make(chan signature.Result)
	for range 8 {
		go func() { done <- s.Weigh(view, flannel) }()
	}
	for range 8 {
		require.Equal(t, want, <-done)
	}
}
