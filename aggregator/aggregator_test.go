// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package aggregator_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/plumb-dev/plumb/aggregator"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/evidence/v1/evidencev1connect"
	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/signatures"
)

// childDir makes this test binary an aggregator over the files in a directory,
// so that a test can kill it.
const childDir = "PLUMB_TEST_AGGREGATOR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		cfg := config(dir)
		cfg.OnListen = func(a aggregator.Addresses) { _ = json.NewEncoder(os.Stdout).Encode(a) }
		if err := aggregator.Run(context.Background(), cfg); err != nil {
			panic(err)
		}
		return
	}
	os.Exit(m.Run())
}

func config(dir string) aggregator.Config {
	cfg := aggregator.Defaults()
	cfg.ListenAddress, cfg.APIAddress, cfg.MetricsAddress = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.NodesFile, cfg.TLSCert, cfg.TLSKey = filepath.Join(dir, "nodes.yaml"), filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
	cfg.DataDir, cfg.Library = filepath.Join(dir, "data"), signatures.FS
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	return cfg
}

func initDir(t *testing.T) string {
	dir := t.TempDir()
	_, err := aggregator.Init(aggregator.InitConfig{Dir: dir, Cluster: "c", Nodes: []string{"n1=uid-1,zone=a", "n2=uid-2,zone=b"}, Hosts: []string{"127.0.0.1"}, TokenTTL: time.Hour})
	require.NoError(t, err)
	return dir
}

// start runs an aggregator in this process; stop ends it and returns its error.
func start(t *testing.T, cfg aggregator.Config) (a aggregator.Addresses, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	listening, done := make(chan aggregator.Addresses, 1), make(chan error, 1)
	cfg.OnListen = func(a aggregator.Addresses) { listening <- a }
	go func() { done <- aggregator.Run(ctx, cfg) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		began := time.Now()
		cancel()
		require.NoError(t, <-done)
		require.Less(t, time.Since(began), 5*time.Second)
	}
	select {
	case a = <-listening:
		t.Cleanup(stop)
	case err := <-done:
		cancel()
		require.NoError(t, err)
	}
	return a, stop
}

// kill starts an aggregator as a process of its own, for kill -9.
func startProcess(t *testing.T, dir string) (a aggregator.Addresses, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	killed := false
	kill = func() {
		if !killed {
			killed = true
			require.NoError(t, cmd.Process.Kill())
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	require.NoError(t, json.NewDecoder(out).Decode(&a))
	return a, kill
}

// An agent is one run of a node's agent.
type agent struct {
	t        *testing.T
	dir      string
	node     string
	boot     string
	sequence uint64
	began    time.Time
}

func newAgent(t *testing.T, dir string) *agent {
	return &agent{t: t, dir: dir, node: "n1", boot: "k/1", began: time.Now().Add(-time.Hour)}
}

func (a *agent) boottime() uint64 { return uint64(time.Since(a.began)) }

func (a *agent) push(address string, offset float64, change func(*evidencev1.Batch)) *evidencev1.PushResponse {
	a.t.Helper()
	ca, err := os.ReadFile(filepath.Join(a.dir, "ca.crt"))
	require.NoError(a.t, err)
	pool := x509.NewCertPool()
	require.True(a.t, pool.AppendCertsFromPEM(ca))
	token, err := os.ReadFile(filepath.Join(a.dir, a.node+".token"))
	require.NoError(a.t, err)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := evidencev1connect.NewUplinkServiceClient(&http.Client{Transport: transport}, "https://"+address)
	a.sequence++
	b := &evidencev1.Batch{SchemaVersion: 1, NodeUid: "uid-1", BootId: a.boot, Sequence: a.sequence, Kind: evidencev1.Batch_FULL,
		Agent:        &evidencev1.AgentStatus{Version: "v0", KernelRelease: "6.12.0"},
		Observations: []*evidencev1.Observation{a.clock(offset)},
		Probes:       []*evidencev1.ProbeStatus{{Name: "clock", State: evidencev1.ProbeStatus_OK, Interval: durationpb.New(10 * time.Second), SampledBoottimeNanoseconds: a.boottime()}}}
	if change != nil {
		change(b)
	}
	req := connect.NewRequest(&evidencev1.PushRequest{Batch: b, SentBoottimeNanoseconds: a.boottime()})
	req.Header().Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	res, err := client.Push(context.Background(), req)
	require.NoError(a.t, err)
	return res.Msg
}

// clock is a full observation of the clock probe: everything that the catalogue
// has for a node.
func (a *agent) clock(offset float64) *evidencev1.Observation {
	o := &evidence.Observation{Subject: evidence.Node()}
	off := max(offset, -offset) - 0.01
	o.Number(evidence.ClockOffsetSeconds, offset, 0.01)
	o.Number(evidence.ClockOffsetAtLeastSeconds, max(off, 0), 0)
	o.Integer(evidence.ClockGroupsTotal, 3)
	o.Integer(evidence.ClockGroupsAgreeing, 3)
	o.Integer(evidence.ClockGroupsDissenting, 0)
	o.Text(evidence.ClockFalseSources, "")
	o.Text(evidence.ClockAgreeingSources, "s1, s2, s3")
	o.Integer(evidence.ClockRoundsAgreeing, 5)
	o.Number(evidence.ClockDriftPartsPerMillion, 0, 1)
	o.Flag(evidence.ClockUnsynchronised, false)
	o.Number(evidence.ClockSuspendedSeconds, 0, 0)
	evidence.NotApplicable(o, evidence.ClockStepSeconds, "no step")
	evidence.NotApplicable(o, evidence.ClockPairwiseAgrees, "one clock")
	evidence.NotApplicable(o, evidence.ClockPairwiseOffsetSeconds, "one clock")
	return &evidencev1.Observation{Probe: "clock", Subject: o.Subject.Proto(), ObservedBoottimeNanoseconds: a.boottime(), Items: o.Items}
}

func get(t *testing.T, address, path string) (int, map[string]any) {
	t.Helper()
	res, err := http.Get("http://" + address + path)
	require.NoError(t, err)
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	var out map[string]any
	require.NoError(t, json.Unmarshal(data, &out), "%s", data)
	return res.StatusCode, out
}

// verdict waits until the only verdict of an aggregator is in a state.
func verdict(t *testing.T, address, state string) map[string]any {
	t.Helper()
	var v map[string]any
	testutils.Eventually(t, 5*time.Second, "a verdict in state "+state, func() bool {
		_, out := get(t, address, "/api/v1/verdicts?includeResolved=true")
		list := out["verdicts"].([]any)
		require.LessOrEqual(t, len(list), 1)
		if len(list) == 0 {
			return false
		}
		v = list[0].(map[string]any)
		return v["state"] == state
	})
	return v
}

func TestFromBatchToVerdict(t *testing.T) {
	dir := initDir(t)
	a, stop := start(t, config(dir))
	agent := newAgent(t, dir)
	reply := agent.push(a.Ingest, 420, nil)
	require.Equal(t, "a", reply.GetZone())
	require.Equal(t, uint64(1), reply.GetAckedSequence())
	v := verdict(t, a.API, "firing")
	require.Equal(t, "identity/clock-skew", v["signature"])
	require.Equal(t, "proven", v["grade"], "%v", v)
	require.Equal(t, map[string]any{"kind": "Node", "zones": []any{"a"}, "nodes": []any{"n1"}, "device": "", "pool": "", "pod": ""}, v["scope"])
	// The field names are those of the lab's JSON result.
	for _, field := range []string{"id", "signature", "loop", "grade", "state", "scope", "onset", "gradedAt", "resolvedAt", "proof", "refuted", "unknown", "consequences", "mitigation"} {
		require.Contains(t, v, field)
	}
	require.Nil(t, v["resolvedAt"])
	require.Equal(t, []any{}, v["consequences"])
	proof := v["proof"].([]any)[0].(map[string]any)
	for _, field := range []string{"node", "evidence", "kind", "claim", "value", "rung", "observedAt"} {
		require.Contains(t, proof, field)
	}
	require.Contains(t, v["refuted"].([]any)[0], "because")

	status, nodes := get(t, a.API, "/api/v1/nodes")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "reporting", nodes["nodes"].([]any)[0].(map[string]any)["state"])
	require.Equal(t, "never", nodes["nodes"].([]any)[1].(map[string]any)["state"])

	res, err := http.Get("http://" + a.Metrics + "/metrics")
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Contains(t, string(text), `plumb_verdict_proven{scope="Node",severity="critical",signature="identity/clock-skew",zone="a"} 1`)
	for _, path := range []string{"/healthz", "/readyz"} {
		res, err := http.Get("http://" + a.Metrics + path)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
	stop()
}

// kill -9 at two points: after a verdict fired, and between the acknowledgement
// of an episode and the verdict that rests on it.
func TestKilledAggregatorForgetsNothingThatItAcknowledged(t *testing.T) {
	dir := initDir(t)
	a, kill := startProcess(t, dir)
	agent := newAgent(t, dir)
	onset := agent.boottime() - uint64(7*time.Second)
	episode := &evidencev1.Episode{Id: "00112233445566aa", Condition: evidence.ConditionClockOffset, Subject: evidence.Node().Proto(), BootId: agent.boot, OnsetBoottimeNanoseconds: onset}
	agent.push(a.Ingest, 0.001, func(b *evidencev1.Batch) {
		b.Episodes, b.OpenEpisodeIds = []*evidencev1.Episode{episode}, []string{episode.GetId()}
	})
	_, out := get(t, a.API, "/api/v1/episodes?node=n1")
	recorded := out["episodes"].([]any)[0].(map[string]any)["onset"]
	kill()

	a, kill = startProcess(t, dir)
	_, out = get(t, a.API, "/api/v1/episodes?node=n1")
	require.Len(t, out["episodes"], 1, "an acknowledged episode")
	require.Equal(t, recorded, out["episodes"].([]any)[0].(map[string]any)["onset"])
	agent.push(a.Ingest, 420, func(b *evidencev1.Batch) { b.OpenEpisodeIds = []string{episode.GetId()} })
	fired := verdict(t, a.API, "firing")
	require.Equal(t, recorded, fired["onset"], "the onset is that of the episode, also after the kill")
	kill()

	a, _ = startProcess(t, dir)
	stale := verdict(t, a.API, "stale")
	require.Equal(t, fired["id"], stale["id"])
	require.Equal(t, fired["onset"], stale["onset"])
	require.Equal(t, fired["gradedAt"], stale["gradedAt"])
	require.True(t, agent.push(a.Ingest, 420, func(b *evidencev1.Batch) { b.Kind = evidencev1.Batch_DELTA }).GetNeedFull())
	require.Equal(t, "stale", verdict(t, a.API, "stale")["state"])
	require.False(t, agent.push(a.Ingest, 420, func(b *evidencev1.Batch) { b.OpenEpisodeIds = []string{episode.GetId()} }).GetNeedFull())
	again := verdict(t, a.API, "firing")
	require.Equal(t, fired["id"], again["id"], "no duplicate")
	require.Equal(t, fired["onset"], again["onset"])
	require.Equal(t, fired["gradedAt"], again["gradedAt"])
}

func TestBadInput(t *testing.T) {
	dir := initDir(t)
	a, stop := start(t, config(dir))
	defer stop()
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	for _, c := range []struct {
		name   string
		change func(*aggregator.Config)
		want   string
	}{
		{"no nodes file", func(c *aggregator.Config) { c.NodesFile = "" }, "--nodes"},
		{"nodes file that is not there", func(c *aggregator.Config) { c.NodesFile = "/nonexistent/nodes.yaml" }, "/nonexistent/nodes.yaml"},
		{"nodes file that is no YAML", func(c *aggregator.Config) { c.NodesFile = write("nodes.yaml", "a: [") }, "nodes.yaml"},
		{"no certificate", func(c *aggregator.Config) { c.TLSCert = "" }, "--tls-cert"},
		{"certificate that is not there", func(c *aggregator.Config) { c.TLSCert = "/nonexistent/server.crt" }, "/nonexistent/server.crt"},
		{"nowhere to keep anything", func(c *aggregator.Config) { c.DataDir = "" }, "--data-dir"},
		{"two places", func(c *aggregator.Config) { c.BusURL = "nats://127.0.0.1:4222" }, "--bus"},
		{"another cluster", func(c *aggregator.Config) { c.Cluster = "d" }, "is of cluster c"},
		{"an interval that no agent keeps", func(c *aggregator.Config) { c.Interval = time.Millisecond }, "--interval"},
		{"signatures that are not there", func(c *aggregator.Config) { c.SignatureDirs = []string{"/nonexistent"} }, "/nonexistent"},
		{"a malformed signature", func(c *aggregator.Config) {
			c.SignatureDirs = []string{filepath.Dir(write("x.yaml", "apiVersion: plumb.dev/v1alpha1\nkind: FailureSignature\nspec: [\n"))}
		}, "x.yaml:"},
		{"a port of ingest that is taken", func(c *aggregator.Config) { c.ListenAddress = a.Ingest }, "address already in use"},
		{"a port of the API that is taken", func(c *aggregator.Config) { c.APIAddress = a.API }, "--api-address"},
		{"a port of metrics that is taken", func(c *aggregator.Config) { c.MetricsAddress = a.Metrics }, "--metrics-address"},
		{"a data directory that another has", func(*aggregator.Config) {}, "data"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config(dir)
			c.change(&cfg)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			err := aggregator.Run(ctx, cfg)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "\n", "one line")
		})
	}
}

func TestInitRefuses(t *testing.T) {
	for _, node := range []string{"", "n1", "n1=", "=uid", "../x=uid", "a/b=uid", "n1=u,zone", "n1=u,zone=", "n1=u,colour=red", ".hidden=u"} {
		_, err := aggregator.Init(aggregator.InitConfig{Dir: t.TempDir(), Cluster: "c", Nodes: []string{node}, Hosts: []string{"h"}, TokenTTL: time.Hour})
		require.Error(t, err, node)
	}
	_, err := aggregator.Init(aggregator.InitConfig{Dir: t.TempDir(), Cluster: "c", Nodes: []string{"n1=u", "n1=v"}, Hosts: []string{"h"}, TokenTTL: time.Hour})
	require.ErrorContains(t, err, "twice")
	dir := initDir(t)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		info, err := e.Info()
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), e.Name())
		require.False(t, strings.HasPrefix(e.Name(), ".new-"))
	}
	data, err := os.ReadFile(filepath.Join(dir, "n1.token"))
	require.NoError(t, err)
	require.Equal(t, 2, bytes.Count(data, []byte(".")))
}
