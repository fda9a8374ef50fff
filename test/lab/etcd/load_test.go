// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// endless is a process that never ends.
type endless struct{ Process }

func (endless) Done() <-chan struct{} { return nil }
func (endless) Kill()                 {}

func TestALoadSeesFailuresAndEndsWithWhatItStarted(t *testing.T) {
	running := goleak.IgnoreCurrent()
	answer := make(chan int, 1)
	answer <- http.StatusOK
	hang := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := <-answer
		answer <- status
		if status == 0 {
			<-hang
			return
		}
		w.WriteHeader(status)
	}))
	m, err := Start(Config{
		Program: "/bin/etcd", Name: "a", DataDir: "/x", Peers: []Peer{{"a", netip.MustParseAddr("10.0.0.1")}},
	}, func([]string, []string) (Process, error) { return endless{}, nil },
		func(ctx context.Context, network, address string) (net.Conn, error) {
			require.Equal(t, "127.0.0.1:2379", address)
			return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
		})
	require.NoError(t, err)
	load := m.StartLoad(LoadConfig{Every: time.Millisecond, Timeout: 50 * time.Millisecond, Stall: 20 * time.Millisecond})
	set := func(status int) time.Time {
		<-answer
		answer <- status
		return time.Now()
	}
	within := func(what string, since time.Time, ok func(r LoadReport) bool) {
		testutils.Eventually(t, 10*time.Second, what, func() bool { return ok(load.Report(since)) })
	}
	within("puts succeed", time.Now(), func(r LoadReport) bool { return r.Count > r.Errors+5 })
	within("puts fail", set(http.StatusServiceUnavailable), func(r LoadReport) bool { return r.Errors > 5 })
	within("puts stall, and others are not begun", set(0), func(r LoadReport) bool { return r.Stalls > 5 && r.Errors > 5 && r.Skipped > 5 })
	load.Stop()
	m.Kill()
	close(hang)
	server.Close()
	goleak.VerifyNone(t, running)
}
