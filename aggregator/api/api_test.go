// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/api/v1/apiv1connect"
	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/aggregator/verdict"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// mtu holds on every device whose MTU is under 1500.
type mtu struct{ info *signature.Signature }

func (m *mtu) Subjects(view *state.View) []evidence.Subject {
	return view.Subjects(evidence.SubjectDevice)
}

func (m *mtu) Absence(view *state.View) signature.Result {
	return signature.Result{Signature: m.info, Subject: evidence.Node(), Reason: "there is no device", Undecided: true}
}

func (m *mtu) Weigh(view *state.View, s evidence.Subject) signature.Result {
	info, _ := evidence.NewCatalog().ByID(uint32(evidence.LinkMTUBytes))
	read := signature.Reading{Item: info, Subject: s, Fact: view.Fact(s.Kind, s.Key, info.ID)}
	bytes, _ := read.Fact.Value.(int64)
	r := signature.Result{Signature: m.info, Subject: s, At: view.At, Grade: signature.Proven, ProofSet: "configuration", Bans: 2,
		Summary: "eth0 is too small", Mitigation: "ip link set eth0 mtu 1500",
		Clauses:  []signature.ClauseResult{{ID: "small", Kinds: []string{"configuration"}, Truth: signature.True, Bans: 2, Weight: 2, Claim: "the MTU is 1400 bytes", Reads: []signature.Reading{read}, Decisive: true}},
		Refuters: []signature.RefuterResult{{ID: "loss", Rival: "network/path-loss", Truth: signature.False, Exonerates: "small packets: 0 of 30 lost"}}}
	if bytes >= 1500 {
		r.Grade, r.Bans, r.ProofSet, r.Reason = signature.None, 0, "", "the MTU is right"
		r.Clauses[0].Truth, r.Clauses[0].Bans, r.Clauses[0].Decisive, r.Clauses[0].Claim = signature.False, 0, false, "not so: the MTU is 1500 bytes"
	}
	return r
}

type fixture struct {
	t      *testing.T
	state  *state.State
	engine *verdict.Engine
	server *httptest.Server
	client apiv1connect.QueryServiceClient
	seq    uint64
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t}
	now := func() time.Time { return epoch.Add(2 * time.Second) }
	f.state = state.New(state.Config{Now: now})
	info := &signature.Signature{ID: "network/mtu", Title: "MTU too small", Loop: "network", Severity: "warning", Scope: "Device", Each: "device", Hash: "00", Origin: "built-in"}
	var err error
	f.engine, err = verdict.New(verdict.Config{Cluster: "c", State: f.state, Now: now, Coalesce: time.Millisecond, Rules: []verdict.Rule{{Info: info, Weigher: &mtu{info}}}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- f.engine.Run(ctx) }()
	service := New(Config{State: f.state, Engine: f.engine, Signatures: []*signature.Signature{info}, AllowedHosts: []string{"plumb.internal"}})
	f.server = httptest.NewUnstartedServer(service.Handler())
	f.server.Config.Protocols = Protocols()
	f.server.Start()
	t.Cleanup(func() {
		service.Stop()
		f.server.Close()
		cancel()
		require.NoError(t, <-done)
	})
	f.client = apiv1connect.NewQueryServiceClient(f.server.Client(), f.server.URL)
	return f
}

func (f *fixture) report(bytes int64) {
	f.t.Helper()
	f.seq++
	_, err := f.state.Apply(state.NodeInfo{Name: "n1", UID: "u", Zone: "a", Pool: "default"}, epoch, &evidencev1.PushRequest{SentBoottimeNanoseconds: 5, Batch: &evidencev1.Batch{
		BootId: "k/1", Sequence: f.seq, Kind: evidencev1.Batch_FULL,
		Agent: &evidencev1.AgentStatus{Version: "v1", KernelRelease: "6.12.0", TlsTime: &evidencev1.TLSTime{Source: evidencev1.TLSTime_MEASURED, CorrectionSeconds: 420}},
		Observations: []*evidencev1.Observation{{Probe: "link", ObservedBoottimeNanoseconds: 5, Subject: &evidencev1.Subject{Kind: "device", Key: "1/2", Name: "eth0", PodUid: "p"},
			Items: []*evidencev1.Item{{Id: uint32(evidence.LinkMTUBytes), Rung: "rtnetlink", State: &evidencev1.Item_Integer{Integer: bytes}}}}},
		Probes: []*evidencev1.ProbeStatus{{Name: "link", State: evidencev1.ProbeStatus_OK, SampledBoottimeNanoseconds: 5, Hooks: []*evidencev1.Hook{{Signal: "link.devices", Rung: "rtnetlink", Confirmed: true}}}},
		Episodes: []*evidencev1.Episode{{Id: "e", Condition: evidence.ConditionOversizeEncapsulatedDrops, BootId: "k/1", OnsetBoottimeNanoseconds: 5,
			Subject: &evidencev1.Subject{Kind: "device", Key: "1/2", Name: "eth0"}}},
	}})
	require.NoError(f.t, err)
}

func (f *fixture) wait(state string) *apiv1.Verdict {
	f.t.Helper()
	var found *apiv1.Verdict
	testutils.Eventually(f.t, 5*time.Second, "a verdict in state "+state, func() bool {
		for _, v := range f.engine.Verdicts(verdict.Filter{IncludeResolved: true}) {
			if v.GetState() == state {
				found = v
			}
		}
		return found != nil
	})
	return found
}

func (f *fixture) do(method, path, body string, change func(*http.Request)) (int, string) {
	f.t.Helper()
	req, err := http.NewRequest(method, f.server.URL+path, strings.NewReader(body))
	require.NoError(f.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if change != nil {
		change(req)
	}
	res, err := f.server.Client().Do(req)
	require.NoError(f.t, err)
	defer res.Body.Close()
	require.Empty(f.t, res.Header.Get("Access-Control-Allow-Origin"), "no CORS")
	data, err := io.ReadAll(res.Body)
	require.NoError(f.t, err)
	return res.StatusCode, string(data)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	var v any
	require.NoError(t, json.Unmarshal([]byte(got), &v), got)
	pretty, err := json.MarshalIndent(v, "", "  ")
	require.NoError(t, err)
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, append(pretty, '\n'), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(pretty)+"\n")
}

func TestJSON(t *testing.T) {
	f := newFixture(t)
	f.report(1400)
	id := f.wait("firing").GetId()
	const rpc = "/plumb.api.v1.QueryService/"
	for _, c := range []struct{ golden, plain, method, body string }{
		{"verdicts.json", "/api/v1/verdicts", "ListVerdicts", `{}`},
		{"verdict.json", "/api/v1/verdicts/" + id[:6], "GetVerdict", `{"id":"` + id[:6] + `"}`},
		{"nodes.json", "/api/v1/nodes", "ListNodes", `{}`},
		{"explain.json", "/api/v1/nodes/n1", "ExplainNode", `{"node":"n1"}`},
		{"episodes.json", "/api/v1/episodes?node=n1", "ListEpisodes", `{"node":"n1"}`},
		{"signatures.json", "/api/v1/signatures", "ListSignatures", `{}`},
	} {
		t.Run(c.method, func(t *testing.T) {
			status, got := f.do("GET", c.plain, "", nil)
			require.Equal(t, http.StatusOK, status, got)
			golden(t, c.golden, got)
			status, got = f.do("POST", rpc+c.method, c.body, nil)
			require.Equal(t, http.StatusOK, status, got)
			golden(t, c.golden, got)
		})
	}
}

func TestEvidenceListsEveryItem(t *testing.T) {
	f := newFixture(t)
	f.report(1400)
	res, err := f.client.GetEvidence(context.Background(), connect.NewRequest(&apiv1.GetEvidenceRequest{Node: "n1"}))
	require.NoError(t, err)
	require.Len(t, res.Msg.GetSubjects(), 2)
	require.Equal(t, "node", res.Msg.GetSubjects()[0].GetKind())
	device := res.Msg.GetSubjects()[1]
	require.Equal(t, "p", device.GetPodUid())
	items := map[string]*apiv1.EvidenceItem{}
	for _, it := range device.GetItems() {
		items[it.GetItem()] = it
	}
	require.Equal(t, "value", items["link.mtu_bytes"].GetState())
	require.Equal(t, 1400.0, items["link.mtu_bytes"].GetValue().GetNumberValue())
	require.Equal(t, "unknown", items["link.role"].GetState())
	require.Equal(t, "blind", items["oversize.encapsulated_site"].GetReason())
	require.NotEmpty(t, items["oversize.encapsulated_site"].GetDetail())
}

func TestRefusals(t *testing.T) {
	f := newFixture(t)
	f.report(1400)
	f.wait("firing")
	host := func(h string) func(*http.Request) { return func(r *http.Request) { r.Host = h } }
	header := func(k, v string) func(*http.Request) { return func(r *http.Request) { r.Header.Set(k, v) } }
	own := strings.TrimPrefix(f.server.URL, "http://")
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		want   int
	}{
		{"loopback address", nil, 200},
		{"localhost", host("localhost:9952"), 200},
		{"localhost without port", host("LOCALHOST"), 200},
		{"IPv6 loopback", host("[::1]:9952"), 200},
		{"allowed name", host("plumb.internal:80"), 200},
		{"any other name", host("evil.example"), 403},
		{"a name that begins like ours", host("localhost.evil.example:9952"), 403},
		{"a name that ends like ours", host("evil-localhost"), 403},
		{"another address", host("10.0.0.1:9952"), 403},
		{"a name with credentials", host("localhost@evil.example"), 403},
		{"own origin", header("Origin", "http://"+own), 200},
		{"another origin", header("Origin", "https://evil.example"), 403},
		{"another port of this machine", header("Origin", "http://localhost:3000"), 403},
		{"a page without origin", header("Origin", "null"), 403},
		{"an image on another page", header("Sec-Fetch-Site", "cross-site"), 403},
		{"another port, no Origin", header("Sec-Fetch-Site", "same-site"), 403},
		{"typed into the address bar", header("Sec-Fetch-Site", "none"), 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, request := range [][2]string{{"/api/v1/verdicts", ""}, {"/plumb.api.v1.QueryService/ListVerdicts", "{}"}} {
				method := "GET"
				if request[1] != "" {
					method = "POST"
				}
				status, body := f.do(method, request[0], request[1], c.change)
				require.Equal(t, c.want, status, body)
				if c.want != 200 {
					require.NotContains(t, body, "n1")
				}
			}
		})
	}
}

func TestErrorsNameTheMend(t *testing.T) {
	f := newFixture(t)
	f.report(1400)
	v := f.wait("firing")
	for _, c := range []struct {
		path   string
		status int
		want   string
	}{
		{"/api/v1/verdicts/" + v.GetId()[:5], 400, "at least 6 characters"},
		{"/api/v1/verdicts/zzzzzz", 404, "plumb verdicts"},
		{"/api/v1/verdicts?node=nope", 404, "known are: n1"},
		{"/api/v1/verdicts?signature=network/nope", 404, "loaded are: network/mtu"},
		{"/api/v1/verdicts?nod=n1", 400, `unknown parameter \"nod\"`},
		{"/api/v1/verdicts?includeResolved=perhaps", 400, "true or false"},
		{"/api/v1/nodes/nope", 404, "known are: n1"},
		{"/api/v1/nodes/nope/evidence", 404, "known are: n1"},
		{"/api/v1/episodes?node=nope", 404, "known are: n1"},
	} {
		status, body := f.do("GET", c.path, "", nil)
		require.Equal(t, c.status, status, body)
		require.Contains(t, body, c.want)
	}
	status, body := f.do("POST", "/plumb.api.v1.QueryService/ListVerdicts", `{"nod":"n1"}`, nil)
	require.Equal(t, 400, status, body)
	_, err := f.client.GetEvidence(context.Background(), connect.NewRequest(&apiv1.GetEvidenceRequest{}))
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	_, err = f.client.ExplainNode(context.Background(), connect.NewRequest(&apiv1.ExplainNodeRequest{Node: "nope"}))
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

func TestWatch(t *testing.T) {
	f := newFixture(t)
	f.report(1400)
	f.wait("firing")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	stream, err := f.client.WatchVerdicts(ctx, connect.NewRequest(&apiv1.WatchVerdictsRequest{}))
	require.NoError(t, err)
	defer stream.Close()
	require.True(t, stream.Receive(), stream.Err())
	require.Equal(t, "firing", stream.Msg().GetVerdict().GetState())
	require.False(t, stream.Msg().GetSynced())
	require.True(t, stream.Receive(), stream.Err())
	require.True(t, stream.Msg().GetSynced())
	require.Nil(t, stream.Msg().GetVerdict())
	f.report(1500)
	require.True(t, stream.Receive(), stream.Err())
	require.Equal(t, "resolved", stream.Msg().GetVerdict().GetState())
}

func TestWatchersAreBounded(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range maxWatchers {
		stream, err := f.client.WatchVerdicts(ctx, connect.NewRequest(&apiv1.WatchVerdictsRequest{}))
		require.NoError(t, err)
		require.True(t, stream.Receive(), stream.Err())
		defer stream.Close()
	}
	stream, err := f.client.WatchVerdicts(ctx, connect.NewRequest(&apiv1.WatchVerdictsRequest{}))
	require.NoError(t, err)
	defer stream.Close()
	require.False(t, stream.Receive())
	require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(stream.Err()))
}
