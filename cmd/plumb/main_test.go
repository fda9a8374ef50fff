// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/api/v1/apiv1connect"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// The test binary is the program itself when it is called by its name.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "plumb", "kubectl-plumb":
		os.Exit(run())
	}
	os.Exit(m.Run())
}

func program(t *testing.T, name string) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.Symlink(self, path))
	return path
}

// A server on which one verdict is proven, and watches never end.
type server struct {
	apiv1connect.UnimplementedQueryServiceHandler
	watched atomic.Int32
}

var proven = &apiv1.Verdict{Id: "3f9a2c41d07be85a", Signature: "network/a", Grade: "proven", State: "firing", Scope: &apiv1.Scope{Kind: "Node", Nodes: []string{"n1"}}}

func (s *server) ListNodes(context.Context, *connect.Request[apiv1.ListNodesRequest]) (*connect.Response[apiv1.ListNodesResponse], error) {
	return connect.NewResponse(&apiv1.ListNodesResponse{Nodes: []*apiv1.Node{{Name: "n1", State: "reporting"}}}), nil
}

func (s *server) ListVerdicts(context.Context, *connect.Request[apiv1.ListVerdictsRequest]) (*connect.Response[apiv1.ListVerdictsResponse], error) {
	return connect.NewResponse(&apiv1.ListVerdictsResponse{Verdicts: []*apiv1.Verdict{proven}}), nil
}

func (s *server) WatchVerdicts(ctx context.Context, _ *connect.Request[apiv1.WatchVerdictsRequest], stream *connect.ServerStream[apiv1.WatchVerdictsResponse]) error {
	if err := stream.Send(&apiv1.WatchVerdictsResponse{Verdict: proven, Synced: true}); err != nil {
		return err
	}
	s.watched.Add(1)
	<-ctx.Done()
	return ctx.Err()
}

func serve(t *testing.T) (*server, string) {
	t.Helper()
	s := &server{}
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewQueryServiceHandler(s))
	h := httptest.NewServer(mux)
	t.Cleanup(h.Close)
	return s, h.URL
}

func status(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

func TestProgram(t *testing.T) {
	_, url := serve(t)
	tests := []struct {
		name    string
		program string
		args    []string
		status  int
		out     string
		err     string
	}{
		{"a proven verdict", "plumb", []string{"verdicts", "--server", url}, 1, "proven", ""},
		{"help of the plugin", "kubectl-plumb", []string{"why", "--help"}, 0, "kubectl plumb why ID|NODE", ""},
		{"trouble", "plumb", []string{"verdicts", "--sever", url}, 2, "", "unknown flag: --sever; see plumb verdicts --help\n"},
		{"trouble of the plugin", "kubectl-plumb", []string{"verdicts", "--sever", url}, 2, "", "see kubectl plumb verdicts --help\n"},
		{"version", "plumb", []string{"version"}, 0, "plumb ", ""},
		{"a signature file that is not there", "plumb", []string{"signatures", "check", "/nonexistent.yaml"}, 2, "/nonexistent.yaml", "1 of 1 file does not load"},
		{"the shipped signatures pass", "plumb", []string{"signatures", "test", "../../signatures"}, 0, "0 failed", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(program(t, tt.program), tt.args...)
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			require.Equal(t, tt.status, status(cmd.Run()), errs.String())
			require.Contains(t, out.String(), tt.out)
			require.Contains(t, errs.String(), tt.err)
			if tt.err == "" {
				require.Empty(t, errs.String())
			}
		})
	}
}

func TestSignalsEndAWatchCleanly(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			s, url := serve(t)
			cmd := exec.Command(program(t, "plumb"), "verdicts", "--watch", "--server", url)
			var errs bytes.Buffer
			cmd.Stderr = &errs
			require.NoError(t, cmd.Start())
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			t.Cleanup(func() { _ = cmd.Process.Kill() })
			testutils.Eventually(t, 10*time.Second, "the watch is on", func() bool { return s.watched.Load() > 0 })
			require.NoError(t, cmd.Process.Signal(sig))
			select {
			case err := <-done:
				require.NoError(t, err)
			case <-time.After(10 * time.Second):
				t.Fatal("it goes on")
			}
			require.Empty(t, errs.String())
		})
	}
}

func TestReaderThatClosesEarlyIsNoTrouble(t *testing.T) {
	_, url := serve(t)
	cmd := exec.Command("sh", "-c", program(t, "plumb")+" verdicts --server "+url+" | true")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err)
	require.Empty(t, strings.TrimSpace(string(out)))
}
