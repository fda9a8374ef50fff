// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/check"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// The test binary is the program itself when it is called by its name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "plumb-agent" {
		main()
	}
	os.Exit(m.Run())
}

// nobody is a user without any right.
const nobody = 65534

func command(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	status = run(args, &out, &err)
	return status, out.String(), err.String()
}

// process makes a process of the program that runs as uid. The binary is copied
// to where every user may execute it.
func process(t *testing.T, uid uint32, args ...string) *exec.Cmd {
	t.Helper()
	dir, err := os.MkdirTemp("", "plumb-agent-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	self, err := os.Executable()
	require.NoError(t, err)
	raw, err := os.ReadFile(self)
	require.NoError(t, err)
	path := filepath.Join(dir, "plumb-agent")
	require.NoError(t, os.WriteFile(path, raw, 0o755))
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if int(uid) != os.Geteuid() {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	return cmd
}

// checkReport runs --check --json as uid.
func checkReport(t *testing.T, uid uint32, args ...string) (int, check.Report) {
	t.Helper()
	cmd := process(t, uid, append([]string{"--check", "--json"}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	require.Empty(t, errOut.String(), "the report says it all")
	var report check.Report
	decoder := json.NewDecoder(&out)
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&report))
	require.ErrorIs(t, decoder.Decode(&report), io.EOF, "one object")
	return cmd.ProcessState.ExitCode(), report
}

func signals(r check.Report) map[string]check.Signal {
	out := map[string]check.Signal{}
	for _, s := range r.Signals {
		out[s.Signal] = s
	}
	return out
}

func TestHelpTeaches(t *testing.T) {
	status, out, errText := command(t, "--help")
	require.Equal(t, exitFine, status)
	require.Empty(t, errText)
	for _, want := range []string{"plumb-agent --check", "--aggregator-ca", "PLUMB_AGENT_TIME_SERVER", "NET_ADMIN"} {
		require.Contains(t, out, want)
	}
	status, out, _ = command(t, "--version")
	require.Equal(t, exitFine, status)
	require.True(t, strings.HasPrefix(out, "plumb-agent "))
}

func TestTroubleIsOneLineAndStatus2(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"unknown flag", []string{"--bogus"}, "unknown flag: --bogus; see plumb-agent --help"},
		{"an argument", []string{"run"}, `unexpected argument "run"`},
		{"a level that is none", []string{"--log-level", "loud"}, "debug, info, warn or error"},
		{"an interval that is none", []string{"--interval", "soon"}, "--interval"},
		{"an interval that is too short", []string{"--interval", "1ms"}, "give 1s to 5m"},
		{"a probe that is none", []string{"--probes", "lnik"}, `there is no probe "lnik"`},
		{"a time server that is none", []string{"--time-server", "ntp:0"}, "--time-server"},
		{"a segment that the kernel refuses", []string{"--max-segment", "9"}, "the kernel takes 88 to 32767"},
		{"an aggregator without TLS", []string{"--aggregator", "http://a:1"}, "give https://HOST:PORT"},
		{"an aggregator without its CA", []string{"--aggregator", "https://a:1"}, "--aggregator-ca"},
		{"an aggregator without a token", []string{"--aggregator", "https://a:1", "--aggregator-ca", "ca.crt"}, "--token-file"},
		{"JSON of nothing", []string{"--json"}, "--check"},
		{"no /proc", []string{"--proc-path", "/nonexistent"}, "give --proc-path"},
		{"no /proc to check", []string{"--check", "--proc-path", "/nonexistent"}, "give --proc-path"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, out, errText := command(t, c.args...)
			require.Equal(t, exitTrouble, status)
			require.Empty(t, out)
			require.Contains(t, errText, c.want)
			require.Equal(t, 1, strings.Count(errText, "\n"), errText)
		})
	}
}

func TestFlagsFromTheEnvironment(t *testing.T) {
	t.Setenv("PLUMB_AGENT_PROBES", "lnik")
	status, _, errText := command(t)
	require.Equal(t, exitTrouble, status)
	require.Contains(t, errText, `there is no probe "lnik"`)
	_, _, errText = command(t, "--probes", "clokc")
	require.Contains(t, errText, `there is no probe "clokc"`, "the command line wins")
	t.Setenv("PLUMB_AGENT_PROBES", "clock")
	t.Setenv("PLUMB_AGENT_INTERVAL", "soon")
	status, _, errText = command(t)
	require.Equal(t, exitTrouble, status)
	require.Contains(t, errText, "environment variable PLUMB_AGENT_INTERVAL")
}

// The log may say what was set up before; the trouble itself is one line and
// the last.
func TestPortThatIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	status, _, errText := command(t, "--probes", "clock", "--log-level", "error", "--listen-address", l.Addr().String())
	require.Equal(t, exitTrouble, status)
	require.Contains(t, errText, "address already in use; give another --listen-address")
	require.Equal(t, 1, strings.Count(errText, "\n"), errText)
}

func TestFilesOfTheUplinkThatCannotBeRead(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "ca.crt")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for _, ca := range []string{"/nonexistent/ca.crt", empty} {
		status, _, errText := command(t, "--probes", "clock", "--log-level", "error", "--listen-address", "",
			"--aggregator", "https://127.0.0.1:1", "--aggregator-ca", ca, "--token-file", "/nonexistent/token")
		require.Equal(t, exitTrouble, status)
		require.Contains(t, errText, ca)
		require.Equal(t, 1, strings.Count(errText, "\n"), errText)
	}
}

func TestCheckAsRoot(t *testing.T) {
	testutils.SkipUnlessRoot(t)
	t.Parallel()
	status, report := checkReport(t, 0, "--probes", "link,oversize")
	for _, s := range report.Signals {
		require.True(t, s.Active, "%s: %s", s.Signal, s.Why)
		require.NotEmpty(t, s.Rung, s.Signal)
	}
	require.Zero(t, report.Blind)
	require.Equal(t, exitFine, status, "nothing is blind")
	require.Contains(t, signals(report), "oversize.drop")
	require.NotEmpty(t, report.Kernel)
	for _, c := range report.Capabilities {
		require.True(t, c.Held, c.Name)
	}

	// A machine without time servers: blind, with the mend, and status 1.
	status, report = checkReport(t, 0, "--probes", "clock", "--root-path", t.TempDir())
	require.Equal(t, exitBlind, status)
	require.Positive(t, report.Blind)
	require.Contains(t, signals(report)["clock.sntp"].Why, "--time-server")
	require.True(t, signals(report)["clock.steps"].Active)
}

func TestCheckOfAnOrdinaryUserSaysWhatIsMissing(t *testing.T) {
	testutils.SkipUnlessRoot(t)
	t.Parallel()
	status, report := checkReport(t, nobody)
	require.Equal(t, exitBlind, status)
	require.Equal(t, nobody, report.User)
	for _, c := range report.Capabilities {
		require.False(t, c.Held, c.Name)
	}
	by := signals(report)
	for _, blind := range []string{"oversize.drop", "oversize.adapt"} {
		require.False(t, by[blind].Active)
		require.Contains(t, by[blind].Why, "CAP_BPF", blind)
	}
	require.Contains(t, by["link.pod_routes"].Why, "CAP_SYS_ADMIN")
	for _, active := range []string{"link.devices", "link.fib", "clock.steps", "clock.adjtimex"} {
		require.True(t, by[active].Active, "%s needs no right: %s", active, by[active].Why)
	}
	blind := 0
	for _, s := range report.Signals {
		if !s.Active {
			blind++
			require.NotEmpty(t, s.Why, s.Signal)
		}
	}
	require.Equal(t, blind, report.Blind)
	for _, p := range report.Probes {
		require.Equal(t, "ok", p.State, "%s: %s", p.Name, p.Why)
		for _, u := range p.Unknown {
			require.NotEmpty(t, u.Detail, "%s %v", p.Name, u.Items)
		}
	}

	cmd := process(t, nobody, "--check")
	table, err := cmd.Output()
	require.Error(t, err)
	require.Equal(t, exitBlind, cmd.ProcessState.ExitCode())
	require.Contains(t, string(table), "missing capabilities: BPF")
	require.Regexp(t, `oversize\.drop +blind +– +.*CAP_BPF`, string(table))
	require.Regexp(t, `clock\.steps +active +timerfd`, string(table))
}

// The kernel's BTF is hidden in a mount namespace that the child alone has.
func TestCheckWithoutBTFSaysSo(t *testing.T) {
	testutils.SkipUnlessRoot(t)
	t.Parallel()
	agent := process(t, 0)
	cmd := exec.Command("sh", "-c", `mount -t tmpfs none /sys/kernel/btf && exec "$0" --check --json --probes link,oversize`, agent.Path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.Output()
	require.Error(t, err)
	require.Equal(t, exitBlind, cmd.ProcessState.ExitCode(), "%s", out)
	var report check.Report
	require.NoError(t, json.Unmarshal(out, &report))
	by := signals(report)
	require.False(t, by["oversize.drop"].Active)
	require.Contains(t, by["oversize.drop"].Why, "CONFIG_DEBUG_INFO_BTF")
	require.True(t, by["link.devices"].Active, "the rest goes on")
}

func TestItServesUntilItIsToldToEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	cmd := process(t, uint32(os.Geteuid()), "--listen-address", address)
	require.NoError(t, cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	body := func(path string) (int, string) {
		res, err := http.Get("http://" + address + path)
		if err != nil {
			return 0, ""
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return res.StatusCode, string(text)
	}
	testutils.Eventually(t, 20*time.Second, "/readyz", func() bool {
		status, _ := body("/readyz")
		return status == http.StatusOK
	})
	status, _ := body("/healthz")
	require.Equal(t, http.StatusOK, status)
	_, text := body("/metrics")
	for _, want := range []string{"plumb_agent_build_info", `plumb_agent_probe_success{probe="link"} 1`, `plumb_agent_hook_active{rung="adjtimex",signal="clock.adjtimex"} 1`, "plumb_link_mtu_bytes{", "process_resident_memory_bytes"} {
		require.Contains(t, text, want)
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-done:
		require.NoError(t, err, "status 0 when it is told to end")
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
}
