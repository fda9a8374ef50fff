// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/api/v1/apiv1connect"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// The test binary stands in for both programs: it is linked under their names,
// and behaves as the variable says.
const behaviour = "PLUMB_LOCAL_TEST"

func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "plumb-aggregator":
		os.Exit(playAggregator())
	case "plumb-agent":
		os.Exit(playAgent())
	case "plumb-driver":
		os.Exit(playDriver())
	}
	os.Exit(m.Run())
}

func flagsOf(names ...string) map[string]*string {
	flags := pflag.NewFlagSet(os.Args[0], pflag.ContinueOnError)
	values := make(map[string]*string)
	for _, name := range names {
		values[name] = flags.String(name, "", "")
	}
	if err := flags.Parse(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return values
}

type played struct {
	apiv1connect.UnimplementedQueryServiceHandler
	dir string
}

// ListNodes says "reporting" once the agent has left its mark.
func (p played) ListNodes(context.Context, *connect.Request[apiv1.ListNodesRequest]) (*connect.Response[apiv1.ListNodesResponse], error) {
	n := &apiv1.Node{Name: "here", State: "never"}
	if _, err := os.Stat(filepath.Join(p.dir, "reported")); err == nil {
		n.State = "reporting"
		n.Probes = []*apiv1.Probe{{Name: "link", State: "ok"}, {Name: "clock", State: "ok"}}
		if strings.Contains(os.Getenv(behaviour), "probe-starts") {
			n.Probes[1].State = "starting"
		}
	}
	return connect.NewResponse(&apiv1.ListNodesResponse{Nodes: []*apiv1.Node{n}}), nil
}

func playAggregator() int {
	f := flagsOf("listen-address", "api-address", "metrics-address", "nodes", "tls-cert", "tls-key", "data-dir", "cluster")
	if strings.Contains(os.Getenv(behaviour), "aggregator-crashes") {
		fmt.Println(`{"msg":"open bus","error":"disk full"}`)
		return 3
	}
	if strings.Contains(os.Getenv(behaviour), "port-taken") {
		mark := filepath.Join(filepath.Dir(*f["data-dir"]), "tried")
		if _, err := os.Stat(mark); err != nil {
			_ = os.WriteFile(mark, nil, 0o600)
			fmt.Println("listen: bind: address already in use")
			return 2
		}
	}
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewQueryServiceHandler(played{dir: filepath.Dir(*f["data-dir"])}))
	if strings.Contains(os.Getenv(behaviour), "aggregator-stays") {
		signal.Ignore(syscall.SIGTERM)
	}
	fmt.Println(http.ListenAndServe(*f["api-address"], mux))
	return 1
}

func playAgent() int {
	f := flagsOf("aggregator", "aggregator-ca", "token-file", "node-name", "spool-dir", "listen-address", "log-level", "time-server")
	if strings.Contains(os.Getenv(behaviour), "agent-crashes") {
		fmt.Println("first line")
		fmt.Println("panic: something broke")
		return 2
	}
	if !strings.Contains(os.Getenv(behaviour), "agent-silent") {
		_ = os.WriteFile(filepath.Join(filepath.Dir(*f["spool-dir"]), "reported"), nil, 0o600)
	}
	select {}
}

// playDriver runs a stack and prints its processes until it is killed.
func playDriver() int {
	s, err := Start(context.Background(), Config{
		BinDir: os.Getenv("BIN"), TempDir: os.Getenv("TMP"), Node: "here", Credentials: noKeys, Progress: &recorder{},
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("pids", s.aggregator.pid(), s.agent.pid())
	select {}
}

func noKeys(dir, _, _ string) (Credentials, error) {
	return Credentials{CA: dir + "/ca", Cert: dir + "/cert", Key: dir + "/key", Nodes: dir + "/nodes", Token: dir + "/token"}, nil
}

type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) add(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, s)
}
func (r *recorder) Step(s string)    { r.add("step " + s) }
func (r *recorder) Waiting(s string) { r.add("waiting " + s) }
func (r *recorder) Done(s string)    { r.add("done " + s) }
func (r *recorder) all() string      { return strings.Join(r.lines, "\n") }

// binaries links the test binary under the names of the programs.
func binaries(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	for _, name := range []string{"plumb-aggregator", "plumb-agent", "plumb-driver"} {
		require.NoError(t, os.Symlink(self, filepath.Join(dir, name)))
	}
	return dir
}

func start(t *testing.T, behave string) (*Stack, string, *recorder, error) {
	t.Helper()
	t.Setenv(behaviour, behave)
	r := &recorder{}
	tmp := t.TempDir()
	s, err := Start(t.Context(), Config{
		BinDir: binaries(t), TempDir: tmp, Node: "here", TimeServers: []string{"a=127.0.0.1:123"},
		Credentials: noKeys, Progress: r, EvidenceTimeout: 2 * time.Second,
	})
	return s, tmp, r, err
}

func alive(pid int) bool { return unix.Kill(pid, 0) == nil }

func requireEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries, "nothing is left behind")
}

func TestRunsAndLeavesNothing(t *testing.T) {
	s, tmp, progress, err := start(t, "")
	require.NoError(t, err)
	info, err := os.Stat(s.dir.path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm(), "keys are in it")
	require.NoError(t, s.WaitEvidence(t.Context()))
	require.Contains(t, progress.all(), "waiting the first report of here")
	pids := []int{s.aggregator.pid(), s.agent.pid()}
	require.True(t, alive(pids[0]) && alive(pids[1]))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, s.Wait(ctx), "told to stop is no crash")
	require.NoError(t, s.Close())
	require.False(t, alive(pids[0]) || alive(pids[1]))
	requireEmpty(t, tmp)
}

func TestCrashShowsTheLastLines(t *testing.T) {
	t.Run("of the aggregator, at its start", func(t *testing.T) {
		_, tmp, _, err := start(t, "aggregator-crashes")
		var crash *CrashError
		require.ErrorAs(t, err, &crash)
		require.Equal(t, "plumb-aggregator", crash.Name)
		require.Equal(t, "ended with status 3", crash.How)
		require.Contains(t, strings.Join(crash.Tail, "\n"), "disk full")
		requireEmpty(t, tmp)
	})
	t.Run("of the agent, while evidence is awaited", func(t *testing.T) {
		s, tmp, _, err := start(t, "agent-crashes")
		require.NoError(t, err)
		err = s.WaitEvidence(t.Context())
		var crash *CrashError
		require.ErrorAs(t, err, &crash)
		require.Equal(t, []string{"first line", "panic: something broke"}, crash.Tail)
		require.NoError(t, s.Close())
		requireEmpty(t, tmp)
	})
	t.Run("later, by a signal", func(t *testing.T) {
		s, tmp, _, err := start(t, "")
		require.NoError(t, err)
		require.NoError(t, unix.Kill(s.aggregator.pid(), unix.SIGKILL))
		err = s.Wait(t.Context())
		var crash *CrashError
		require.ErrorAs(t, err, &crash)
		require.Equal(t, "was killed by SIGKILL", crash.How)
		require.NoError(t, s.Close())
		requireEmpty(t, tmp)
	})
}

func TestPortTakenInBetweenIsChosenAnew(t *testing.T) {
	s, _, _, err := start(t, "port-taken")
	require.NoError(t, err)
	require.NoError(t, s.Close())
}

func TestWithoutEvidenceItSaysWhatIsMissing(t *testing.T) {
	t.Run("no report", func(t *testing.T) {
		s, _, _, err := start(t, "agent-silent")
		require.NoError(t, err)
		err = s.WaitEvidence(t.Context())
		require.ErrorContains(t, err, "still waiting for the first report of here")
		require.NoError(t, s.Close())
	})
	t.Run("one probe does not come up", func(t *testing.T) {
		s, _, progress, err := start(t, "probe-starts")
		require.NoError(t, err)
		require.NoError(t, s.WaitEvidence(t.Context()), "the rest works")
		require.Contains(t, progress.all(), "going on without the probes that are starting: clock")
		require.NoError(t, s.Close())
	})
	t.Run("told to stop meanwhile", func(t *testing.T) {
		s, tmp, _, err := start(t, "agent-silent")
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, s.WaitEvidence(ctx), context.DeadlineExceeded)
		require.NoError(t, s.Close())
		requireEmpty(t, tmp)
	})
}

func TestChildThatIgnoresTermIsKilled(t *testing.T) {
	s, tmp, _, err := start(t, "aggregator-stays")
	require.NoError(t, err)
	pid := s.aggregator.pid()
	began := time.Now()
	require.NoError(t, s.Close())
	require.False(t, alive(pid))
	require.Less(t, time.Since(began), 2*graceTime)
	requireEmpty(t, tmp)
}

func TestKilledDriverLeavesNoProcessAndItsDirectoryToTheNext(t *testing.T) {
	bin, tmp := binaries(t), t.TempDir()
	cmd := exec.Command(filepath.Join(bin, "plumb-driver"))
	cmd.Env = append(os.Environ(), "BIN="+bin, "TMP="+tmp, behaviour+"=")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var aggregator, agent int
	_, err = fmt.Fscanf(out, "pids %d %d\n", &aggregator, &agent)
	require.NoError(t, err)
	t.Cleanup(func() { // what outlives a failed test would be there for good
		for _, pid := range []int{aggregator, agent} {
			if !gone(pid) {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	})
	require.True(t, alive(aggregator) && alive(agent))
	require.NoError(t, cmd.Process.Kill())
	testutils.Eventually(t, 5*time.Second, "both children are gone", func() bool { return gone(aggregator) && gone(agent) })
	_ = cmd.Wait()

	require.Equal(t, 1, sweep(tmp))
	requireEmpty(t, tmp)
}

// gone also counts what waits to be reaped by an init that is slow to do so.
func gone(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	return strings.HasPrefix(rest, "Z")
}

func TestSweepTakesOnlyWhatIsOursAndDead(t *testing.T) {
	tmp := t.TempDir()
	living, err := newWorkdir(tmp)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(tmp, "plumb-local-without-lock"), 0o700))
	require.NoError(t, os.Mkdir(filepath.Join(tmp, "other"), 0o700))
	require.NoError(t, os.Symlink(living.path, filepath.Join(tmp, "plumb-local-link")))
	require.Zero(t, sweep(tmp))
	require.NoError(t, living.remove())
	_, err = os.Stat(living.path)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestTroubleBeforeTheStart(t *testing.T) {
	bin := binaries(t)
	tests := []struct {
		name string
		cfg  Config
		want string
	}{
		{"no binaries", Config{BinDir: t.TempDir()}, "find plumb-aggregator"},
		{"no temporary directory", Config{BinDir: bin, TempDir: "/nonexistent"}, "TMPDIR"},
		{"no keys", Config{BinDir: bin, TempDir: t.TempDir(), Credentials: func(string, string, string) (Credentials, error) { return Credentials{}, errors.New("no entropy") }}, "make throw-away keys: no entropy"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Progress = &recorder{}
			_, err := Start(t.Context(), tt.cfg)
			require.ErrorContains(t, err, tt.want)
			if tt.cfg.TempDir != "" && tt.cfg.TempDir != "/nonexistent" {
				requireEmpty(t, tt.cfg.TempDir)
			}
		})
	}
}
