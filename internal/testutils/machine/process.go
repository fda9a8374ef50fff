// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	node "github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/internal/testutils"
)

const (
	// stopLimit is how long a program may take to end when it is asked to.
	stopLimit = 15 * time.Second
	// showOutput is how much of the end of a program's output a failed test shows.
	showOutput = 6000
)

// A Process runs inside a machine. Methods that it does not have itself are those of
// internal/machine.
type Process struct {
	*node.Process

	tb     testing.TB
	on     string
	output *output
}

// A Program is a role that RoleCommand made.
type Program struct {
	// ExtraFiles are inherited from file descriptor 3 on. The caller closes its own.
	ExtraFiles []*os.File

	spec node.Spec
}

// Start starts a program inside; its output is shown when the test fails. It is
// killed with the test at the latest.
func (m *Machine) Start(name string, args ...string) *Process {
	m.tb.Helper()
	return m.start(node.Spec{Name: name, Args: args})
}

// StartRole starts a role of this test binary inside. A netns that /run/netns of
// the machine names may be given; "" is the machine's own.
func (m *Machine) StartRole(name, netns, role string, args ...string) *Process {
	m.tb.Helper()
	return m.Launch(name, m.RoleCommand(netns, role, args...))
}

// RoleCommand is what StartRole launches, for callers that pass files on.
func (m *Machine) RoleCommand(netns, role string, args ...string) *Program {
	return &Program{spec: node.Spec{Netns: netns, Role: role, Args: args}}
}

// Launch starts what RoleCommand made.
func (m *Machine) Launch(name string, program *Program) *Process {
	m.tb.Helper()
	spec := program.spec
	spec.Name, spec.Files = name, program.ExtraFiles
	return m.start(spec)
}

func (m *Machine) start(spec node.Spec) *Process {
	m.tb.Helper()
	out := &output{}
	spec.Log = out
	started, err := m.Machine.Start(spec)
	require.NoError(m.tb, err)
	p := &Process{Process: started, tb: m.tb, on: m.Name, output: out}
	m.tb.Cleanup(func() {
		p.Kill()
		if !m.tb.Failed() {
			return
		}
		text := p.Output()
		if len(text) > showOutput {
			text = "…" + text[len(text)-showOutput:]
		}
		m.tb.Logf("── %s on %s ──\n%s", p.Name(), p.on, text)
	})
	return p
}

// Stop asks the program to end, kills it when it does not, and returns how it ended.
func (p *Process) Stop() error { return p.Process.Stop(stopLimit) }

// Wait waits until the process has ended and returns how.
func (p *Process) Wait() error {
	<-p.Done()
	return p.Err()
}

// Output is all that the process has written so far.
func (p *Process) Output() string { return p.output.String() }

// Says waits until the process has written text; it fails the test when the
// process ends before that.
func (p *Process) Says(within time.Duration, text string) {
	p.tb.Helper()
	testutils.Eventually(p.tb, within, p.Name()+" says "+text, func() bool {
		// Asked for first: the last words come before the end.
		running := p.Running()
		if strings.Contains(p.Output(), text) {
			return true
		}
		if !running {
			p.tb.Fatalf("%s on %s ended: %v: %s", p.Name(), p.on, p.Err(), p.Output())
		}
		return false
	})
}

// output takes standard output and standard error, each from a goroutine of its
// own, while the test reads.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(data []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(data)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
