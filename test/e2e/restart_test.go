// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// episodes returns the durable episodes by id.
func (c *cluster) episodes() map[string]*apiv1.Episode {
	c.t.Helper()
	out, errOut, status := c.plumb("episodes", "--json")
	require.NotEqual(c.t, 2, status, "%s", errOut)
	var list apiv1.ListEpisodesResponse
	require.NoError(c.t, protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal([]byte(out), &list), out)
	byID := map[string]*apiv1.Episode{}
	for _, e := range list.GetEpisodes() {
		byID[e.GetId()] = e
	}
	return byID
}

// only returns the one verdict of a signature on a node and fails if there are
// more.
func (c *cluster) only(signature, node string) *apiv1.Verdict {
	c.t.Helper()
	var found []*apiv1.Verdict
	for _, v := range c.verdicts() {
		if v.GetSignature() == signature && len(v.GetScope().GetNodes()) == 1 && v.GetScope().GetNodes()[0] == node {
			found = append(found, v)
		}
	}
	require.LessOrEqual(c.t, len(found), 1, "a duplicate verdict")
	if len(found) == 0 {
		return nil
	}
	return found[0]
}

func TestKillingEitherProcessLosesNothing(t *testing.T) {
	c := newCluster(t)
	c.overlay(1500, "set")
	c.startAggregator()
	c.startAgent("n1")
	c.stallingTransfer()

	// The first kill comes while the first episode is on its way: whatever was
	// acknowledged by then must come back.
	testutils.Eventually(t, 20*time.Second, "the first episode is durable", func() bool { return len(c.episodes()) > 0 })
	acknowledged := c.episodes()
	c.aggregatorProcess.Kill()
	c.startAggregator()
	for id := range acknowledged {
		require.Contains(t, c.episodes(), id, "an acknowledged episode is lost")
	}

	v := c.waitGrade(20*time.Second, mismatch, "n1", "proven")
	for range 3 {
		acknowledged = c.episodes()
		c.aggregatorProcess.Kill()
		c.startAggregator()
		back := c.only(mismatch, "n1")
		require.NotNil(t, back, "the verdict vanished")
		require.Equal(t, v.GetId(), back.GetId())
		require.Equal(t, v.GetOnset().AsTime(), back.GetOnset().AsTime(), "the onset moved")
		require.Contains(t, []string{"stale", "firing"}, back.GetState())
		for id := range acknowledged {
			require.Contains(t, c.episodes(), id, "an acknowledged episode is lost")
		}
		testutils.Eventually(t, 20*time.Second, "fresh evidence confirms it", func() bool {
			return c.only(mismatch, "n1").GetState() == "firing"
		})
	}

	for range 2 {
		c.agents["n1"].Kill()
		c.startAgent("n1")
		testutils.Eventually(t, 40*time.Second, "the verdict fires on what the new agent sees", func() bool {
			back := c.only(mismatch, "n1")
			require.NotNil(t, back, "the verdict vanished")
			require.NotEqual(t, "resolved", back.GetState(), "an agent that has not looked yet must not resolve anything")
			require.Equal(t, v.GetId(), back.GetId())
			require.Equal(t, v.GetOnset().AsTime(), back.GetOnset().AsTime(), "the onset moved")
			return back.GetState() == "firing" && back.GetGrade() == "proven" && back.GetUpdatedAt().AsTime().After(v.GetUpdatedAt().AsTime())
		})
		v = c.only(mismatch, "n1")
	}
}

func TestAnAgentThatIsGoneMakesItsVerdictStaleNotResolved(t *testing.T) {
	c := newCluster(t)
	c.overlay(1500, "set")
	c.startAggregator("--interval", "2s")
	c.startAgent("n1", "--push-interval", "2s")
	c.stallingTransfer()
	v := c.waitGrade(20*time.Second, mismatch, "n1", "proven")
	c.agents["n1"].Kill()
	testutils.Eventually(t, 30*time.Second, "the verdict is stale", func() bool {
		back := c.only(mismatch, "n1")
		require.NotNil(t, back)
		require.NotEqual(t, "resolved", back.GetState())
		return back.GetState() == "stale"
	})
	require.Equal(t, v.GetOnset().AsTime(), c.only(mismatch, "n1").GetOnset().AsTime())
}

func TestAVerdictResolvesWhenTheFaultIsMended(t *testing.T) {
	c := newCluster(t)
	c.overlay(1500, "set")
	c.startAggregator()
	c.startAgent("n1")
	c.stallingTransfer()
	v := c.waitGrade(20*time.Second, mismatch, "n1", "proven")
	for _, m := range c.nodes {
		m.IP("link set flannel.1 mtu 1450")
	}
	testutils.Eventually(t, 90*time.Second, "the verdict is resolved", func() bool {
		return c.only(mismatch, "n1").GetState() == "resolved"
	})
	require.Equal(t, v.GetId(), c.only(mismatch, "n1").GetId())
	// What followed from it clears by itself, too.
	testutils.Eventually(t, 60*time.Second, "no proven verdict is firing", func() bool {
		_, _, status := c.plumb("verdicts")
		return status == 0
	})
}
