// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/plumb-dev/plumb/aggregator/identity"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/evidence/v1/evidencev1connect"
	"github.com/plumb-dev/plumb/internal/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tokens is an authenticator that knows its tokens by heart.
type tokens struct {
	mu sync.Mutex
	m  map[string]identity.Node
	// err, if set, is what it says to any token.
	err error
}

func (a *tokens) Authenticate(_ context.Context, token string) (identity.Node, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return identity.Node{}, a.err
	}
	if n, ok := a.m[token]; ok {
		return n, nil
	}
	return identity.Node{}, identity.ErrSignature
}

func (a *tokens) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

// memory is a state that remembers what it took.
type memory struct {
	mu      sync.Mutex
	applied []*evidencev1.PushRequest
	arrival []time.Time
	last    map[string]uint64
	err     error
}

func (s *memory) Apply(node identity.Node, arrival time.Time, req *evidencev1.PushRequest) (Applied, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return Applied{}, s.err
	}
	key := node.UID + req.GetBatch().GetBootId()
	if req.GetBatch().GetSequence() <= s.last[key] {
		return Applied{Duplicate: true, AckedSequence: s.last[key]}, nil
	}
	if s.last == nil {
		s.last = map[string]uint64{}
	}
	s.last[key] = req.GetBatch().GetSequence()
	s.applied = append(s.applied, req)
	s.arrival = append(s.arrival, arrival)
	return Applied{AckedSequence: s.last[key], NeedFull: req.GetBatch().GetKind() == evidencev1.Batch_DELTA && s.last[key] > 1}, nil
}

func (s *memory) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.applied)
}

// journal remembers messages by id.
type journal struct {
	mu       sync.Mutex
	subjects []string
	ids      []string
	data     [][]byte
	err      error
	after    int // fails after this many
}

func (j *journal) Publish(_ context.Context, subject, id string, data []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil && len(j.ids) >= j.after {
		return j.err
	}
	j.subjects, j.ids, j.data = append(j.subjects, subject), append(j.ids, id), append(j.data, data)
	return nil
}

func (j *journal) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.ids)
}

type fixture struct {
	tokens  *tokens
	state   *memory
	journal *journal
	service *Service
	applied chan string
}

var (
	node1 = identity.Node{Name: "n1", UID: "u1", Zone: "z1"}
	node2 = identity.Node{Name: "n2", UID: "u2", Zone: "z2"}
)

func newFixture(tb testing.TB, mod func(*Config)) *fixture {
	tb.Helper()
	f := &fixture{
		tokens:  &tokens{m: map[string]identity.Node{"t1": node1, "t2": node2}},
		state:   &memory{},
		journal: &journal{},
		applied: make(chan string, 1000),
	}
	cfg := Config{
		Authenticator: f.tokens, State: f.state, Journal: f.journal,
		Token:        func(s string) string { return "=" + s },
		KernelBootID: "kernel-of-the-aggregator",
		OnApplied:    func(n string) { f.applied <- n },
	}
	if mod != nil {
		mod(&cfg)
	}
	var err error
	f.service, err = New(cfg)
	require.NoError(tb, err)
	tb.Cleanup(f.service.Close)
	return f
}

// serve serves the fixture over TLS and HTTP/2 and returns clients by token.
func (f *fixture) serve(tb testing.TB) (base string, client *http.Client) {
	tb.Helper()
	files, err := pki.Create(tb.TempDir(), pki.Options{Hosts: []string{"127.0.0.1"}})
	require.NoError(tb, err)
	l, err := Listen(context.Background(), ListenConfig{Address: "127.0.0.1:0", CertFile: files.Cert, KeyFile: files.Key})
	require.NoError(tb, err)
	server := f.service.Server()
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	client = trusting(tb, files)
	tb.Cleanup(func() {
		client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(tb, server.Shutdown(ctx))
		require.ErrorIs(tb, <-done, http.ErrServerClosed)
	})
	return "https://" + l.Addr().String(), client
}

func trusting(tb testing.TB, files pki.Files) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: trustingConfig(tb, files), ForceAttemptHTTP2: true, DialContext: (&net.Dialer{}).DialContext}}
}

func trustingConfig(tb testing.TB, files pki.Files) *tls.Config {
	ca, err := os.ReadFile(files.CA)
	require.NoError(tb, err)
	pool := x509.NewCertPool()
	require.True(tb, pool.AppendCertsFromPEM(ca))
	return &tls.Config{RootCAs: pool, NextProtos: []string{"h2"}}
}

func with[T any](token string, msg *T) *connect.Request[T] {
	r := connect.NewRequest(msg)
	if token != "" {
		r.Header().Set("Authorization", "Bearer "+token)
	}
	return r
}

const second = uint64(time.Second)

// goodBatch is a batch with one of everything.
func goodBatch(sequence uint64) *evidencev1.PushRequest {
	return &evidencev1.PushRequest{
		SentBoottimeNanoseconds: 100 * second,
		Batch: &evidencev1.Batch{
			SchemaVersion: evidence.SchemaVersion, NodeUid: "u1", BootId: "k1/5", Sequence: sequence, Kind: evidencev1.Batch_FULL,
			Observations: []*evidencev1.Observation{{
				Probe: "link", Subject: &evidencev1.Subject{Kind: evidence.SubjectDevice, Key: "1/2", Name: "eth0"}, ObservedBoottimeNanoseconds: 99 * second,
				Items: []*evidencev1.Item{
					{Id: 100, State: &evidencev1.Item_Integer{Integer: 1500}, Rung: "rtnetlink"},
					{Id: 101, State: &evidencev1.Item_Text{Text: "underlay"}},
					{Id: 103, State: &evidencev1.Item_Flag{Flag: true}},
					{Id: 104, State: &evidencev1.Item_NotApplicable{NotApplicable: &evidencev1.NotApplicable{Detail: "not an overlay"}}},
					{Id: 105, State: &evidencev1.Item_Unknown{Unknown: &evidencev1.Unknown{Reason: evidencev1.Unknown_BLIND, Detail: "no NET_ADMIN"}}},
				},
			}},
			Episodes:       []*evidencev1.Episode{goodEpisode("e1")},
			OpenEpisodeIds: []string{"e1"},
			Probes:         []*evidencev1.ProbeStatus{{Name: "link", State: evidencev1.ProbeStatus_OK, SampledBoottimeNanoseconds: 99 * second, Hooks: []*evidencev1.Hook{{Signal: "link", Rung: "rtnetlink"}}}},
			Agent:          &evidencev1.AgentStatus{Version: "v1"},
		},
	}
}

func goodEpisode(id string) *evidencev1.Episode {
	return &evidencev1.Episode{
		Id: id, Condition: evidence.ConditionClockStep, Subject: evidence.Node().Proto(), BootId: "k1/5",
		OnsetBoottimeNanoseconds: 90 * second,
		Items:                    []*evidencev1.Item{{Id: 311, State: &evidencev1.Item_Number{Number: 1.5}, Uncertainty: 0.25, Rung: "timerfd"}},
	}
}

func TestBatchGoesThroughTheJournalAndTheStateAndIsAcknowledged(t *testing.T) {
	f := newFixture(t, nil)
	base, client := f.serve(t)
	before := time.Now()
	rpc := evidencev1connect.NewUplinkServiceClient(client, base)
	reply, err := rpc.Push(context.Background(), with("t1", goodBatch(1)))
	require.NoError(t, err)
	require.True(t, proto.Equal(&evidencev1.PushResponse{AckedSequence: 1, Zone: "z1"}, reply.Msg), "%v", reply.Msg)

	require.Equal(t, []string{"episode.=n1"}, f.journal.subjects)
	require.Equal(t, []string{"u1/e1/open"}, f.journal.ids)
	rec, err := DecodeEpisodeRecord(f.journal.data[0])
	require.NoError(t, err)
	require.WithinRange(t, rec.Arrival, before, time.Now())
	require.Equal(t, 10*time.Second, rec.Arrival.Sub(rec.Onset), "the onset is as long before the arrival as the node's boottime says")
	number := 1.5
	require.Equal(t, EpisodeRecord{
		Version: 1, Node: node1, Arrival: rec.Arrival, ID: "e1", Condition: "clock.step", BootID: "k1/5", Onset: rec.Onset,
		Subject: SubjectRecord{Kind: "node", Key: "node", Name: "node"},
		Items:   []ItemRecord{{ID: 311, Name: "clock.step_seconds", Number: &number, Uncertainty: 0.25, Rung: "timerfd"}},
	}, rec)
	require.Equal(t, "n1", <-f.applied)
	require.True(t, proto.Equal(goodBatch(1), f.state.applied[0]), "a good batch reaches the state as it was sent")

	reply, err = rpc.Push(context.Background(), with("t1", goodBatch(1)))
	require.NoError(t, err)
	require.Equal(t, uint64(1), reply.Msg.GetAckedSequence(), "a duplicate is acknowledged")
	require.Equal(t, 1, f.state.count())
	require.Empty(t, f.applied)

	second := goodBatch(2)
	second.Batch.Kind = evidencev1.Batch_DELTA
	reply, err = rpc.Push(context.Background(), with("t1", second))
	require.NoError(t, err)
	require.True(t, reply.Msg.GetNeedFull())
}

func TestCallsThatAreNotAuthenticatedReachNothing(t *testing.T) {
	f := newFixture(t, nil)
	base, client := f.serve(t)
	rpc := evidencev1connect.NewUplinkServiceClient(client, base)
	for _, tc := range []struct {
		name, header string
		fails        error
		code         connect.Code
		says         string
	}{
		{"no token", "", nil, connect.CodeUnauthenticated, "there is no token"},
		{"another scheme", "Basic dDE=", nil, connect.CodeUnauthenticated, "there is no token"},
		{"an empty token", "Bearer ", nil, connect.CodeUnauthenticated, "there is no token"},
		{"a wrong token", "Bearer nope", nil, connect.CodeUnauthenticated, "signature is not valid"},
		{"an expired token", "Bearer t1", identity.ErrExpired, connect.CodeUnauthenticated, "has expired"},
		{"another audience", "Bearer t1", identity.ErrAudience, connect.CodeUnauthenticated, "another audience"},
		{"an unknown node", "Bearer t1", identity.ErrUnknownNode, connect.CodeUnauthenticated, "unknown node"},
		{"nobody to ask", "Bearer t1", errors.New("api server is down"), connect.CodeUnavailable, "api server is down"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.tokens.fail(tc.fails)
			defer f.tokens.fail(nil)
			push, clock, watch := connect.NewRequest(goodBatch(1)), connect.NewRequest(&evidencev1.TimeRequest{}), connect.NewRequest(&evidencev1.WatchRequest{})
			for _, h := range []http.Header{push.Header(), clock.Header(), watch.Header()} {
				if tc.header != "" {
					h.Set("Authorization", tc.header)
				}
			}
			_, pushErr := rpc.Push(context.Background(), push)
			_, timeErr := rpc.Time(context.Background(), clock)
			stream, err := rpc.Watch(context.Background(), watch)
			require.NoError(t, err)
			require.False(t, stream.Receive())
			for call, err := range map[string]error{"push": pushErr, "time": timeErr, "watch": stream.Err()} {
				require.Equal(t, tc.code, connect.CodeOf(err), call)
				require.ErrorContains(t, err, tc.says, call)
			}
			require.NoError(t, stream.Close())
		})
	}
	require.Zero(t, f.state.count())
	require.Zero(t, f.journal.count())

	t.Run("the methods themselves authenticate too", func(t *testing.T) {
		_, err := f.service.Push(context.Background(), with("", goodBatch(1)))
		require.Equal(t, connect.CodeUnauthenticated, connect.CodeOf(err))
		_, err = f.service.Time(context.Background(), with("", &evidencev1.TimeRequest{}))
		require.Equal(t, connect.CodeUnauthenticated, connect.CodeOf(err))
	})
}

func TestNodeSpeaksOnlyForItself(t *testing.T) {
	f := newFixture(t, nil)
	_, err := f.service.Push(context.Background(), with("t2", goodBatch(1)))
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
	require.ErrorContains(t, err, `the batch is of node uid "u1", the token of node n2 with uid "u2"`)
	require.Zero(t, f.state.count()+f.journal.count())

	// An agent takes the uid from the token that it was given; its name it knows.
	misled := goodBatch(1)
	misled.Batch.Agent = &evidencev1.AgentStatus{NodeName: "n2"}
	_, err = f.service.Push(context.Background(), with("t1", misled))
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
	require.ErrorContains(t, err, `the batch is of an agent on node "n2", the token of node n1`)
	require.Zero(t, f.state.count()+f.journal.count())
}

func TestNothingIsAcknowledgedThatIsNotDurable(t *testing.T) {
	f := newFixture(t, nil)
	batch := goodBatch(1)
	batch.Batch.Episodes = append(batch.Batch.Episodes, goodEpisode("e2"))
	f.journal.err, f.journal.after = errors.New("the bus is full: free some space"), 1
	_, err := f.service.Push(context.Background(), with("t1", proto.Clone(batch).(*evidencev1.PushRequest)))
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
	require.ErrorContains(t, err, "nothing of the batch of node n1 is acknowledged: the bus is full: free some space")
	require.Zero(t, f.state.count(), "the state did not see it either, so the retry is no duplicate")
	require.Empty(t, f.applied)

	f.journal.err = nil
	reply, err := f.service.Push(context.Background(), with("t1", proto.Clone(batch).(*evidencev1.PushRequest)))
	require.NoError(t, err)
	require.Equal(t, uint64(1), reply.Msg.GetAckedSequence())
	require.Equal(t, []string{"u1/e1/open", "u1/e1/open", "u1/e2/open"}, f.journal.ids, "a repeated episode has its old id")

	f.state.err = errors.New("evidence does not fit")
	_, err = f.service.Push(context.Background(), with("t1", goodBatch(2)))
	require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(err))
	require.ErrorContains(t, err, "evidence does not fit")
}

func TestEpisodeOfAnEarlierBootKeepsItsClaimedTime(t *testing.T) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	f := newFixture(t, func(c *Config) { c.Now = func() time.Time { return now } })
	batch := goodBatch(1)
	e := batch.Batch.Episodes[0]
	e.BootId = "k0/3"
	e.ClosedBoottimeNanoseconds = 95 * second
	_, err := f.service.Push(context.Background(), with("t1", proto.Clone(batch).(*evidencev1.PushRequest)))
	require.ErrorContains(t, err, "lacks the wall clock's claim")

	onset, closed := now.Add(-time.Hour), now.Add(24*time.Hour)
	e.OnsetClaimedAt, e.ClosedClaimedAt = stamp(onset), stamp(closed)
	_, err = f.service.Push(context.Background(), with("t1", batch))
	require.NoError(t, err)
	rec, err := DecodeEpisodeRecord(f.journal.data[0])
	require.NoError(t, err)
	require.True(t, rec.Claimed)
	require.Equal(t, onset, rec.Onset)
	require.Equal(t, now, rec.Closed, "nothing ends in the future")
	require.Equal(t, "u1/e1/closed", rec.MessageID())

	t.Run("a restart of the agent on the same kernel is no earlier boot", func(t *testing.T) {
		batch := goodBatch(2)
		batch.Batch.Episodes[0].BootId = "k1/3"
		_, err := f.service.Push(context.Background(), with("t1", batch))
		require.NoError(t, err)
		rec, err := DecodeEpisodeRecord(f.journal.data[1])
		require.NoError(t, err)
		require.False(t, rec.Claimed)
		require.Equal(t, now.Add(-10*time.Second), rec.Onset)
	})
}

func TestTimeIsStampedOnBothSides(t *testing.T) {
	f := newFixture(t, nil)
	base, client := f.serve(t)
	before := time.Now()
	reply, err := evidencev1connect.NewUplinkServiceClient(client, base).Time(context.Background(), with("t1", &evidencev1.TimeRequest{OriginUnixNanoseconds: 42}))
	require.NoError(t, err)
	require.Equal(t, int64(42), reply.Msg.GetOriginUnixNanoseconds())
	require.Equal(t, "kernel-of-the-aggregator", reply.Msg.GetKernelBootId())
	require.LessOrEqual(t, before.UnixNano(), reply.Msg.GetReceiveUnixNanoseconds())
	require.Less(t, reply.Msg.GetReceiveUnixNanoseconds(), reply.Msg.GetTransmitUnixNanoseconds())
	require.LessOrEqual(t, reply.Msg.GetTransmitUnixNanoseconds(), time.Now().UnixNano())
}
