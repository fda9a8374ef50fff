// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/evidence"
)

// deadAddress is a port of the loopback on which nothing listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return "http://" + l.Addr().String()
}

// Every way to get a verb wrong ends with status 2, nothing on standard output,
// and one line on standard error that holds the mend.
func TestTroubleIsOneLineWithTheMend(t *testing.T) {
	server := sick(t).serve(t)
	dead := deadAddress(t)
	other := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(other.Close)
	refusing := (&fake{err: connect.NewError(connect.CodePermissionDenied, errors.New(`host "evil.example" is not allowed`))}).serve(t)
	broken := (&fake{err: connect.NewError(connect.CodeInternal, errors.New("replay verdicts: disk full"))}).serve(t)
	hanging := &fake{hang: make(chan struct{})}
	slow := hanging.serve(t)
	t.Cleanup(func() { close(hanging.hang) })

	tests := []struct {
		name string
		args []string
		env  map[string]string
		want []string
	}{
		{name: "nothing listens", args: []string{"verdicts", "--server", dead}, want: []string{dead, "connection refused", "--server"}},
		{name: "nothing listens, from the environment", args: []string{"nodes"}, env: map[string]string{"PLUMB_SERVER": dead}, want: []string{dead, "PLUMB_SERVER"}},
		{name: "nothing listens for a watch", args: []string{"verdicts", "--watch", "--server", dead}, want: []string{"connection refused"}},
		{name: "nothing listens for why", args: []string{"why", "n1", "--server", dead}, want: []string{"connection refused"}},
		{name: "nothing listens for evidence", args: []string{"evidence", "n1", "--server", dead}, want: []string{"connection refused"}},
		{name: "nothing listens for episodes", args: []string{"episodes", "--server", dead}, want: []string{"connection refused"}},
		{name: "nothing listens for signatures", args: []string{"signatures", "list", "--server", dead}, want: []string{"connection refused"}},
		{name: "something else listens", args: []string{"nodes", "--server", other.URL}, want: []string{"not its read API", "--api-address"}},
		{name: "the server refuses our host name", args: []string{"nodes", "--server", refusing}, want: []string{"evil.example", "--allowed-host"}},
		{name: "the server fails", args: []string{"nodes", "--server", broken}, want: []string{"disk full"}},
		{name: "no answer in time", args: []string{"nodes", "--server", slow, "--timeout", "50ms"}, want: []string{"50ms", "--timeout"}},
		{name: "no first message of a watch in time", args: []string{"verdicts", "-w", "--server", sick(t).serve(t), "--timeout", "50ms"}, want: []string{"50ms"}},
		{name: "server is no URL", args: []string{"nodes", "--server", "localhost:9952"}, want: []string{"--server", "localhost:9952", "http://"}},
		{name: "timeout is zero", args: []string{"nodes", "--timeout", "0s"}, want: []string{"--timeout"}},
		{name: "timeout in the environment is no duration", args: []string{"nodes"}, env: map[string]string{"PLUMB_TIMEOUT": "soon"}, want: []string{"PLUMB_TIMEOUT", "soon"}},
		{name: "unknown flag", args: []string{"nodes", "--colour"}, want: []string{"--colour", "plumb nodes --help"}},
		{name: "unknown verb", args: []string{"verdict"}, want: []string{`"verdict"`, `"verdicts"`, "plumb --help"}},
		{name: "unknown verb below signatures", args: []string{"signatures", "lst"}, want: []string{`"lst"`, `"list"`, "plumb signatures --help"}},
		{name: "argument too many", args: []string{"nodes", "n1"}, want: []string{"no arguments", "plumb nodes --help"}},
		{name: "why of nothing", args: []string{"why"}, want: []string{"id of a verdict", "plumb why --help"}},
		{name: "why of what nobody knows", args: []string{"why", "deadbeef", "--server", server}, want: []string{`"deadbeef"`, "n1, n2, n3", "plumb nodes"}},
		{name: "why of an id that is too short", args: []string{"why", "3f9a", "--server", server}, want: []string{"six characters"}},
		{name: "evidence of an unknown node", args: []string{"evidence", "n9", "--server", server}, want: []string{`"n9"`, "n1, n2, n3"}},
		{name: "evidence of an unknown probe", args: []string{"evidence", "n1", "--probe", "dns", "--server", server}, want: []string{`"dns"`, "clock, link, oversize"}},
		{name: "episodes of an unknown node", args: []string{"episodes", "n9", "--server", server}, want: []string{`"n9"`, "n1, n2, n3"}},
		{name: "verdicts of an unknown node", args: []string{"verdicts", "--node", "n9", "--server", server}, want: []string{`"n9"`, "n1, n2, n3"}},
		{name: "completion for an unknown shell", args: []string{"completion", "tcsh"}, want: []string{"tcsh", "bash, zsh and fish"}},
		{name: "signatures check of nothing", args: []string{"signatures", "check"}, want: []string{"at least one file"}},
		{name: "signatures test of nothing", args: []string{"signatures", "test"}, want: []string{"one directory"}},
		{name: "local as JSON without end", args: []string{"local", "--json"}, want: []string{"--once"}},
		{name: "local without the other binaries", args: []string{"local", "--once"}, want: []string{"plumb-aggregator", "/nonexistent", "--bin-dir"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			began := time.Now()
			got := call(t, callOptions{env: tt.env, term: Terminal{Width: 80}}, tt.args...)
			require.Less(t, time.Since(began), 3*time.Second, "a person waits")
			require.Equal(t, StatusTrouble, got.status)
			require.Empty(t, got.out)
			require.Equal(t, 1, strings.Count(got.err, "\n"), "one line, got %q", got.err)
			require.True(t, strings.HasPrefix(got.err, "plumb: "), got.err)
			for _, want := range tt.want {
				require.Contains(t, got.err, want)
			}
		})
	}
}

func TestForeignTextCannotDriveTheTerminal(t *testing.T) {
	f := sick(t)
	f.nodes[0].Kernel = "6.1\x1b]0;owned\x07\u202e"
	server := f.serve(t)
	got := call(t, callOptions{term: Terminal{Width: 200, Unicode: true}}, "nodes", "--server", server)
	require.Contains(t, got.out, "6.1?]0;owned??")
	trouble := call(t, callOptions{}, "why", "\x1b[31mdeadbeef", "--server", server)
	require.NotContains(t, trouble.err, "\x1b")
}

func TestNothingIsHealthyThatSaysNothing(t *testing.T) {
	tests := []struct {
		name   string
		change func(*fake)
		args   []string
		want   string
	}{
		{"no node at all", func(f *fake) { f.nodes = nil }, []string{"verdicts"}, "no node is reporting"},
		{"no node at all, listed", func(f *fake) { f.nodes = nil }, []string{"nodes"}, "knows no node yet"},
		{"no signature", func(f *fake) { f.signatures = nil }, []string{"verdicts"}, "no signature"},
		{"no probe", func(f *fake) { f.nodes[0].Probes = nil }, []string{"verdicts"}, "nothing that could be seen"},
		{"a failed probe", func(f *fake) { f.nodes[0].Probes[0].State = "failed" }, []string{"verdicts"}, "nothing that could be seen"},
		{"a probe that runs without any hook", func(f *fake) { f.nodes[0].Probes[2].Hooks[0].Rung = "" }, []string{"why", "n1"}, "oversize: blind"},
		{"a probe whose only hook failed its self-test", func(f *fake) { f.nodes[0].Probes[2].Hooks[0].Confirmed = false }, []string{"nodes"}, "oversize blind"},
		{"a stale probe of a node", func(f *fake) { f.nodes[0].Probes[0].State = "stale" }, []string{"why", "n1"}, "nothing that could be seen"},
		{"nothing weighed", func(f *fake) { f.assessments = nil }, []string{"why", "n1"}, "no signature was weighed"},
		{"a node that never reported", func(f *fake) { f.nodes[0].State, f.nodes[0].LastBatchAt = "never", nil }, []string{"why", "n1"}, "has never reported"},
		{"no evidence", func(f *fake) { f.subjects = nil }, []string{"evidence", "n1"}, "no evidence of n1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := sound(t)
			tt.change(f)
			got := call(t, callOptions{term: Terminal{Width: 100}}, append(tt.args, "--server", f.serve(t))...)
			require.Zero(t, got.status)
			require.Contains(t, got.out, tt.want)
			require.NotContains(t, got.out, "nothing is out of true")
		})
	}
}

func TestStaleProvenVerdictIsNotStatusOne(t *testing.T) {
	f := sick(t)
	for _, v := range f.verdicts {
		v.State = "stale"
	}
	got := call(t, callOptions{}, "verdicts", "--server", f.serve(t))
	require.Equal(t, StatusFine, got.status, "nobody sees it any more")
	require.Contains(t, got.out, "stale")
}

func TestSignatureFiles(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	require.NoError(t, os.WriteFile(bad, []byte("apiVersion: plumb.dev/v1alpha1\nkind: FailureSignature\nspce: {}\n"), 0o600))
	library := callOptions{library: SignatureFiles{Catalog: evidence.NewCatalog()}}

	t.Run("check says where a file does not load", func(t *testing.T) {
		got := call(t, library, "signatures", "check", bad)
		require.Equal(t, StatusTrouble, got.status)
		require.Regexp(t, `bad\.yaml:3:1: .*spce`, got.out)
		require.Contains(t, got.err, "1 of 1 file does not load")
	})
	t.Run("check of a file that is not there", func(t *testing.T) {
		got := call(t, library, "signatures", "check", filepath.Join(dir, "none.yaml"))
		require.Equal(t, StatusTrouble, got.status)
		require.Contains(t, got.out, "none.yaml")
	})
	t.Run("test says where a file does not load", func(t *testing.T) {
		got := call(t, library, "signatures", "test", dir)
		require.Equal(t, StatusTrouble, got.status)
		require.Regexp(t, `bad\.yaml:3:1: .*spce`, got.out)
		require.Equal(t, 1, strings.Count(got.err, "\n"))
	})
	t.Run("test of an empty directory", func(t *testing.T) {
		got := call(t, library, "signatures", "test", t.TempDir())
		require.Equal(t, StatusTrouble, got.status)
		require.Equal(t, 1, strings.Count(got.err, "\n"))
	})
}

// A library that answers what it was given.
type library struct {
	report TestReport
	hang   chan struct{}
}

func (l library) Check(string) []error { return nil }

func (l library) Test(string) (TestReport, error) {
	if l.hang != nil {
		<-l.hang
	}
	return l.report, nil
}

func TestSignatureCases(t *testing.T) {
	t.Run("all pass", func(t *testing.T) {
		got := call(t, callOptions{library: library{report: TestReport{Signatures: 3, Cases: 12, Generated: 40}}}, "signatures", "test", "x")
		require.Equal(t, run{0, "ok  3 signatures: 52 cases (12 written, 40 with one item taken away), 0 failed\n", ""}, got)
	})
	t.Run("one fails", func(t *testing.T) {
		report := TestReport{Signatures: 1, Cases: 1, Failures: []TestFailure{{File: "a.yaml", Line: 7, Column: 5, Signature: "network/a", Case: "fires", What: "expected proven, came likely"}}}
		got := call(t, callOptions{library: library{report: report}}, "signatures", "test", "x")
		require.Equal(t, 1, got.status)
		require.Contains(t, got.out, `a.yaml:7:5: network/a: case "fires": expected proven, came likely`)
		require.Empty(t, got.err)
	})
	t.Run("none at all", func(t *testing.T) {
		got := call(t, callOptions{library: library{report: TestReport{Signatures: 1}}}, "signatures", "test", "x")
		require.Equal(t, StatusTrouble, got.status)
	})
	t.Run("check passes", func(t *testing.T) {
		got := call(t, callOptions{library: library{}}, "signatures", "check", "a.yaml", "b.yaml")
		require.Equal(t, run{0, "ok  a.yaml\nok  b.yaml\n", ""}, got)
	})
	t.Run("Ctrl-C ends a long one", func(t *testing.T) {
		hang := make(chan struct{})
		t.Cleanup(func() { close(hang) })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		var out, errs syncBuffer
		require.Zero(t, Run(ctx, config(callOptions{library: library{hang: hang}}, &out, &errs, "signatures", "test", "x")))
		require.Empty(t, errs.String())
	})
}
