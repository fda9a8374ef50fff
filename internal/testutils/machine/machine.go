// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	node "github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/internal/testutils"
)

const (
	// commandLimit is how long a command may take that Run and the like wait for;
	// those of the tests take seconds at the most.
	commandLimit = time.Minute
	// getLimit is how long an answer to Get may take, on a machine that is busy.
	getLimit = 10 * time.Second
)

// A Role is a program that a machine runs.
type Role = node.Role

// Main runs the tests, or the role that a machine started this binary for. It does
// not return.
func Main(m *testing.M, roles map[string]Role) {
	node.Main(roles)
	os.Exit(m.Run())
}

// A Machine is a node of its own. Methods that it does not have itself are those of
// internal/machine.
type Machine struct {
	*node.Machine
	// Name is for messages.
	Name string

	tb testing.TB
}

// New makes a machine with lo up and IPv6 off, so that nothing changes by itself
// afterwards. It skips the test for a user who is not root.
func New(tb testing.TB, name string) *Machine {
	tb.Helper()
	testutils.SkipUnlessRoot(tb)
	m, err := node.New(tb.Context(), node.Config{Name: name})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, m.Close()) })
	return &Machine{Machine: m, Name: name, tb: tb}
}

// limited is not of the test's own context: that ends before cleanups run.
func limited() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), commandLimit)
}

// Run runs a command inside, returns its output, and fails the test if it fails.
func (m *Machine) Run(args ...string) string {
	m.tb.Helper()
	return m.Feed("", args...)
}

// Feed is Run with that standard input.
func (m *Machine) Feed(input string, args ...string) string {
	m.tb.Helper()
	ctx, cancel := limited()
	defer cancel()
	out, err := m.Machine.Feed(ctx, input, args...)
	require.NoError(m.tb, err)
	return out
}

// IP runs ip(8) command lines, without the word ip. A line may begin with "-n NAME".
func (m *Machine) IP(lines ...string) {
	m.tb.Helper()
	ctx, cancel := limited()
	defer cancel()
	require.NoError(m.tb, m.Machine.IP(ctx, lines...))
}

// Veth makes a pair of which one end is in each machine. It runs outside of both
// PID namespaces, for inside of one the process that stands for the other has no
// number.
func Veth(a *Machine, aName string, b *Machine, bName string) {
	a.tb.Helper()
	ctx, cancel := limited()
	defer cancel()
	out, err := exec.CommandContext(ctx, "nsenter", "-t", strconv.Itoa(a.PID()), "-n", "--",
		"ip", "link", "add", aName, "type", "veth", "peer", "name", bName, "netns", strconv.Itoa(b.PID())).CombinedOutput()
	require.NoError(a.tb, err, "join %s and %s: %s", a.Name, b.Name, out)
	a.IP("link set " + aName + " up")
	b.IP("link set " + bName + " up")
}

// Sysctl sets one of the machine's own kernel parameters.
func (m *Machine) Sysctl(key, value string) {
	m.tb.Helper()
	require.NoError(m.tb, m.Machine.Sysctl("", key, value))
}

// Get asks a URL, whose host is a literal address, from inside and says whether it
// answers with status 200. Without an answer, body is why.
func (m *Machine) Get(url string) (body string, ok bool) {
	m.tb.Helper()
	transport := &http.Transport{DialContext: m.DialContext("")}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: getLimit}
	response, err := client.Get(url)
	if err != nil {
		return err.Error(), false
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	return string(raw), err == nil && response.StatusCode == http.StatusOK
}
