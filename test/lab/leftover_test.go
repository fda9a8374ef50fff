// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/test/lab/report"
)

// binaries is where `make build` put them; test/run says it.
func binaries(t *testing.T) string {
	t.Helper()
	testutils.SkipUnlessRoot(t)
	dir := os.Getenv("PLUMB_BIN")
	if dir == "" {
		dir = "../../bin"
	}
	dir, err := filepath.Abs(dir)
	require.NoError(t, err)
	if _, err := os.Stat(filepath.Join(dir, "plumb-lab")); err != nil {
		testutils.Skip(t, "no "+dir+"/plumb-lab: run `make build`")
	}
	return dir
}

// remains is what the lab could leave on the machine: processes, mounts, links and
// directories of runs. Cgroups and loop devices say by their names whose they are;
// owned reads those.
func remains(t *testing.T, temp string) []string {
	t.Helper()
	var out []string
	find := func(pattern string, tell func(path string) string) {
		paths, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, p := range paths {
			if text := tell(p); text != "" {
				out = append(out, text)
			}
		}
	}
	find("/proc/[0-9]*/environ", func(p string) string {
		raw, err := os.ReadFile(p)
		if err != nil || p == fmt.Sprintf("/proc/%d/environ", os.Getpid()) || !strings.Contains(string(raw), "TMPDIR="+temp+"\x00") {
			return ""
		}
		cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline")) // it may just have gone
		return "process " + p + " " + strings.ReplaceAll(string(cmdline), "\x00", " ")
	})
	find(filepath.Join(temp, "plumb-lab*"), func(p string) string { return "run " + p })
	for _, l := range lines(t, "/proc/self/mounts") {
		if strings.Contains(l, "plumb") || strings.Contains(l, "/dev/loop") {
			out = append(out, "mount "+l)
		}
	}
	find("/sys/class/net/*", func(p string) string { return "link " + p })
	sort.Strings(out)
	return out
}

// belongings are what a lab has written down as its own outside of its namespaces.
type belongings struct{ cgroups, disks []string }

// owned reads what the labs that stand have written down.
func owned(t *testing.T, temp string) belongings {
	t.Helper()
	lists, err := filepath.Glob(filepath.Join(temp, "plumb-lab", "*", "owned"))
	require.NoError(t, err)
	var out belongings
	for _, list := range lists {
		for _, l := range lines(t, list) {
			var o struct {
				Kind   string
				Detail json.RawMessage
			}
			var name string
			if json.Unmarshal([]byte(l), &o) != nil || json.Unmarshal(o.Detail, &name) != nil {
				continue
			}
			switch o.Kind {
			case "cgroup":
				out.cgroups = append(out.cgroups, name)
			case "disk":
				out.disks = append(out.disks, name)
			}
		}
	}
	require.NotEmpty(t, out.cgroups, "a lab that stands has pods")
	require.NotEmpty(t, out.disks, "a lab with a control plane has a disk")
	return out
}

// requireGone fails when any of it is still there.
func (b belongings) requireGone(t *testing.T) {
	t.Helper()
	for _, c := range b.cgroups {
		require.NoDirExists(t, c)
	}
	names := loopNames(t)
	for _, d := range b.disks {
		require.NotContains(t, names, d, "a loop device of the lab is left")
	}
}

// loopNames are the names that the loop devices in use carry (LOOP_GET_STATUS64).
func loopNames(t *testing.T) []string {
	t.Helper()
	devices, err := filepath.Glob("/dev/loop[0-9]*")
	require.NoError(t, err)
	var out []string
	for _, path := range devices {
		f, err := os.Open(path)
		if err != nil {
			continue // no device stands behind the node
		}
		info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
		require.NoError(t, f.Close())
		if err == nil {
			out = append(out, unix.ByteSliceToString(info.File_name[:]))
		}
	}
	return out
}

func lines(t *testing.T, path string) []string {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	return strings.Split(string(raw), "\n")
}

// writeScenario makes a small cluster with everything that could be left behind.
func writeScenario(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "scenario.yaml")
	require.NoError(t, os.WriteFile(path, []byte(body), 0o600))
	return path
}

const everything = `
apiVersion: plumb.dev/v1alpha1
kind: Scenario
metadata: {name: everything}
spec:
  description: A control-plane node with a disk that is slow and has a neighbour, a frozen agent, a starved etcd, filters and a lossy ring.
  duration: 4s
  settle: 1s
  nodes:
    - {name: n1, zone: a}
    - {name: n2, zone: b, controlPlane: true}
  traffic:
    - {from: n1, to: n2, kind: tcp, bytes: 64KiB, every: 500ms}
    - {from: n1, to: n2, kind: udp, plane: node, every: 500ms}
  faults:
    - {at: 0s, kind: disk-slow, fsync: 200ms, neighbour: true}
    - {at: 0s, kind: etcd-cpu-starved}
    - {at: 0s, kind: icmp-filter, node: n1}
    - {at: 0s, kind: ring-drop, ratio: 0.01, node: n1}
    - {at: 0s, kind: agent-freeze, node: n1}
    - {at: 1s, kind: link-flap, every: 1s, node: n2}
`

// A labProcess is plumb-lab as a user starts it.
type labProcess struct {
	*exec.Cmd
	mu     sync.Mutex
	output bytes.Buffer
}

func (l *labProcess) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.output.Write(p)
}

func (l *labProcess) said() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.output.String()
}

func startLab(t *testing.T, temp string, args ...string) *labProcess {
	t.Helper()
	l := &labProcess{Cmd: exec.Command(filepath.Join(binaries(t), "plumb-lab"), args...)}
	l.Env = append(os.Environ(), "TMPDIR="+temp)
	l.Stdout, l.Stderr = l, l
	require.NoError(t, l.Start())
	t.Cleanup(func() {
		_ = l.Process.Kill()
		if t.Failed() {
			t.Log(l.said())
		}
	})
	return l
}

func waitUntilClean(t *testing.T, temp string, before []string, own belongings) {
	t.Helper()
	testutils.Eventually(t, 20*time.Second, "the machine is as before", func() bool {
		return slices.Equal(before, remains(t, temp))
	})
	own.requireGone(t)
}

func TestNothingIsLeftBehind(t *testing.T) {
	tests := []struct {
		name string
		// after is what the lab says before it is ended.
		after string
		// signal ends it; 0 lets it end by itself.
		signal syscall.Signal
		status int
	}{
		{name: "after a run to the end", after: "fault 5", status: 0},
		{name: "after Ctrl-C while faults are there", after: "fault 5", signal: syscall.SIGINT, status: 1},
		{name: "after SIGTERM while it settles", after: "settling", signal: syscall.SIGTERM, status: 1},
		{name: "after SIGTERM while it starts", after: "everything:", signal: syscall.SIGTERM, status: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			temp := t.TempDir()
			before := remains(t, temp)
			l := startLab(t, temp, "run", writeScenario(t, everything))
			testutils.Eventually(t, 60*time.Second, "the lab says "+tt.after, func() bool { return strings.Contains(l.said(), tt.after) })
			var own belongings
			if tt.after != "everything:" {
				own = owned(t, temp)
				require.Contains(t, loopNames(t), own.disks[0], "what is looked for can be found")
			}
			if tt.signal != 0 {
				require.NoError(t, l.Process.Signal(tt.signal))
			}
			_ = l.Wait() // the status tells
			require.Equal(t, tt.status, l.ProcessState.ExitCode(), l.said())
			require.Equal(t, before, remains(t, temp))
			own.requireGone(t)
		})
	}
}

func TestTheNextRunCleansUpAfterOneThatWasKilled(t *testing.T) {
	temp := t.TempDir()
	before := remains(t, temp)
	file := writeScenario(t, everything)
	killed := startLab(t, temp, "run", file)
	testutils.Eventually(t, 90*time.Second, "faults are there", func() bool { return strings.Contains(killed.said(), "fault 5") })
	orphans := owned(t, temp)
	require.NoError(t, killed.Process.Kill())
	_ = killed.Wait() // killed
	living := startLab(t, temp, "run", file, "--keep")
	testutils.Eventually(t, 90*time.Second, "the other run stands", func() bool { return strings.Contains(living.said(), "until Ctrl-C") })
	require.Contains(t, living.said(), "cleaned up after 1 dead run")
	orphans.requireGone(t)
	// A run that comes while another lives leaves that one alone.
	own := owned(t, temp)
	next := startLab(t, temp, "run", file)
	require.NoError(t, next.Wait(), next.said())
	require.NotContains(t, next.said(), "dead run")
	for _, c := range own.cgroups {
		require.DirExists(t, c)
	}
	require.NoError(t, living.Process.Signal(syscall.SIGINT))
	require.NoError(t, living.Wait(), living.said())
	waitUntilClean(t, temp, before, own)
}

func TestTwoLabsDoNotDisturbEachOther(t *testing.T) {
	temp := t.TempDir()
	quiet := startLab(t, temp, "run", "healthy", "--json")
	loud := startLab(t, temp, "run", "clock-skew", "--json")
	for _, l := range []*labProcess{quiet, loud} {
		require.NoError(t, l.Wait(), l.said())
		var result report.Result
		require.NoError(t, json.Unmarshal([]byte(l.said()), &result), l.said())
		require.True(t, result.OK)
		require.Empty(t, result.Unexpected)
	}
}
