// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/test/lab/disk"
	"github.com/plumb-dev/plumb/test/lab/etcd"
)

const (
	mountPoint = "/run/etcd"
	diskRole   = "disk"
)

func TestMain(m *testing.M) {
	machine.Main(map[string]machine.Role{diskRole: disk.Role, probeRole: probe})
	os.Exit(m.Run())
}

// program is the etcd to test with: bin/etcd of the tree, or of PLUMB_BIN, which
// `make` builds; else one that is built here from the module that pins it.
func program(t *testing.T) string {
	t.Helper()
	testutils.SkipUnlessRoot(t)
	root, err := filepath.Abs("../../..")
	require.NoError(t, err)
	bin := os.Getenv("PLUMB_BIN")
	if bin == "" {
		bin = filepath.Join(root, "bin")
	}
	path := filepath.Join(bin, "etcd")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	return built(t, filepath.Join(root, "test/lab/tools"))
}

func built(t *testing.T, tools string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "etcd")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "go.etcd.io/etcd/server/v3")
	cmd.Dir = tools
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		testutils.Skip(t, fmt.Sprintf("bin/etcd is missing and cannot be built: %v: %s", err, out))
	}
	return path
}

// A node is a machine with a slow disk.
type node struct {
	*machine.Machine
	disk    *disk.Disk
	address netip.Addr
}

func newMachine(t *testing.T, name string) *machine.Machine {
	t.Helper()
	m, err := machine.New(t.Context(), machine.Config{Name: name})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func newNode(t *testing.T, name, address string) *node {
	t.Helper()
	n := &node{Machine: newMachine(t, name), address: netip.MustParseAddr(address)}
	require.NoError(t, n.IP(t.Context(), "addr add "+address+"/32 dev lo"))
	n.startDisk(t)
	return n
}

func (n *node) startDisk(t *testing.T) {
	t.Helper()
	var err error
	n.disk, err = disk.Start(t.Context(), disk.Config{Name: fmt.Sprintf("test-etcd-%d-%s", os.Getpid(), n.Name()), At: mountPoint},
		func(args []string, onLine func(line []byte)) (disk.Process, error) {
			return n.Start(machine.Spec{Name: diskRole, Role: diskRole, Args: args, OnLine: onLine})
		})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.disk.Stop()) })
}

// startEtcd starts a member; it is not asked whether it is healthy.
func (n *node) startEtcd(t *testing.T, program string, peers []etcd.Peer) *etcd.Member {
	t.Helper()
	m, err := etcd.Start(etcd.Config{
		Program: program, Name: n.Name(), Peers: peers, Token: "test", DataDir: mountPoint + "/data",
	}, func(args, env []string) (etcd.Process, error) {
		return n.Start(machine.Spec{Name: "etcd", Args: args, Env: env})
	}, n.DialContext(""))
	require.NoError(t, err)
	t.Cleanup(m.Kill)
	return m
}

func (n *node) peer() etcd.Peer { return etcd.Peer{Name: n.Name(), Address: n.address} }

func waitHealthy(t *testing.T, m *etcd.Member) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, m.WaitHealthy(ctx))
}

// report is what the load saw in its next n puts.
func report(t *testing.T, load *etcd.Load, n int) etcd.LoadReport {
	t.Helper()
	since := time.Now()
	var r etcd.LoadReport
	testutils.Eventually(t, 30*time.Second, fmt.Sprintf("%d puts", n), func() bool {
		r = load.Report(since)
		return r.Count >= n
	})
	return r
}

func TestPutsAreAsSlowAsTheDisk(t *testing.T) {
	n := newNode(t, "n1", "10.9.1.2")
	m := n.startEtcd(t, program(t), []etcd.Peer{n.peer()})
	began := time.Now()
	waitHealthy(t, m)
	t.Logf("healthy after %s", time.Since(began))

	segments, err := os.ReadDir(n.Path(m.WALDir()))
	require.NoError(t, err)
	require.NotEmpty(t, segments)
	var names []string
	for _, s := range segments {
		names = append(names, s.Name())
	}
	require.Regexp(t, regexp.MustCompile(`^[0-9a-f]{16}-[0-9a-f]{16}\.wal$`), names[len(names)-1])
	require.Len(t, names[len(names)-1], 37, "the name that the agent looks for")

	var mu sync.Mutex
	seen := 0
	load := m.StartLoad(etcd.LoadConfig{Every: 20 * time.Millisecond, OnPut: func(etcd.Put) {
		mu.Lock()
		defer mu.Unlock()
		seen++
	}})
	defer load.Stop()
	report(t, load, 10)
	healthy := report(t, load, 100)
	before, err := m.WALFsync(t.Context())
	require.NoError(t, err)
	t.Logf("healthy: %+v; wal fsync mean %s", healthy, before.Mean())
	require.Zero(t, healthy.Errors)
	require.Less(t, healthy.P50, 50*time.Millisecond)
	require.Len(t, before.Buckets, 15, "14 of etcd's and +Inf")
	used, err := n.disk.Stats(t.Context())
	require.NoError(t, err)

	require.NoError(t, n.disk.Set(t.Context(), disk.Settings{Fsync: 60 * time.Millisecond}))
	slow := report(t, load, 30)
	after, err := m.WALFsync(t.Context())
	require.NoError(t, err)
	during := after.Since(before)
	t.Logf("fsync 60ms: %+v; wal fsync mean %s, %.0f%% over 32 ms; the disk took %+v", slow, during.Mean(), 100*during.Above(32*time.Millisecond), used)
	require.GreaterOrEqual(t, slow.P50, 60*time.Millisecond)
	require.Positive(t, slow.Stalls)
	require.Greater(t, during.Above(32*time.Millisecond), 0.5)

	require.NoError(t, n.disk.Set(t.Context(), disk.Settings{}))
	report(t, load, 20)
	require.Less(t, report(t, load, 50).P50, 50*time.Millisecond)

	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.PID()))
	require.NoError(t, err)
	t.Logf("resident: %s", regexp.MustCompile(`VmRSS:.*`).Find(raw))
	load.Stop()
	mu.Lock()
	defer mu.Unlock()
	require.GreaterOrEqual(t, seen, healthy.Count+slow.Count)
	m.Kill()
	require.Zero(t, m.PID())
}

func TestThreeMembersAreOneCluster(t *testing.T) {
	path := program(t)
	fabric := newMachine(t, "fabric")
	require.NoError(t, fabric.IP(t.Context(), "link add br0 type bridge", "link set br0 up"))
	var nodes []*node
	var peers []etcd.Peer
	for i := range 3 {
		address := fmt.Sprintf("10.9.0.%d", i+1)
		n := &node{Machine: newMachine(t, "m"+strconv.Itoa(i)), address: netip.MustParseAddr(address)}
		out, err := exec.Command("nsenter", "-t", strconv.Itoa(fabric.PID()), "-n", "ip", "link", "add", "to"+strconv.Itoa(i),
			"master", "br0", "up", "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(n.PID())).CombinedOutput()
		require.NoError(t, err, string(out))
		require.NoError(t, n.IP(t.Context(), "addr add "+address+"/24 dev eth0", "link set eth0 up"))
		n.startDisk(t)
		nodes, peers = append(nodes, n), append(peers, n.peer())
	}
	var members []*etcd.Member
	for _, n := range nodes {
		members = append(members, n.startEtcd(t, path, peers))
	}
	began := time.Now()
	for _, m := range members {
		waitHealthy(t, m)
	}
	t.Logf("healthy after %s", time.Since(began))
	load := members[0].StartLoad(etcd.LoadConfig{Every: 20 * time.Millisecond})
	defer load.Stop()
	healthy := report(t, load, 50)
	t.Logf("three members: %+v", healthy)
	require.Zero(t, healthy.Errors)
	for _, m := range members {
		h, err := m.WALFsync(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, h.Count, uint64(healthy.Count/2), "every member syncs its own log")
	}
}

func TestAMemberThatCannotRunSaysWhy(t *testing.T) {
	n := newNode(t, "bad", "10.9.1.2")
	peers := []etcd.Peer{n.peer()}
	_, err := etcd.Start(etcd.Config{Program: "/bin/false", Name: "other", Peers: peers, DataDir: "/run/x"}, nil, nil)
	require.ErrorContains(t, err, "not among its own members")
	_, err = etcd.Start(etcd.Config{Program: "etcd", Name: "bad", Peers: peers, DataDir: "/run/x"}, nil, nil)
	require.ErrorContains(t, err, "absolute")
	m, err := etcd.Start(etcd.Config{Program: "/bin/ls", Name: "bad", Peers: peers, DataDir: "/run/x"},
		func(args, env []string) (etcd.Process, error) {
			return n.Start(machine.Spec{Name: "etcd", Args: args, Env: env})
		}, n.DialContext(""))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.ErrorContains(t, m.WaitHealthy(ctx), "has ended")
}
