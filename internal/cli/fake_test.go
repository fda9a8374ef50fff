// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/api/v1/apiv1connect"
)

// now is the moment at which every test asks.
var now = time.Date(2026, time.March, 9, 3, 14, 15, 0, time.UTC)

func ago(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }

// A fake answers like an aggregator, from what it was given.
type fake struct {
	apiv1connect.UnimplementedQueryServiceHandler
	nodes       []*apiv1.Node
	verdicts    []*apiv1.Verdict
	assessments []*apiv1.Assessment
	subjects    []*apiv1.SubjectEvidence
	episodes    []*apiv1.Episode
	signatures  []*apiv1.Signature
	// err is the answer to everything.
	err error
	// streams hands each new watch what it sends; closing one ends the stream.
	streams chan chan *apiv1.WatchVerdictsResponse
	// hang, when not nil, keeps every answer back until it is closed.
	hang chan struct{}
}

func (f *fake) wait(ctx context.Context) error {
	if f.hang != nil {
		select {
		case <-f.hang:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return f.err
}

func (f *fake) ListNodes(ctx context.Context, _ *connect.Request[apiv1.ListNodesRequest]) (*connect.Response[apiv1.ListNodesResponse], error) {
	return connect.NewResponse(&apiv1.ListNodesResponse{Nodes: f.nodes}), f.wait(ctx)
}

func (f *fake) ListVerdicts(_ context.Context, req *connect.Request[apiv1.ListVerdictsRequest]) (*connect.Response[apiv1.ListVerdictsResponse], error) {
	res := &apiv1.ListVerdictsResponse{}
	for _, v := range f.verdicts {
		if v.GetState() == "resolved" && !req.Msg.GetIncludeResolved() {
			continue
		}
		if req.Msg.GetNode() == "" || contains(v.GetScope().GetNodes(), req.Msg.GetNode()) {
			res.Verdicts = append(res.Verdicts, v)
		}
	}
	return connect.NewResponse(res), f.err
}

func (f *fake) GetVerdict(_ context.Context, req *connect.Request[apiv1.GetVerdictRequest]) (*connect.Response[apiv1.GetVerdictResponse], error) {
	if len(req.Msg.GetId()) < 6 {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("an id needs at least six characters"))
	}
	for _, v := range f.verdicts {
		if strings.HasPrefix(v.GetId(), req.Msg.GetId()) {
			return connect.NewResponse(&apiv1.GetVerdictResponse{Verdict: v}), nil
		}
	}
	return nil, connect.NewError(connect.CodeNotFound, errors.New("no such verdict"))
}

func (f *fake) ExplainNode(_ context.Context, req *connect.Request[apiv1.ExplainNodeRequest]) (*connect.Response[apiv1.ExplainNodeResponse], error) {
	for _, n := range f.nodes {
		if n.GetName() == req.Msg.GetNode() {
			res := &apiv1.ExplainNodeResponse{Node: n, Assessments: f.assessments}
			for _, v := range f.verdicts {
				if contains(v.GetScope().GetNodes(), n.GetName()) {
					res.Verdicts = append(res.Verdicts, v)
				}
			}
			return connect.NewResponse(res), nil
		}
	}
	return nil, connect.NewError(connect.CodeNotFound, errors.New("no such node"))
}

func (f *fake) GetEvidence(_ context.Context, req *connect.Request[apiv1.GetEvidenceRequest]) (*connect.Response[apiv1.GetEvidenceResponse], error) {
	for _, n := range f.nodes {
		if n.GetName() == req.Msg.GetNode() {
			return connect.NewResponse(&apiv1.GetEvidenceResponse{Node: n, Subjects: f.subjects}), nil
		}
	}
	return nil, connect.NewError(connect.CodeNotFound, errors.New("no such node"))
}

func (f *fake) ListEpisodes(context.Context, *connect.Request[apiv1.ListEpisodesRequest]) (*connect.Response[apiv1.ListEpisodesResponse], error) {
	return connect.NewResponse(&apiv1.ListEpisodesResponse{Episodes: f.episodes}), f.err
}

func (f *fake) ListSignatures(context.Context, *connect.Request[apiv1.ListSignaturesRequest]) (*connect.Response[apiv1.ListSignaturesResponse], error) {
	return connect.NewResponse(&apiv1.ListSignaturesResponse{Signatures: f.signatures}), f.err
}

func (f *fake) WatchVerdicts(ctx context.Context, _ *connect.Request[apiv1.WatchVerdictsRequest], stream *connect.ServerStream[apiv1.WatchVerdictsResponse]) error {
	if f.err != nil {
		return f.err
	}
	var messages chan *apiv1.WatchVerdictsResponse
	select {
	case messages = <-f.streams:
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		select {
		case m, ok := <-messages:
			if !ok {
				return nil
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serve starts the fake and returns its address.
func (f *fake) serve(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewQueryServiceHandler(f))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

// A run is one call of the CLI with its outcome.
type run struct {
	status int
	out    string
	err    string
}

type callOptions struct {
	program string
	term    Terminal
	env     map[string]string
	library Library
}

// call runs the CLI as a shell would.
func call(t *testing.T, opts callOptions, args ...string) run {
	t.Helper()
	var out, errs bytes.Buffer
	status := Run(t.Context(), config(opts, &out, &errs, args...))
	return run{status, out.String(), errs.String()}
}

func config(opts callOptions, out, errs io.Writer, args ...string) Config {
	if opts.program == "" {
		opts.program = "plumb"
	}
	return Config{
		Program: opts.program, Args: args, Stdout: out, Stderr: errs,
		Env:      func(name string) (string, bool) { v, ok := opts.env[name]; return v, ok },
		Now:      func() time.Time { return now },
		Location: time.UTC,
		Version:  Version{Version: "v0.1.0", BuildTime: "2026-03-01T00:00:00Z", GoVersion: "go1.26", Platform: "linux/amd64"},
		Library:  opts.library,
		BinDir:   "/nonexistent",
		Detect:   func(io.Writer, func(string) (string, bool)) Terminal { return opts.term },
	}
}

// A syncBuffer may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// sick is a cluster in which an overlay's MTU is too large on n1, n2 is blind,
// and n3 is silent.
func sick(t *testing.T) *fake {
	t.Helper()
	value := func(fields map[string]any) *structpb.Struct {
		s, err := structpb.NewStruct(fields)
		require.NoError(t, err)
		return s
	}
	probes := []*apiv1.Probe{
		{Name: "clock", State: "ok", SampledAt: ago(3 * time.Second), Hooks: []*apiv1.Hook{{Signal: "clock.step", Rung: "timerfd", Confirmed: true}}},
		{Name: "link", State: "ok", SampledAt: ago(3 * time.Second)},
		{Name: "oversize", State: "ok", SampledAt: ago(2 * time.Second), Hooks: []*apiv1.Hook{{Signal: "oversize.drop", Rung: "tp_btf/kfree_skb", Confirmed: true}}},
	}
	root := &apiv1.Verdict{
		Id: "3f9a2c41d07be85a", Signature: "network/mtu-overlay-mismatch", Loop: "network", Grade: "proven", State: "firing", Severity: "critical",
		Title:   "An overlay's MTU is larger than its underlay can carry",
		Scope:   &apiv1.Scope{Kind: "Device", Nodes: []string{"n1"}, Zones: []string{"a"}, Device: "flannel.1"},
		Onset:   ago(130 * time.Second),
		Summary: "flannel.1 on n1 accepts packets of 1500 bytes, but only 1450 fit through eth0; what is larger is dropped",
		GradedAt: map[string]*timestamppb.Timestamp{
			"suspected": ago(130 * time.Second), "likely": ago(130 * time.Second), "proven": ago(127 * time.Second),
		},
		Bans: 3.2, ProofSet: "drops-seen", UpdatedAt: ago(2 * time.Second), SignatureHash: "00112233aabbccdd",
		Proof: []*apiv1.Proof{
			{Node: "n1", Clause: "counters", Subject: "device flannel.1", Evidence: "link.transmit_dropped_total", Kind: "device counter", Claim: "flannel.1 counted 214 dropped transmits", Bans: 0.2, Rung: "rtnetlink", ObservedAt: ago(3 * time.Second), Value: value(map[string]any{"link.transmit_dropped_total": 214})},
			{Node: "n1", Clause: "drops", Subject: "device flannel.1", Evidence: "oversize.encapsulated_drops_window,oversize.encapsulated_site", Kind: "kernel drop event", Claim: "214 packets of 1501 to 1550 bytes were dropped in ip_fragment on eth0 within 30 s, because they were over 1500 bytes", Bans: 2, Rung: "tp_btf/kfree_skb", ObservedAt: ago(2 * time.Second), Decisive: true, Value: value(map[string]any{"oversize.encapsulated_drops_window": 214, "oversize.encapsulated_site": "ip_fragment on eth0"})},
			{Node: "n1", Clause: "mismatch", Subject: "device flannel.1", Evidence: "link.mtu_bytes,link.expected_mtu_bytes", Kind: "configuration", Claim: "flannel.1 has MTU 1500; 1500 (eth0) − 50 (VXLAN over IPv4) = 1450 fit", Bans: 1, Rung: "rtnetlink", ObservedAt: ago(3 * time.Second), Decisive: true, Value: value(map[string]any{"link.mtu_bytes": 1500, "link.expected_mtu_bytes": 1450})},
		},
		Refuted: []*apiv1.Refutation{
			{Signature: "route MTU", Because: "The pod's route carries no lower MTU: it lets 1500 bytes in"},
			{Signature: "network/path-loss", Because: "Small packets of the same flows arrived: 0 of 30 lost."},
		},
		Unknown:      []*apiv1.UnknownFact{{Node: "n1", Clause: "pod-routes", Evidence: "link.pod_route_mtu_bytes", Reason: "blind", Detail: "may not enter the pods' namespaces; add SYS_ADMIN by the overlay in deploy/"}},
		Consequences: []string{"77aa00bb11cc22dd"},
		Mitigation: `Lower the MTU of the overlay to 1450 on every node, then restart the pods:

    kubectl -n kube-flannel patch configmap kube-flannel-cfg --type merge -p '{"data":{"net-conf.json":"{\"MTU\":1450}"}}'

Until then, clamp what leaves:
    ip link set flannel.1 mtu 1450
`,
	}
	follows := &apiv1.Verdict{
		Id: "77aa00bb11cc22dd", Signature: "network/oversize-drop-local", Loop: "network", Grade: "likely", State: "firing", Severity: "warning",
		Title: "A node drops packets for their size", Scope: &apiv1.Scope{Kind: "Device", Nodes: []string{"n1"}, Zones: []string{"a"}, Device: "eth0"},
		Onset: ago(129 * time.Second), Summary: "eth0 on n1 drops packets over 1500 bytes", Reason: "the flows adapted", Bans: 2.1, UpdatedAt: ago(2 * time.Second),
	}
	skew := &apiv1.Verdict{
		Id: "c0ffee00c0ffee00", Signature: "identity/clock-skew", Loop: "identity", Grade: "suspected", State: "pending", Severity: "warning",
		Title: "A node's clock is wrong", Scope: &apiv1.Scope{Kind: "Node", Nodes: []string{"n2"}, Zones: []string{"b"}},
		Onset: ago(4 * time.Second), Summary: "the clock of n2 is 0.61 s ahead", Reason: "only one source group answers; two must agree", Bans: 1, UpdatedAt: ago(1 * time.Second),
		JournalError: "append to the journal: disk full; free space under --data-dir",
	}
	old := &apiv1.Verdict{
		Id: "0123456789abcdef", Signature: "identity/clock-skew", Loop: "identity", Grade: "proven", State: "resolved", Severity: "critical",
		Title: "A node's clock is wrong", Scope: &apiv1.Scope{Kind: "Node", Nodes: []string{"n1"}, Zones: []string{"a"}},
		Onset: ago(26 * time.Hour), ResolvedAt: ago(25 * time.Minute), Summary: "the clock of n1 was 420.2 s behind", UpdatedAt: ago(25 * time.Minute), ProofSet: "groups",
	}
	return &fake{
		streams: make(chan chan *apiv1.WatchVerdictsResponse, 4),
		nodes: []*apiv1.Node{
			{Name: "n1", Uid: "u1", Zone: "a", Pool: "default", Kernel: "6.12.9", State: "reporting", LastBatchAt: ago(2 * time.Second), BootId: "b1", Batches: 812, AgentVersion: "v0.1.0", TlsTimeSource: "node clock", Probes: probes},
			{Name: "n2", Uid: "u2", Zone: "b", Pool: "default", Kernel: "5.4.0", State: "reporting", LastBatchAt: ago(4 * time.Second), TlsTimeSource: "measured", TlsTimeCorrectionSeconds: -420.25, DroppedEpisodes: 2, Probes: []*apiv1.Probe{
				{Name: "clock", State: "ok", SampledAt: ago(4 * time.Second)},
				{Name: "link", State: "failed", Detail: "read links: netlink receive: no buffer space available", SampledAt: ago(14 * time.Second)},
				{Name: "oversize", State: "unsupported", Detail: "the kernel has no BTF; use one built with CONFIG_DEBUG_INFO_BTF", Hooks: []*apiv1.Hook{
					{Signal: "oversize.drop", Detail: "no BTF at /sys/kernel/btf/vmlinux"}, {Signal: "oversize.quiet", Rung: "kprobe", Detail: "no self-test event came within 1 s"},
				}},
			}},
			{Name: "n3", Uid: "u3", Zone: "b", State: "silent", LastBatchAt: ago(95 * time.Second), TlsTimeSource: "node clock", Probes: probes[:1]},
		},
		verdicts: []*apiv1.Verdict{follows, skew, root, old},
		assessments: []*apiv1.Assessment{
			{Signature: "network/mtu-overlay-mismatch", Title: root.Title, Result: "proven", Subject: "device flannel.1", Bans: 3.2, Because: root.Summary},
			{Signature: "network/oversize-drop-local", Result: "none", Subject: "device lo", Because: "no packet was dropped for its size"},
			{Signature: "network/oversize-drop-local", Result: "none", Subject: "device eth1", Because: "no packet was dropped for its size"},
			{Signature: "identity/clock-skew", Result: "refuted", Subject: "node", Because: "the clock is right: ±3 ms by three source groups"},
			{Signature: "network/path-loss", Result: "unknown", Subject: "node", Because: "no path probe has run yet", Unknown: []*apiv1.UnknownFact{{Evidence: "path.loss_ratio", Reason: "warming up", Detail: "the first ladder takes 10 s"}}},
		},
		subjects: []*apiv1.SubjectEvidence{
			{Kind: "node", Key: "node", Name: "node", Items: []*apiv1.EvidenceItem{
				{Item: "clock.offset_seconds", Unit: "seconds", State: "value", Value: structpb.NewNumberValue(-0.0012345678), Uncertainty: 0.003, Rung: "sntp", ObservedAt: ago(3 * time.Second)},
				{Item: "clock.unsynchronised", State: "value", Value: structpb.NewBoolValue(false), Rung: "adjtimex", ObservedAt: ago(3 * time.Second)},
				{Item: "clock.step_seconds", Unit: "seconds", State: "not applicable", Detail: "no step within five minutes", Rung: "timerfd", ObservedAt: ago(3 * time.Second)},
			}},
			{Kind: "device", Key: "4026531840/7", Name: "flannel.1", Items: []*apiv1.EvidenceItem{
				{Item: "link.mtu_bytes", Unit: "bytes", State: "value", Value: structpb.NewNumberValue(1500), Rung: "rtnetlink", ObservedAt: ago(3 * time.Second)},
				{Item: "link.role", State: "value", Value: structpb.NewStringValue("overlay"), Rung: "rtnetlink", ObservedAt: ago(3 * time.Second)},
				{Item: "link.pod_route_mtu_bytes", Unit: "bytes", State: "unknown", Reason: "blind", Detail: "may not enter the pods' namespaces", Rung: "setns", ObservedAt: ago(3 * time.Second)},
				{Item: "link.receive_dropped_total", State: "value", Value: structpb.NewNumberValue(123456789012), Rung: "rtnetlink", ObservedAt: ago(3 * time.Second)},
			}},
		},
		episodes: []*apiv1.Episode{
			{Id: "e1", Node: "n1", Condition: "clock.offset", Subject: "node", Onset: ago(26 * time.Hour), ClosedAt: ago(25 * time.Minute), OnsetClaimed: true},
			{Id: "e2", Node: "n1", Condition: "oversize.encapsulated_drops", Subject: "device flannel.1", Onset: ago(131 * time.Second)},
		},
		signatures: []*apiv1.Signature{
			{Id: "identity/clock-skew", Title: "A node's clock is wrong", Severity: "critical", Origin: "built in", Hash: "0123456789abcdef"},
			{Id: "network/mtu-overlay-mismatch", Title: "An overlay's MTU is larger than its underlay can carry", Severity: "critical", Origin: "built in", Hash: "00112233aabbccdd"},
		},
	}
}

// sound is a cluster in which nothing is wrong and everything is seen.
func sound(t *testing.T) *fake {
	f := sick(t)
	f.nodes, f.verdicts, f.episodes = f.nodes[:1], nil, nil
	f.assessments = f.assessments[1:4]
	return f
}
