// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
)

func TestWhatDoesNotFitIntoOneBatchFollowsAtOnce(t *testing.T) {
	f := newFixture(t)
	var all []*evidencev1.Observation
	for i := range 300 {
		all = append(all, &evidencev1.Observation{
			Probe: "link", Subject: &evidencev1.Subject{Kind: "device", Key: fmt.Sprint(i)},
			Items: []*evidencev1.Item{{Id: 102, State: &evidencev1.Item_Text{Text: strings.Repeat("x", 5000)}}},
		})
	}
	tooLarge := &evidencev1.Observation{Probe: "link", Subject: &evidencev1.Subject{Kind: "device", Key: "huge"},
		Items: []*evidencev1.Item{{Id: 102, State: &evidencev1.Item_Text{Text: strings.Repeat("x", maxBatchObservations)}}}}
	f.ledger.Replace("link", append(all, tooLarge))
	c, err := New(f.cfg)
	require.NoError(t, err)
	for i := range 100 {
		e := episode(fmt.Sprintf("e%d", i))
		e.Items = []*evidencev1.Item{{Id: 102, State: &evidencev1.Item_Text{Text: strings.Repeat("y", 10000)}}}
		c.episodes.add(mustMarshal(t, e))
	}
	// A ring of 256 KiB cannot hold them; those that it dropped are counted.
	dropped := int(c.Status().Endpoints[0].DroppedEpisodes)
	require.NotZero(t, dropped)
	runClient(t, c)
	got := f.waitBatches(t, 3)
	testutils.Eventually(t, 10*time.Second, "the episodes", func() bool { return c.episodes.waiting(0) == 0 })
	subjects := map[string]int{}
	for i, r := range got {
		b := r.GetBatch()
		require.Less(t, proto.Size(r), 1<<20)
		require.EqualValues(t, i+1, b.GetSequence())
		require.Equal(t, i == 0, b.GetKind() == evidencev1.Batch_FULL)
		for _, o := range b.GetObservations() {
			subjects[o.GetSubject().GetKey()]++
		}
	}
	require.Len(t, subjects, 300)
	require.NotContains(t, subjects, "huge")
	f.server.set(func() { require.Len(t, f.server.episodes, 100-dropped) })
	require.EqualValues(t, 1, testutil.ToFloat64(c.metrics.observations))
	require.Contains(t, f.logs.String(), "larger than a batch may be")
}

func mustMarshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	require.NoError(t, err)
	return data
}

func TestOneEpisodeThatIsRefusedDoesNotHoldUpTheOthers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.server.answer = func(r *evidencev1.PushRequest) (*evidencev1.PushResponse, error, bool) {
		for _, e := range r.GetBatch().GetEpisodes() {
			if e.GetId() == "bad" {
				return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("episode has no condition")), true
			}
		}
		return nil, nil, false
	}
	c, err := New(f.cfg)
	require.NoError(t, err)
	for _, id := range []string{"e1", "e2", "bad", "e3", "e4"} {
		c.Episode(episode(id))
	}
	runClient(t, c)
	testutils.Eventually(t, 20*time.Second, "the good ones", func() bool { return c.episodes.waiting(0) == 0 })
	for _, id := range []string{"e1", "e2", "e3", "e4"} {
		require.Equal(t, 1, f.server.times(id), id)
	}
	require.EqualValues(t, 1, c.Status().Endpoints[0].DroppedEpisodes)
	require.Contains(t, f.logs.String(), "dropped an episode that the aggregator refuses")
}

func TestABusyAggregatorKeepsTheConnection(t *testing.T) {
	f := newFixture(t)
	calls := 0
	f.server.answer = func(r *evidencev1.PushRequest) (*evidencev1.PushResponse, error, bool) {
		if calls++; calls <= 3 || calls == 5 {
			return nil, connect.NewError(connect.CodeResourceExhausted, errors.New("the bus is full")), true
		}
		return nil, nil, false
	}
	c, _ := f.run(t)
	got := f.waitBatches(t, 1)
	require.EqualValues(t, 4, got[0].GetBatch().GetSequence())
	require.Equal(t, evidencev1.Batch_FULL, got[0].GetBatch().GetKind())
	// The fifth call is a DELTA that is refused; what follows is not built on it.
	testutils.Eventually(t, 5*time.Second, "the acknowledgement", func() bool { return c.Status().Endpoints[0].AckedSequence == 4 })
	c.Wake()
	got = f.waitBatches(t, 2)
	require.EqualValues(t, 6, got[1].GetBatch().GetSequence())
	require.Equal(t, evidencev1.Batch_FULL, got[1].GetBatch().GetKind())
	f.server.set(func() { require.Len(t, f.server.accepted, 1) })
	require.EqualValues(t, 4, testutil.ToFloat64(c.metrics.failures.WithLabelValues(c.endpoints[0].name, "resource_exhausted")))
}

func TestAnEpisodeThatIsTooLargeIsDroppedAndCounted(t *testing.T) {
	f := newFixture(t)
	c, err := New(f.cfg)
	require.NoError(t, err)
	defer c.close()
	e := episode("huge")
	e.Condition = strings.Repeat("x", maxEpisodeBytes)
	c.Episode(e)
	require.EqualValues(t, 1, c.Status().Endpoints[0].DroppedEpisodes)
	require.Contains(t, f.logs.String(), "dropped an episode that cannot be sent")
}

func TestAStoppingAgentHandsOverWhatItHas(t *testing.T) {
	f := newFixture(t)
	c, stop := f.run(t)
	f.waitBatches(t, 1)
	f.server.set(func() {
		f.server.answer = func(r *evidencev1.PushRequest) (*evidencev1.PushResponse, error, bool) {
			// Busy until the agent stops: its FULL batches are refused.
			f.server.mu.Lock()
			defer f.server.mu.Unlock()
			return nil, connect.NewError(connect.CodeResourceExhausted, errors.New("busy")), f.server.needFull
		}
		f.server.needFull = true
	})
	c.Episode(episode("last words"))
	testutils.Eventually(t, 5*time.Second, "the refusal", func() bool { return c.Status().Endpoints[0].LastErrorReason == "resource_exhausted" })
	f.server.set(func() { f.server.needFull = false })
	stop()
	require.Equal(t, 1, f.server.times("last words"))
}

func TestTheCAIsReadAgain(t *testing.T) {
	f := newFixture(t)
	f.cfg.CAPEM, f.cfg.CAFile = nil, filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(f.cfg.CAFile, f.ca.pem(), 0o600))
	c, _ := f.run(t)
	f.waitBatches(t, 1)
	// The aggregator gets a certificate of a new CA; the bundle comes later.
	next := newCA(t, around(time.Now(), 24*time.Hour))
	f.server.stop()
	f.server.cert = next.issue(t, around(time.Now(), time.Hour))
	f.server.start()
	testutils.Eventually(t, 5*time.Second, "the refusal", func() bool { return c.Status().Endpoints[0].LastErrorReason == "tls" })
	require.NoError(t, os.WriteFile(f.cfg.CAFile, []byte("half a fi"), 0o600))
	testutils.Eventually(t, 5*time.Second, "the notice", func() bool { return strings.Contains(f.logs.String(), "cannot read the CA again") })
	require.NoError(t, os.WriteFile(f.cfg.CAFile, append(f.ca.pem(), next.pem()...), 0o600))
	f.waitBatches(t, 2)
}

func TestNothingStaysOpenAfterManyReconnects(t *testing.T) {
	f := newFixture(t)
	f.cfg.SpoolDir = t.TempDir()
	f.cfg.ReconnectSpread = time.Millisecond
	c, stop := f.run(t)
	f.waitBatches(t, 1)
	cut := func(times int) {
		for i := range times {
			n := len(f.server.got())
			f.server.stop()
			f.server.start()
			c.Episode(episode(fmt.Sprint(i)))
			f.waitBatches(t, n+1)
		}
	}
	cut(3)
	before := openFiles(t)
	cut(20)
	// The runtime may hold one or two more for itself at any moment.
	testutils.Eventually(t, 5*time.Second, "closed files", func() bool { return openFiles(t) <= before+2 })
	stop()
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

func TestMetricsAreRegisteredOnceAndReleased(t *testing.T) {
	f := newFixture(t)
	registry := prometheus.NewPedanticRegistry()
	f.cfg.Registerer = registry
	c, stop := f.run(t)
	f.waitBatches(t, 1)
	testutils.Eventually(t, time.Second, "the acknowledgement", func() bool { return c.Status().Endpoints[0].AckedSequence == 1 })
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)
	endpoint := c.endpoints[0].name
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(fmt.Sprintf(`
# HELP plumb_agent_uplink_connected 1 while the endpoint is connected.
# TYPE plumb_agent_uplink_connected gauge
plumb_agent_uplink_connected{endpoint=%[1]q} 1
# HELP plumb_agent_uplink_tls_time_source_info 1 for the time at which the endpoint's certificate was verified.
# TYPE plumb_agent_uplink_tls_time_source_info gauge
plumb_agent_uplink_tls_time_source_info{endpoint=%[1]q,source="node_clock"} 1
`, endpoint)), "plumb_agent_uplink_connected", "plumb_agent_uplink_tls_time_source_info"))
	_, err = New(f.cfg)
	require.ErrorContains(t, err, "register uplink metrics")
	stop()
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Empty(t, families)
}
