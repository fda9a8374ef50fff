// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// A Process runs inside a machine.
type Process struct {
	tb      testing.TB
	machine *Machine
	log     string
	cmd     *exec.Cmd
	done    chan struct{}
	err     error
}

// Start starts a program inside; its output is shown when the test fails. It is
// killed with the test at the latest.
func (m *Machine) Start(name string, args ...string) *Process {
	m.tb.Helper()
	return m.Launch(name, m.Command(args...))
}

// StartRole starts a role of this test binary inside. A netns that /run/netns of
// the machine names may be given; "" is the machine's own.
func (m *Machine) StartRole(name, netns, role string, args ...string) *Process {
	m.tb.Helper()
	return m.Launch(name, m.RoleCommand(netns, role, args...))
}

// RoleCommand is what StartRole launches, for callers that pass files on.
func (m *Machine) RoleCommand(netns, role string, args ...string) *exec.Cmd {
	m.tb.Helper()
	self, err := os.Executable()
	require.NoError(m.tb, err)
	line := append([]string{self}, args...)
	if netns != "" {
		line = append([]string{"nsenter", "--net=/run/netns/" + netns, "--"}, line...)
	}
	cmd := m.Command(line...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	return cmd
}

func (m *Machine) roleCommand(role string, args ...string) *exec.Cmd {
	return m.RoleCommand("", role, args...)
}

// Launch starts a command that Command or RoleCommand made.
func (m *Machine) Launch(name string, cmd *exec.Cmd) *Process {
	m.tb.Helper()
	log := &bytes.Buffer{}
	m.mu.Lock()
	key := name
	for i := 2; m.logs[key] != nil; i++ {
		key = fmt.Sprintf("%s#%d", name, i)
	}
	m.logs[key] = log
	m.mu.Unlock()
	cmd.Stdout, cmd.Stderr = &locked{m, log}, &locked{m, log}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = time.Second
	require.NoError(m.tb, cmd.Start())
	p := &Process{tb: m.tb, machine: m, log: key, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	m.tb.Cleanup(p.Kill)
	return p
}

// PID is the program itself as the test sees it: nsenter forks for the PID
// namespace and waits, so the program is its child.
func (p *Process) PID() int {
	p.tb.Helper()
	parent := strconv.Itoa(p.cmd.Process.Pid)
	var pid int
	testutils.Eventually(p.tb, 5*time.Second, "the program was started", func() bool {
		raw, err := os.ReadFile("/proc/" + parent + "/task/" + parent + "/children")
		require.NoError(p.tb, err)
		pid, err = strconv.Atoi(strings.TrimSpace(string(raw)))
		return err == nil
	})
	return pid
}

// Kill is kill -9 of the process and what it started.
func (p *Process) Kill() {
	if p.Running() {
		_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
		<-p.done
	}
}

// Stop asks the program to end, waits, and returns how it ended.
func (p *Process) Stop() error {
	p.tb.Helper()
	if p.Running() {
		_ = unix.Kill(p.PID(), unix.SIGTERM)
	}
	return p.Wait()
}

// Wait waits until the process has ended and returns how.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Running says whether the process has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Output is what the process has written so far.
func (p *Process) Output() string {
	p.machine.mu.Lock()
	defer p.machine.mu.Unlock()
	return p.machine.logs[p.log].String()
}

// Says waits until the process has written text; it fails the test when the
// process ends before that.
func (p *Process) Says(within time.Duration, text string) {
	p.tb.Helper()
	testutils.Eventually(p.tb, within, p.log+" says "+text, func() bool {
		if strings.Contains(p.Output(), text) {
			return true
		}
		if !p.Running() {
			p.tb.Fatalf("%s on %s ended: %v: %s", p.log, p.machine.Name, p.Wait(), p.Output())
		}
		return false
	})
}

// locked lets several processes of a machine write while the test reads.
type locked struct {
	m *Machine
	b *bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return l.b.Write(p)
}
