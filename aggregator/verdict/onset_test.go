// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/signatures"
)

// The shipped signature reads a counter of the whole node (FragFails). A flow that
// has stalled on a pod's port for long is none of the overlay's trouble.
func TestOnsetOfAnOverlayIsNotThatOfAnotherDevicesStall(t *testing.T) {
	loaded, err := signature.Load(signatures.FS, evidence.NewCatalog())
	require.NoError(t, err)
	b := newBench(t, func(_ *bench, c *Config) { c.Rules = Rules(loaded) })

	overlay := evidence.Subject{Kind: evidence.SubjectDevice, Key: "1/5", Name: "flannel.1"}
	port := evidence.Subject{Kind: evidence.SubjectDevice, Key: "1/7", Name: "veth7"}
	stalled := evidence.Subject{Kind: evidence.SubjectDropsite, Key: "1/7/br_dev_queue_push_xmit/ipv4/", Name: "br_dev_queue_push_xmit on veth7", ParentKey: port.Key}
	integer := func(id evidence.IntegerID, v int64) *evidencev1.Item {
		return &evidencev1.Item{Id: uint32(id), State: &evidencev1.Item_Integer{Integer: v}}
	}
	text := func(id evidence.TextID, v string) *evidencev1.Item {
		return &evidencev1.Item{Id: uint32(id), State: &evidencev1.Item_Text{Text: v}}
	}
	observe := func(probe string, s evidence.Subject, items ...*evidencev1.Item) *evidencev1.Observation {
		return &evidencev1.Observation{Probe: probe, Subject: s.Proto(), ObservedBoottimeNanoseconds: b.boottime(), Items: items}
	}
	const longAgo, moment = 10 * time.Minute, 2 * time.Second
	episode := func(id, condition string, s evidence.Subject, ago time.Duration) *evidencev1.Episode {
		return &evidencev1.Episode{Id: id, Condition: condition, BootId: b.boot, Subject: s.Proto(), OnsetBoottimeNanoseconds: b.boottime() - uint64(ago)}
	}
	batch := &evidencev1.Batch{
		NodeUid: "uid-n1", BootId: b.boot, Sequence: 1, Kind: evidencev1.Batch_FULL,
		OpenEpisodeIds: []string{"old", "new"},
		Episodes: []*evidencev1.Episode{
			episode("old", evidence.ConditionOversizeStalledFlow, stalled, longAgo),
			episode("new", evidence.ConditionOversizeEncapsulatedDrops, overlay, moment),
		},
		Observations: []*evidencev1.Observation{
			observe("oversize", evidence.Node(), integer(evidence.OversizeFragmentFailuresWindow, 4), integer(evidence.OversizeOuterFragmentsWindow, 0)),
			observe("link", overlay, text(evidence.LinkRole, "overlay"), integer(evidence.LinkMTUBytes, 1500), integer(evidence.LinkOverheadBytes, 50),
				integer(evidence.LinkUnderlayMTUBytes, 1500), text(evidence.LinkUnderlayDevice, "eth0")),
			observe("oversize", overlay, integer(evidence.OversizeEncapsulatedDropsWindow, 4), integer(evidence.OversizeEncapsulatedLengthMaxBytes, 1550)),
			observe("link", port, text(evidence.LinkRole, "port"), text(evidence.LinkType, "veth"), integer(evidence.LinkMTUBytes, 1400)),
			observe("oversize", stalled, integer(evidence.OversizeDropsWindow, 9)),
		},
	}
	for _, probe := range []string{"link", "oversize"} {
		batch.Probes = append(batch.Probes, &evidencev1.ProbeStatus{Name: probe, State: evidencev1.ProbeStatus_OK, Interval: durationpb.New(10 * time.Second), SampledBoottimeNanoseconds: b.boottime()})
	}
	_, err = b.state.Apply(b.info("n1"), b.now, &evidencev1.PushRequest{Batch: batch, SentBoottimeNanoseconds: b.boottime()})
	require.NoError(t, err)
	b.engine.evaluate(context.Background(), "n1")
	list := b.engine.Verdicts(Filter{Signature: "network/mtu-overlay-mismatch"})
	require.Len(t, list, 1)
	require.Equal(t, epoch.Add(-moment), list[0].GetOnset().AsTime())
}
