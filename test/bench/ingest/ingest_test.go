// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/plumb-dev/plumb/aggregator/bus"
	"github.com/plumb-dev/plumb/aggregator/identity"
	"github.com/plumb-dev/plumb/aggregator/ingest"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/evidence/v1/evidencev1connect"
	"github.com/plumb-dev/plumb/internal/mss"
	"github.com/plumb-dev/plumb/internal/pki"
)

type realState struct{ *state.State }

func (s realState) Apply(n identity.Node, at time.Time, req *evidencev1.PushRequest) (ingest.Applied, error) {
	a, err := s.State.Apply(state.NodeInfo(n), at, req)
	return ingest.Applied(a), err
}

// agent is one node with a connection of its own.
type agent struct {
	rpc   evidencev1connect.UplinkServiceClient
	token string
	uid   string
	seq   uint64
}

func agents(b *testing.B, n int) []*agent {
	b.Helper()
	dir := b.TempDir()
	var file strings.Builder
	fmt.Fprintf(&file, "apiVersion: plumb.dev/v1alpha1\nkind: Nodes\ncluster: bench\naudience: plumb\nsigningKey: %s\nnodes:\n", base64.StdEncoding.EncodeToString(make([]byte, 32)))
	for i := range n {
		fmt.Fprintf(&file, "- {name: n%d, uid: u%d, zone: z%d}\n", i, i, i%3)
	}
	path := filepath.Join(dir, "nodes.yaml")
	require.NoError(b, os.WriteFile(path, []byte(file.String()), 0o600))
	nodes, err := identity.LoadNodes(path)
	require.NoError(b, err)
	journal, err := bus.Open(context.Background(), bus.Config{Dir: filepath.Join(dir, "bus"), Tenant: "t", Cluster: "c", MaxPerSubject: 1 << 30, MaxBytes: 8 << 30, Log: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	service, err := ingest.New(ingest.Config{
		Authenticator: nodes, State: realState{state.New(state.Config{})}, Journal: journal, Token: bus.Token,
		Limits: ingest.Limits{BatchesPerSecond: 1e9, BatchBurst: 1 << 30, BytesPerSecond: 1e12, BytesBurst: 1 << 40},
	})
	require.NoError(b, err)
	files, err := pki.Create(dir, pki.Options{Hosts: []string{"127.0.0.1"}})
	require.NoError(b, err)
	l, err := ingest.Listen(context.Background(), ingest.ListenConfig{Address: "127.0.0.1:0", CertFile: files.Cert, KeyFile: files.Key, PerAddress: 1 << 20, NewPerAddress: 1e9})
	require.NoError(b, err)
	server := service.Server()
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()

	ca, err := os.ReadFile(files.CA)
	require.NoError(b, err)
	pool := x509.NewCertPool()
	require.True(b, pool.AppendCertsFromPEM(ca))
	out := make([]*agent, n)
	var transports []*http.Transport
	for i := range n {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true, DialContext: mss.Dialer(mss.Default).DialContext}
		transports = append(transports, tr)
		token, err := nodes.Mint(fmt.Sprint("n", i), time.Hour)
		require.NoError(b, err)
		out[i] = &agent{rpc: evidencev1connect.NewUplinkServiceClient(&http.Client{Transport: tr}, "https://"+l.Addr().String()), token: token, uid: fmt.Sprint("u", i)}
	}
	b.Cleanup(func() {
		for _, tr := range transports {
			tr.CloseIdleConnections()
		}
		require.NoError(b, server.Close())
		<-done
		require.NoError(b, journal.Close())
	})
	return out
}

// batch has about 2.5 KB: what changes on a node within 10 s.
func (a *agent) batch(episode bool) *evidencev1.PushRequest {
	a.seq++
	sent := uint64(1e12) + a.seq*1e9
	b := &evidencev1.Batch{SchemaVersion: evidence.SchemaVersion, NodeUid: a.uid, BootId: "k/1", Sequence: a.seq, Kind: evidencev1.Batch_FULL}
	if a.seq > 1 {
		b.Kind = evidencev1.Batch_DELTA
	}
	for d := range 14 {
		b.Observations = append(b.Observations, &evidencev1.Observation{
			Probe: "link", ObservedBoottimeNanoseconds: sent - 1e8,
			Subject: &evidencev1.Subject{Kind: evidence.SubjectDevice, Key: fmt.Sprintf("4026531840/%d", d), Name: fmt.Sprintf("veth%08x", d)},
			Items: []*evidencev1.Item{
				{Id: 100, State: &evidencev1.Item_Integer{Integer: 1500 + int64(a.seq%3)}, Rung: "rtnetlink"},
				{Id: 101, State: &evidencev1.Item_Text{Text: "port"}, Rung: "rtnetlink"},
				{Id: 102, State: &evidencev1.Item_Text{Text: "veth"}, Rung: "rtnetlink"},
				{Id: 103, State: &evidencev1.Item_Flag{Flag: true}, Rung: "rtnetlink"},
				{Id: 104, State: &evidencev1.Item_NotApplicable{NotApplicable: &evidencev1.NotApplicable{Detail: "not an overlay"}}},
			},
		})
	}
	b.Probes = []*evidencev1.ProbeStatus{{Name: "link", State: evidencev1.ProbeStatus_OK, SampledBoottimeNanoseconds: sent - 1e8}}
	if episode {
		id := evidence.EpisodeID(a.uid, "k/1", evidence.ConditionClockStep, "node", "node", sent)
		b.Episodes = []*evidencev1.Episode{{Id: id, Condition: evidence.ConditionClockStep, Subject: evidence.Node().Proto(), BootId: "k/1", OnsetBoottimeNanoseconds: sent - 1e9,
			Items: []*evidencev1.Item{{Id: 311, State: &evidencev1.Item_Number{Number: 1.5}, Uncertainty: 0.1}}}}
	}
	return &evidencev1.PushRequest{SentBoottimeNanoseconds: sent, Batch: b}
}

func (a *agent) push(req *evidencev1.PushRequest) error {
	r := connect.NewRequest(req)
	r.Header().Set("Authorization", "Bearer "+a.token)
	reply, err := a.rpc.Push(context.Background(), r)
	if err == nil && reply.Msg.GetAckedSequence() != a.seq {
		return fmt.Errorf("acknowledged %d, want %d", reply.Msg.GetAckedSequence(), a.seq)
	}
	return err
}

func processor() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPush sends as fast as it can, one batch at a time per connection.
func BenchmarkPush(b *testing.B) {
	for _, connections := range []int{1, 200} {
		for _, episode := range []bool{false, true} {
			b.Run(fmt.Sprintf("connections=%d/episode=%t", connections, episode), func(b *testing.B) {
				all := agents(b, connections)
				for _, a := range all { // handshakes are not what is measured
					require.NoError(b, a.push(a.batch(false)))
				}
				b.ReportMetric(float64(proto.Size(all[0].batch(episode))), "bytes/batch")
				all[0].seq--
				var next atomic.Int64
				var wg sync.WaitGroup
				latencies := make([][]time.Duration, connections)
				cpu := processor()
				b.ResetTimer()
				for i, a := range all {
					wg.Go(func() {
						for next.Add(1) <= int64(b.N) {
							begin := time.Now()
							if err := a.push(a.batch(episode)); err != nil {
								b.Error(err)
								return
							}
							latencies[i] = append(latencies[i], time.Since(begin))
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				took := slices.Concat(latencies...)
				slices.Sort(took)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "batches/s")
				b.ReportMetric(float64((processor()-cpu).Microseconds())/float64(b.N), "cpu-us/batch")
				if len(took) > 0 {
					b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
					b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
				}
			})
		}
	}
}
