// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/evidence/v1/evidencev1connect"
)

func post(t *testing.T, client *http.Client, base string, header map[string]string, body io.Reader) (int, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, base+evidencev1connect.UplinkServicePushProcedure, body)
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/proto")
	r.Header.Set("Authorization", "Bearer t1")
	for k, v := range header {
		r.Header.Set(k, v)
	}
	reply, err := client.Do(r)
	require.NoError(t, err)
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	require.NoError(t, err)
	return reply.StatusCode, string(text)
}

func TestBodiesThatAreRefused(t *testing.T) {
	f := newFixture(t, nil)
	base, client := f.serve(t)
	good, err := proto.Marshal(goodBatch(1))
	require.NoError(t, err)
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	zeros := make([]byte, 1<<20)
	for range 64 {
		_, err := z.Write(zeros)
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())

	for _, tc := range []struct {
		name   string
		header map[string]string
		body   []byte
		status int
		says   string
	}{
		{"nothing", nil, nil, 400, "the request holds no batch"},
		{"garbage", nil, bytes.Repeat([]byte{0xff}, 100), 400, "invalid_argument"},
		{"half a batch", nil, good[:len(good)/2], 400, "invalid_argument"},
		{"a batch with a byte changed in a length", nil, append([]byte{good[0], good[1] ^ 0x40}, good[2:]...), 400, "invalid_argument"},
		{"more than 4 MiB", nil, make([]byte, 4<<20+1), 429, "is larger than configured max 4194304"},
		{"64 MiB in a few kilobytes", map[string]string{"Content-Encoding": "gzip"}, bomb.Bytes(), 429, "is larger than configured max 4194304"},
		{"gzip that is none", map[string]string{"Content-Encoding": "gzip"}, good, 400, "gzip"},
		{"another compression", map[string]string{"Content-Encoding": "br"}, good, 501, "unknown compression"},
		{"another type", map[string]string{"Content-Type": "text/plain"}, good, 415, ""},
		{"JSON of another shape", map[string]string{"Content-Type": "application/json"}, []byte(`{"batch":[]}`), 400, "invalid_argument"},
		{"JSON with a field that nobody knows", map[string]string{"Content-Type": "application/json"}, []byte(`{"bach":{}}`), 400, "the request holds no batch"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			status, text := post(t, client, base, tc.header, bytes.NewReader(tc.body))
			runtime.ReadMemStats(&after)
			require.Equal(t, tc.status, status, text)
			require.Contains(t, text, tc.says)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20), "bytes allocated for it")
		})
	}
	require.Zero(t, f.state.count()+f.journal.count())
	status, _ := post(t, client, base, nil, bytes.NewReader(good))
	require.Equal(t, 200, status, "and the node may go on")
}

// stuck is a body that never comes; closing it ends the wait.
type stuck struct{ stop chan struct{} }

func newStuck() *stuck { return &stuck{stop: make(chan struct{}, 1)} }

func (s *stuck) Read([]byte) (int, error) { <-s.stop; return 0, io.ErrClosedPipe }

func (s *stuck) Close() error {
	select {
	case s.stop <- struct{}{}:
	default:
	}
	return nil
}

func TestBodyThatNeverComesIsGivenUp(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Limits.BodyTimeout = 50 * time.Millisecond; c.Limits.CallsAtOnce = 1 })
	base, client := f.serve(t)
	status, text := post(t, client, base, nil, newStuck())
	require.NotEqual(t, 200, status, text)
	_, err := evidencev1connect.NewUplinkServiceClient(client, base).Push(context.Background(), with("t1", goodBatch(1)))
	require.NoError(t, err, "its place is free again")
}

func TestFloodHurtsOnlyTheNodeThatMakesIt(t *testing.T) {
	c := &clock{t: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)}
	f := newFixture(t, func(cfg *Config) { cfg.Now = c.now; cfg.Limits.BatchBurst = 10 })
	base, client := f.serve(t)
	rpc := evidencev1connect.NewUplinkServiceClient(client, base)
	for i := range 10 {
		_, err := rpc.Push(context.Background(), with("t1", goodBatch(uint64(i+1))))
		require.NoError(t, err)
	}
	_, err := rpc.Push(context.Background(), with("t1", goodBatch(11)))
	require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(err))
	require.ErrorContains(t, err, "node n1 makes too many calls: wait and try again")
	other := goodBatch(1)
	other.Batch.NodeUid = "u2"
	_, err = rpc.Push(context.Background(), with("t2", other))
	require.NoError(t, err, "another node is served")
	c.advance(time.Second)
	_, err = rpc.Push(context.Background(), with("t1", goodBatch(11)))
	require.NoError(t, err, "and the first one again a second later")
}

func TestVolumeIsBoundedToo(t *testing.T) {
	c := &clock{t: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)}
	f := newFixture(t, func(cfg *Config) { cfg.Now = c.now; cfg.Limits.BytesBurst = 4000; cfg.Limits.BytesPerSecond = 1000 })
	base, client := f.serve(t)
	rpc := evidencev1connect.NewUplinkServiceClient(client, base)
	big := func(seq uint64) *evidencev1.PushRequest {
		r := goodBatch(seq)
		r.Batch.Observations[0].Items[4].GetUnknown().Detail = strings.Repeat("x", 1000)
		return r
	}
	seq := uint64(0)
	var err error
	for err == nil && seq < 10 {
		seq++
		_, err = rpc.Push(context.Background(), with("t1", big(seq)))
	}
	require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(err))
	require.Equal(t, uint64(5), seq, "three of 1.2 kB are in 4 kB and the fourth may overdraw")
	c.advance(2 * time.Second)
	_, err = rpc.Push(context.Background(), with("t1", big(seq)))
	require.NoError(t, err)
}

func TestCallsAtOnceAreBounded(t *testing.T) {
	f := newFixture(t, func(cfg *Config) { cfg.Limits.CallsAtOnce = 2; cfg.Limits.BodyTimeout = 10 * time.Second })
	base, client := f.serve(t)
	rpc := evidencev1connect.NewUplinkServiceClient(client, base)
	bodies := []*stuck{newStuck(), newStuck()}
	done := make(chan struct{}, 2)
	for _, body := range bodies {
		go func() {
			r, err := http.NewRequest(http.MethodPost, base+evidencev1connect.UplinkServicePushProcedure, body)
			if err == nil {
				r.Header.Set("Content-Type", "application/proto")
				r.Header.Set("Authorization", "Bearer t1")
				if reply, err := client.Do(r); err == nil {
					reply.Body.Close()
				}
			}
			done <- struct{}{}
		}()
	}
	p, err := f.service.peer(node1)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(p.slots) == 2 }, 5*time.Second, time.Millisecond)
	_, err = rpc.Push(context.Background(), with("t1", goodBatch(1)))
	require.ErrorContains(t, err, "too many calls at once")
	for _, body := range bodies {
		body.Close()
	}
	<-done
	<-done
}

func TestNodesThatAreRememberedAreBounded(t *testing.T) {
	c := &clock{t: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)}
	f := newFixture(t, func(cfg *Config) { cfg.Now = c.now; cfg.Limits.Nodes = 2 })
	for i := range 5 {
		f.tokens.m[fmt.Sprint("x", i)] = node(i)
	}
	_, err1 := f.service.peer(node(1))
	_, err2 := f.service.peer(node(2))
	_, err3 := f.service.peer(node(3))
	require.NoError(t, err1)
	require.NoError(t, err2)
	require.ErrorContains(t, err3, "at most 2 are served")
	c.advance(2 * time.Hour)
	_, err3 = f.service.peer(node(3))
	require.NoError(t, err3, "those that are long silent make room")
}

func TestPanicCostsOneCall(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Token = func(string) string { panic("boom") } })
	base, client := f.serve(t)
	rpc := evidencev1connect.NewUplinkServiceClient(client, base)
	_, err := rpc.Push(context.Background(), with("t1", goodBatch(1)))
	require.Equal(t, connect.CodeInternal, connect.CodeOf(err))
	require.NotContains(t, err.Error(), "boom")
	calm := goodBatch(1)
	calm.Batch.Episodes = nil
	_, err = rpc.Push(context.Background(), with("t1", calm))
	require.NoError(t, err, "the node's gate is open again")
}

func TestTraceOfARequest(t *testing.T) {
	for header, want := range map[string]string{
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01": "4bf92f3577b34da6a3ce929d0e0e4736",
		"": "", "00-xyz-1-1": "", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01": "",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01":  "",
		"00-4bf92f3577b34da6a3ce929d0e0e473\n-00f067aa0ba902b7-01": "",
	} {
		require.Equal(t, want, traceID(header), "%q", header)
	}
}

func TestRepeatedLinesAreCountedInsteadOfWritten(t *testing.T) {
	c := &clock{t: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)}
	q := newQuiet(c.now)
	_, ok := q.say("a")
	require.True(t, ok)
	for range 5 {
		_, ok = q.say("a")
		require.False(t, ok)
	}
	_, ok = q.say("b")
	require.True(t, ok)
	c.advance(time.Minute)
	n, ok := q.say("a")
	require.True(t, ok)
	require.Equal(t, 5, n)
}
