// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/internal/testutils"
)

func TestMain(m *testing.M) {
	machine.Main(map[string]machine.Role{
		"echo":  echo,
		"fail":  func([]string) error { return errors.New("meant to fail") },
		"owner": owner,
	})
	os.Exit(m.Run())
}

// echo repeats its arguments and then each line of its input.
func echo(args []string) error {
	fmt.Println(strings.Join(args, " "))
	for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
		fmt.Println("echo", scanner.Text())
	}
	return nil
}

// owner makes a machine with a process in it, says their PIDs, and waits to be
// killed.
func owner([]string) error {
	m, err := machine.New(context.Background(), machine.Config{Name: "orphan"})
	if err != nil {
		return err
	}
	p, err := m.Start(machine.Spec{Name: "child", Role: "echo", Args: []string{"up"}})
	if err != nil {
		return err
	}
	fmt.Println(m.PID(), p.PID())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

func newMachine(t *testing.T, name string) *machine.Machine {
	t.Helper()
	testutils.SkipUnlessRoot(t)
	m, err := machine.New(t.Context(), machine.Config{Name: name})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func TestAMachineHasItsOwnNamespacesAndMounts(t *testing.T) {
	m := newMachine(t, "n1")
	for _, kind := range []string{"net", "mnt", "pid", "uts"} {
		mine, err := os.Readlink("/proc/thread-self/ns/" + kind)
		require.NoError(t, err)
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", m.PID(), kind))
		require.NoError(t, err)
		require.NotEqual(t, mine, its, kind)
	}
	out, err := m.Run(t.Context(), "sh", "-c", "readlink /proc/1/exe; ls /run; cat /sys/class/net/lo/flags; ls /proc/sys/net/ipv6/conf >/dev/null 2>&1 && cat /proc/sys/net/ipv6/conf/default/disable_ipv6 || echo 1")
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Equal(t, "0x9", lines[1], "lo is up and /run is empty")
	require.Equal(t, "1", lines[2])
	require.NoError(t, os.WriteFile(m.Path("/run/seen"), []byte("by the caller"), 0o600))
	out, err = m.Run(t.Context(), "cat", "/run/seen")
	require.NoError(t, err)
	require.Equal(t, "by the caller", out)
	_, err = os.Stat("/run/seen")
	require.ErrorIs(t, err, os.ErrNotExist, "its /run is private")
}

func TestACommandThatFailsSaysWhichAndWhy(t *testing.T) {
	m := newMachine(t, "n1")
	err := m.IP(t.Context(), "link set lo up", "link set absent up")
	require.ErrorContains(t, err, "n1: ip -batch -: exit status 1")
	require.ErrorContains(t, err, "absent")
}

func TestProcessesSpeakLineByLine(t *testing.T) {
	m := newMachine(t, "n1")
	var mu sync.Mutex
	var got []string
	p, err := m.Start(machine.Spec{Name: "echo", Role: "echo", Args: []string{"a", "b"}, OnLine: func(line []byte) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, string(line))
	}})
	require.NoError(t, err)
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	require.NoError(t, err)
	require.Contains(t, string(comm), "NSpid:\t"+strconv.Itoa(p.PID())+"\t", "the PID is the program's, as seen from outside")
	require.NoError(t, p.Send([]byte("one")))
	require.NoError(t, p.Send([]byte("two")))
	require.NoError(t, p.Finish(10*time.Second))
	require.Equal(t, []string{"a b", "echo one", "echo two"}, got)
	require.Equal(t, "a b\necho one\necho two\n", p.Output())
	require.Positive(t, p.CPU())
	require.Zero(t, p.PID(), "an ended process has no PID: the number may be another's")
	require.Error(t, p.Signal(unix.SIGKILL))
}

func TestAProcessThatFailsKeepsItsLastWords(t *testing.T) {
	m := newMachine(t, "n1")
	p, err := m.Start(machine.Spec{Name: "fail", Role: "fail"})
	require.NoError(t, err)
	<-p.Done()
	require.ErrorContains(t, p.Err(), "exit status 1")
	require.Contains(t, p.Output(), "fail: meant to fail")
}

func TestSocketsOpenInsideAndReachPodNamespaces(t *testing.T) {
	m := newMachine(t, "n1")
	require.NoError(t, m.IP(t.Context(), "netns add p1",
		"link add veth0 type veth peer name eth0 netns p1", "addr add 10.0.0.1/24 dev veth0", "link set veth0 up",
		"-n p1 addr add 10.0.0.2/24 dev eth0", "-n p1 link set eth0 up"))
	listener, err := m.Listen("p1", "tcp", "10.0.0.2:80")
	require.NoError(t, err)
	defer listener.Close()
	conn, err := m.DialContext("")(t.Context(), "tcp", "10.0.0.2:80")
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	_, err = m.DialContext("")(t.Context(), "tcp", "example.test:80")
	require.ErrorContains(t, err, "no literal IP address")
	require.NoError(t, m.Sysctl("p1", "net.ipv4.ip_forward", "1"))
	out, err := m.Run(t.Context(), "nsenter", "--net=/run/netns/p1", "cat", "/proc/sys/net/ipv4/ip_forward")
	require.NoError(t, err)
	require.Equal(t, "1\n", out)
	require.ErrorContains(t, m.Sysctl("", "kernel.panic", "1"), "whole kernel")
}

func TestKillingTheOwnerLeavesNothing(t *testing.T) {
	testutils.SkipUnlessRoot(t)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "PLUMB_MACHINE_ROLE=owner")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	for _, pid := range strings.Fields(line) {
		testutils.Eventually(t, 10*time.Second, "process "+pid+" is gone", func() bool {
			_, err := os.Stat("/proc/" + pid)
			return errors.Is(err, os.ErrNotExist)
		})
	}
}

func TestClosingEndsEverythingAtOnce(t *testing.T) {
	m := newMachine(t, "n1")
	p, err := m.Start(machine.Spec{Name: "sleep", Args: []string{"sleep", "1000"}})
	require.NoError(t, err)
	require.NotZero(t, p.PID())
	stopped, err := m.Start(machine.Spec{Name: "sleep", Args: []string{"sleep", "1000"}})
	require.NoError(t, err)
	require.ErrorContains(t, stopped.Stop(10*time.Second), "signal: terminated")
	require.NoError(t, m.Close())
	require.False(t, p.Running())
	_, err = m.Start(machine.Spec{Name: "late", Args: []string{"true"}})
	require.ErrorContains(t, err, "has ended")
}

func TestNoProgramIsLeftToTheFirstProcessOfTheHost(t *testing.T) {
	m := newMachine(t, "n1")
	// The loop is of the program's group, and keeps its output open.
	p, err := m.Start(machine.Spec{Name: "sh", Args: []string{"sh", "-c", "sleep 1000 & echo $!; wait"}})
	require.NoError(t, err)
	testutils.Eventually(t, 10*time.Second, "it has started another", func() bool { return p.Output() != "" })
	pid := p.PID()
	p.Kill()
	require.ErrorIs(t, unix.Kill(pid, 0), unix.ESRCH, "it was waited for")
	inside := strings.TrimSpace(p.Output())
	testutils.Eventually(t, 10*time.Second, "what it started is gone", func() bool {
		_, err := m.Run(t.Context(), "kill", "-0", inside)
		return err != nil
	})
}

func TestAFrozenProgramThawsAndEnds(t *testing.T) {
	freeze := func(t *testing.T, m *machine.Machine) *machine.Process {
		t.Helper()
		p, err := m.Start(machine.Spec{Name: "sleep", Args: []string{"sleep", "1000"}})
		require.NoError(t, err)
		status := fmt.Sprintf("/proc/%d/status", p.PID())
		parent := ""
		raw, err := os.ReadFile(status)
		require.NoError(t, err)
		for line := range strings.Lines(string(raw)) {
			if number, ok := strings.CutPrefix(line, "PPid:"); ok {
				parent = "/proc/" + strings.TrimSpace(number) + "/status"
			}
		}
		require.NoError(t, p.Signal(unix.SIGSTOP))
		for _, path := range []string{status, parent} {
			testutils.Eventually(t, 10*time.Second, "it and nsenter are stopped", func() bool {
				raw, err := os.ReadFile(path)
				return err == nil && strings.Contains(string(raw), "State:\tT")
			})
		}
		return p
	}
	t.Run("thawed and stopped", func(t *testing.T) {
		p := freeze(t, newMachine(t, "n1"))
		require.NoError(t, p.Signal(unix.SIGCONT))
		require.ErrorContains(t, p.Stop(10*time.Second), "signal: terminated")
	})
	t.Run("stopped", func(t *testing.T) {
		require.ErrorContains(t, freeze(t, newMachine(t, "n1")).Stop(10*time.Second), "signal: terminated")
	})
	t.Run("killed", func(t *testing.T) {
		p := freeze(t, newMachine(t, "n1"))
		p.Kill()
		require.ErrorContains(t, p.Err(), "signal: killed")
	})
	t.Run("its machine closed", func(t *testing.T) {
		m := newMachine(t, "n1")
		p := freeze(t, m)
		require.NoError(t, m.Close())
		require.False(t, p.Running())
	})
}
