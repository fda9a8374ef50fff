// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	enginepkg "github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
	"github.com/plumb-dev/plumb/signatures"
)

// devices of a node with 110 pods: two ends each, and a few of its own.
const devices = 222

func value(v any) state.Fact {
	return state.Fact{Status: state.Value, Value: v, ObservedAt: time.Unix(1e9, 0)}
}

// fact is a plausible value of an item.
func fact(info evidence.ItemInfo) state.Fact {
	switch info.Type {
	case evidence.TypeInteger:
		return value(int64(1500))
	case evidence.TypeNumber:
		return value(3.5)
	case evidence.TypeFlag:
		return value(false)
	default:
		return value("vxlan")
	}
}

// busyNode reports every item of a node, 222 devices of which one is an
// overlay with drops, and one drop site.
func busyNode() *state.View {
	facts := map[evidence.Subject]map[uint32]state.Fact{}
	fill := func(s evidence.Subject) map[uint32]state.Fact {
		m := map[uint32]state.Fact{}
		for _, info := range evidence.NewCatalog().Items() {
			if info.Subject == s.Kind {
				m[info.ID] = fact(info)
			}
		}
		facts[s] = m
		return m
	}
	fill(evidence.Node())
	for i := range devices {
		m := fill(evidence.Subject{Kind: evidence.SubjectDevice, Key: fmt.Sprintf("4026531840/%d", i), Name: fmt.Sprintf("veth%d", i)})
		m[uint32(evidence.LinkRole)] = value("port")
		if i == devices/2 {
			m[uint32(evidence.LinkRole)] = value("overlay")
			m[uint32(evidence.LinkOverheadBytes)] = value(int64(50))
			m[uint32(evidence.OversizeEncapsulatedLengthMaxBytes)] = value(int64(1550))
		}
	}
	m := fill(evidence.Subject{Kind: evidence.SubjectDropsite, Key: "site", Name: "site", ParentKey: "4026531840/3"})
	m[uint32(evidence.OversizeLimitBytes)] = value(int64(1400))
	return state.NewView(state.NodeInfo{Name: "node-a"}, time.Unix(1e9, 0), facts)
}

func BenchmarkWeigh(b *testing.B) {
	list, err := enginepkg.LoadBuiltin(signatures.FS, evidence.NewCatalog())
	require.NoError(b, err)
	view := busyNode()
	for _, s := range list {
		b.Run(s.ID, func(b *testing.B) {
			subjects := s.Subjects(view)
			require.NotEmpty(b, subjects)
			b.ReportAllocs()
			for b.Loop() {
				s.Weigh(view, subjects[0])
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "weighs/s")
		})
	}
}

// BenchmarkSubjects is the choice of subjects among the devices of a node.
func BenchmarkSubjects(b *testing.B) {
	list, err := enginepkg.LoadBuiltin(signatures.FS, evidence.NewCatalog())
	require.NoError(b, err)
	view := busyNode()
	for _, s := range list {
		b.Run(s.ID, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Subjects(view)
			}
		})
	}
}

// BenchmarkNode is all that one batch of a node makes the engine do.
func BenchmarkNode(b *testing.B) {
	list, err := enginepkg.LoadBuiltin(signatures.FS, evidence.NewCatalog())
	require.NoError(b, err)
	view := busyNode()
	b.ReportAllocs()
	for b.Loop() {
		for _, s := range list {
			for _, subject := range s.Subjects(view) {
				s.Weigh(view, subject)
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "nodes/s")
}

func BenchmarkLoad(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_, err := enginepkg.LoadBuiltin(signatures.FS, evidence.NewCatalog())
		require.NoError(b, err)
	}
}
