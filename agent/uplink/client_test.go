// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/agent/ledger"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childSpool); dir != "" {
		os.Exit(child(dir))
	}
	goleak.VerifyTestMain(m)
}

// A lockedBuffer collects log lines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A fixture is a CA, valid now, with a server of it and a client's configuration.
type fixture struct {
	ca     *testCA
	server *testServer
	ledger *ledger.Ledger
	logs   *lockedBuffer
	cfg    Config
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ca := newCA(t, around(time.Now(), 24*time.Hour))
	f := &fixture{ca: ca, server: newServer(t, ca.issue(t, around(time.Now(), time.Hour)))}
	f.config(t)
	return f
}

func (f *fixture) config(t *testing.T) {
	f.ledger, f.logs = ledger.New(), &lockedBuffer{}
	f.cfg = Config{
		Endpoints: []string{f.server.url()}, CAPEM: f.ca.pem(), TokenFile: tokenFile(t),
		Source: f.ledger, Clock: hostclock.New(), BootID: "kernel/1", NodeName: "n1", Version: "v0",
		BuildTime: time.Now(), Interval: time.Hour, FullInterval: time.Hour, ReconnectSpread: 100 * time.Millisecond,
		Log: slog.New(slog.NewJSONHandler(f.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// run starts a client and returns a function that stops it and waits.
func (f *fixture) run(t *testing.T) (*Client, func()) {
	t.Helper()
	c, err := New(f.cfg)
	require.NoError(t, err)
	return c, runClient(t, c)
}

func runClient(t *testing.T, c *Client) func() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			require.NoError(t, err)
		case <-time.After(10 * time.Second):
			t.Error("Run does not return")
		}
	})
	t.Cleanup(stop)
	return stop
}

func (f *fixture) waitBatches(t *testing.T, n int) []*evidencev1.PushRequest {
	t.Helper()
	testutils.Eventually(t, 10*time.Second, fmt.Sprintf("%d batches", n), func() bool { return len(f.server.got()) >= n })
	return f.server.got()
}

// observe changes one fact about a device.
func (f *fixture) observe(name string, value int64) {
	f.ledger.Replace("link", []*evidencev1.Observation{observation(name, value)})
}

func observation(name string, value int64) *evidencev1.Observation {
	return &evidencev1.Observation{
		Probe: "link", Subject: &evidencev1.Subject{Kind: "device", Key: name, Name: name},
		Items: []*evidencev1.Item{{Id: 100, State: &evidencev1.Item_Integer{Integer: value}}},
	}
}

func episode(id string) *evidencev1.Episode {
	return &evidencev1.Episode{Id: id, Condition: "oversize.dropping", Subject: evidence.Node().Proto(), OnsetBoottimeNanoseconds: 1}
}

func TestBatchesFollowTheProtocol(t *testing.T) {
	f := newFixture(t)
	f.observe("eth0", 1500)
	f.ledger.SetProbe(&evidencev1.ProbeStatus{Name: "link", State: evidencev1.ProbeStatus_OK})
	f.ledger.SetOpen("open-1", true)
	var zone string
	zones := make(chan string, 4)
	f.cfg.OnZone = func(z string) { zones <- z }
	c, stop := f.run(t)

	first := f.waitBatches(t, 1)[0]
	b := first.GetBatch()
	require.Equal(t, evidencev1.Batch_FULL, b.GetKind())
	require.EqualValues(t, 1, b.GetSequence())
	require.EqualValues(t, evidence.SchemaVersion, b.GetSchemaVersion())
	require.Equal(t, "uid-1", b.GetNodeUid())
	require.Equal(t, "kernel/1", b.GetBootId())
	require.Len(t, b.GetObservations(), 1)
	require.Len(t, b.GetProbes(), 1)
	require.Equal(t, []string{"open-1"}, b.GetOpenEpisodeIds())
	require.Equal(t, evidencev1.TLSTime_NODE_CLOCK, b.GetAgent().GetTlsTime().GetSource())
	require.Equal(t, "n1", b.GetAgent().GetNodeName())
	require.NotEmpty(t, b.GetAgent().GetKernelRelease())
	require.NotZero(t, b.GetAgent().GetRssBytes())
	require.InDelta(t, hostclock.New().Boottime(), first.GetSentBoottimeNanoseconds(), 5e9)
	zone = <-zones
	require.Equal(t, "zone-a", zone)

	f.ledger.Replace("link", []*evidencev1.Observation{observation("eth1", 9000)})
	c.Episode(episode("e1"))
	second := f.waitBatches(t, 2)[1].GetBatch()
	require.Equal(t, evidencev1.Batch_DELTA, second.GetKind())
	require.EqualValues(t, 2, second.GetSequence())
	require.Len(t, second.GetObservations(), 1)
	require.Equal(t, "eth1", second.GetObservations()[0].GetSubject().GetKey())
	require.Len(t, second.GetRemoved(), 1)
	require.Equal(t, "eth0", second.GetRemoved()[0].GetKey())
	require.Len(t, second.GetProbes(), 1)
	require.Empty(t, second.GetOpenEpisodeIds())
	require.Len(t, second.GetEpisodes(), 1)
	require.Equal(t, "kernel/1", second.GetEpisodes()[0].GetBootId())

	// What was acknowledged is neither repeated nor remembered.
	testutils.Eventually(t, time.Second, "the acknowledgement", func() bool { return c.Status().Endpoints[0].AckedSequence == 2 })
	c.Wake()
	third := f.waitBatches(t, 3)[2].GetBatch()
	require.Equal(t, evidencev1.Batch_DELTA, third.GetKind())
	require.Empty(t, third.GetObservations())
	require.Empty(t, third.GetRemoved())
	require.Empty(t, third.GetEpisodes())
	require.Zero(t, c.Status().Endpoints[0].PendingEpisodes)
	require.True(t, c.Status().Connected())
	stop()
	require.False(t, c.Status().Connected())
}

func TestEveryIntervalADeltaAndEveryFullIntervalAFull(t *testing.T) {
	f := newFixture(t)
	f.cfg.Interval, f.cfg.FullInterval = 20*time.Millisecond, 100*time.Millisecond
	f.run(t)
	var kinds []evidencev1.Batch_Kind
	for _, r := range f.waitBatches(t, 20) {
		kinds = append(kinds, r.GetBatch().GetKind())
	}
	deltas, fulls := 0, 0
	for _, k := range kinds {
		if k == evidencev1.Batch_FULL {
			fulls++
		} else {
			deltas++
		}
	}
	require.Equal(t, evidencev1.Batch_FULL, kinds[0])
	require.GreaterOrEqual(t, fulls, 3)
	require.Greater(t, deltas, fulls)
}

func TestWakeUpsInQuickSuccessionMakeOneBatch(t *testing.T) {
	f := newFixture(t)
	c, stop := f.run(t)
	f.waitBatches(t, 1)
	began := time.Now()
	for i := 0; time.Since(began) < 3*minSpacing; i++ {
		c.Wake()
	}
	f.waitBatches(t, 3)
	stop()
	require.LessOrEqual(t, len(f.server.got()), 2+int(time.Since(began)/minSpacing))
}

func TestNeedFullIsObeyedAtOnce(t *testing.T) {
	f := newFixture(t)
	c, _ := f.run(t)
	f.waitBatches(t, 1)
	f.server.set(func() { f.server.needFull = true })
	c.Wake()
	got := f.waitBatches(t, 3)
	require.Equal(t, evidencev1.Batch_DELTA, got[1].GetBatch().GetKind())
	require.Equal(t, evidencev1.Batch_FULL, got[2].GetBatch().GetKind())
	require.EqualValues(t, 3, got[2].GetBatch().GetSequence())
}

func TestAServerThatAlwaysWantsFullDoesNotMakeALoop(t *testing.T) {
	f := newFixture(t)
	f.server.set(func() {
		f.server.answer = func(r *evidencev1.PushRequest) (*evidencev1.PushResponse, error, bool) {
			f.server.take(r, "")
			return &evidencev1.PushResponse{AckedSequence: r.GetBatch().GetSequence(), NeedFull: true}, nil, true
		}
	})
	c, _ := f.run(t)
	f.waitBatches(t, 1)
	c.Wake()
	got := f.waitBatches(t, 2)
	require.Equal(t, evidencev1.Batch_FULL, got[1].GetBatch().GetKind())
	require.Never(t, func() bool { return len(f.server.got()) > 2 }, 5*minSpacing, minSpacing)
}

func TestAnUnknownOutcomeIsFollowedByFullWithTheNextNumber(t *testing.T) {
	f := newFixture(t)
	c, _ := f.run(t)
	f.waitBatches(t, 1)
	// The batch is taken, its acknowledgement never arrives: the server dies with
	// the request in hand.
	arrived := make(chan struct{})
	f.server.set(func() {
		f.server.answer = func(r *evidencev1.PushRequest) (*evidencev1.PushResponse, error, bool) {
			f.server.take(r, "")
			f.server.stop()
			close(arrived)
			panic(http.ErrAbortHandler)
		}
	})
	c.Episode(episode("e1"))
	<-arrived
	require.Equal(t, 1, f.server.times("e1"))
	f.server.set(func() { f.server.answer = nil })
	f.server.start()
	got := f.waitBatches(t, 3)
	last := got[2].GetBatch()
	require.Equal(t, evidencev1.Batch_FULL, last.GetKind())
	require.EqualValues(t, 3, last.GetSequence())
	require.Len(t, last.GetEpisodes(), 1, "the episode must be sent again")
	testutils.Eventually(t, 5*time.Second, "the acknowledgement", func() bool { return c.Status().Endpoints[0].PendingEpisodes == 0 })
	require.Zero(t, c.Status().Endpoints[0].DroppedEpisodes)
}

func TestABatchThatIsNotAcknowledgedIsNotTakenForDelivered(t *testing.T) {
	f := newFixture(t)
	refusals := 0
	f.server.set(func() {
		f.server.answer = func(r *evidencev1.PushRequest) (*evidencev1.PushResponse, error, bool) {
			if len(r.GetBatch().GetEpisodes()) > 0 && refusals < 2 {
				refusals++
				return &evidencev1.PushResponse{AckedSequence: r.GetBatch().GetSequence() - 1}, nil, true
			}
			return nil, nil, false
		}
	})
	c, _ := f.run(t)
	f.waitBatches(t, 1)
	c.Episode(episode("e1"))
	testutils.Eventually(t, 10*time.Second, "the episode", func() bool { return f.server.times("e1") == 1 })
	require.Equal(t, 2, refusals)
}

func TestEveryReplicaGetsEverything(t *testing.T) {
	f := newFixture(t)
	other := newServer(t, f.ca.issue(t, around(time.Now(), time.Hour)))
	f.cfg.Endpoints = append(f.cfg.Endpoints, other.url())
	f.observe("eth0", 1500)
	other.stop()
	c, _ := f.run(t)
	c.Episode(episode("e1"))
	testutils.Eventually(t, 10*time.Second, "the episode at the first", func() bool { return f.server.times("e1") == 1 })
	// What the second lacks waits for it, and only for it.
	testutils.Eventually(t, time.Second, "the first's acknowledgement", func() bool { return c.Status().Endpoints[0].PendingEpisodes == 0 })
	require.Equal(t, 1, c.Status().Endpoints[1].PendingEpisodes)
	require.NotZero(t, c.Status().RingBytes)
	f.ledger.Replace("link", nil)
	c.Wake()
	testutils.Eventually(t, 5*time.Second, "the removal at the first", func() bool {
		return slices.ContainsFunc(f.server.got(), func(r *evidencev1.PushRequest) bool { return len(r.GetBatch().GetRemoved()) == 1 })
	})
	other.start()
	testutils.Eventually(t, 10*time.Second, "the episode at the second", func() bool { return other.times("e1") == 1 })
	require.EqualValues(t, 1, other.got()[0].GetBatch().GetSequence(), "each endpoint counts for itself")
	testutils.Eventually(t, time.Second, "an empty ring", func() bool { return c.Status().RingBytes == 0 })
	require.Equal(t, 1, f.server.times("e1"))
}

func TestARefusedNodeIsSaidClearlyAndKeepsTrying(t *testing.T) {
	f := newFixture(t)
	registry := prometheus.NewPedanticRegistry()
	f.cfg.Registerer = registry
	refuse := true
	f.server.set(func() {
		f.server.answer = func(r *evidencev1.PushRequest) (*evidencev1.PushResponse, error, bool) {
			f.server.mu.Lock()
			defer f.server.mu.Unlock()
			if refuse {
				return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("batch is of node uid-1, token %s is of another", makeToken("uid-1", "the-signature-of-the-first-token"))), true
			}
			return nil, nil, false
		}
	})
	c, _ := f.run(t)
	testutils.Eventually(t, 5*time.Second, "the refusal", func() bool { return c.Status().Endpoints[0].LastErrorReason == "permission_denied" })
	require.Contains(t, f.logs.String(), "aggregator refuses this node")
	require.Contains(t, c.Status().Endpoints[0].LastError, "batch is of node uid-1")
	require.Contains(t, c.Status().Endpoints[0].LastError, "[token]")
	f.server.set(func() { refuse = false })
	f.waitBatches(t, 1)
	testutils.Eventually(t, 5*time.Second, "recovery", func() bool { return c.Status().Endpoints[0].LastError == "" })
	require.NotContains(t, f.logs.String(), makeToken("uid-1", "the-signature-of-the-first-token"))
	require.NotZero(t, testutil.ToFloat64(c.metrics.failures.WithLabelValues(c.endpoints[0].name, "permission_denied")))
	_, err := registry.Gather()
	require.NoError(t, err)
}

func TestTheTokenFileIsReadForEveryCall(t *testing.T) {
	f := newFixture(t)
	c, _ := f.run(t)
	f.waitBatches(t, 1)
	require.NoError(t, os.Remove(f.cfg.TokenFile))
	c.Wake()
	testutils.Eventually(t, 5*time.Second, "the missing token to be noticed", func() bool { return c.Status().Endpoints[0].LastErrorReason == "token" })
	require.True(t, c.Status().Endpoints[0].Connected, "a missing token is no reason to drop the connection")
	second := makeToken("uid-1", "another")
	writeToken(t, f.cfg.TokenFile, second)
	f.waitBatches(t, 2)
	f.server.set(func() {
		require.Equal(t, "Bearer "+makeToken("uid-1", "the-signature-of-the-first-token"), f.server.tokens[0])
		require.Equal(t, "Bearer "+second, f.server.tokens[1])
	})
}

func TestATokenOfAnotherNodeIsNotUsed(t *testing.T) {
	f := newFixture(t)
	f.observe("eth0", 1500)
	f.cfg.NodeName = "n2" // the token is n1's
	c, _ := f.run(t)
	testutils.Eventually(t, 10*time.Second, "the client says why", func() bool {
		return strings.Contains(c.Status().Endpoints[0].LastError, `is of node "n1", this is node "n2"`)
	})
	require.Equal(t, "token", c.Status().Endpoints[0].LastErrorReason)
	_, err := c.Exchange(context.Background())
	require.Error(t, err, "no clock is compared under another's name")
	require.Empty(t, f.server.got(), "and nothing was sent")

	writeToken(t, f.cfg.TokenFile, tokenOf("n2", "uid-2", "signature"))
	c.Wake()
	require.Equal(t, "uid-2", f.waitBatches(t, 1)[0].GetBatch().GetNodeUid(), "with its own it goes on")
}
