// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/internal/testutils/machine"
)

const (
	pods = 110
	// processes in each pod: the pause container and one of its own.
	processes = 2
	// remotes are other nodes that the overlay knows.
	remotes = 100

	metricsURL = "http://127.0.0.1:9950/metrics"
)

// A node has 110 pods on a bridge, a VXLAN as flannel sets one up, and an
// underlay that leads to a second machine with two time servers and, if it is
// asked for, the aggregator. Interfaces, loopbacks left out: 110 pairs, bridge,
// VXLAN and underlay.
type node struct {
	b *testing.B
	// dir is for what belongs to this run; bin has the binaries.
	dir, bin string
	machine  *machine.Machine
	far      *machine.Machine
}

// newNode makes a node whose pods and overlay have these MTUs; the underlay has
// 1500. Outer packets may not be fragmented.
func newNode(b *testing.B, podMTU, overlayMTU int) *node {
	b.Helper()
	testutils.SkipUnlessRoot(b)
	n := &node{b: b, dir: b.TempDir()}
	if n.bin = os.Getenv("PLUMB_BIN"); n.bin == "" {
		n.bin = n.dir
		build(b, n.bin, "plumb-agent", "plumb-aggregator")
	}
	groups := podCgroups(b)
	n.machine, n.far = machine.New(b, "node"), machine.New(b, "far")

	machine.Veth(n.far, "port", n.machine, "eth0")
	n.far.IP("addr add 10.9.1.1/24 dev port")
	n.machine.Sysctl("net.ipv4.ip_forward", "1")
	lines := []string{
		"addr add 10.9.1.2/24 dev eth0", "route add default via 10.9.1.1",
		"link add cni0 type bridge", "addr add 10.244.0.1/24 dev cni0", "link set cni0 up",
		// A lower device would make the kernel clamp the MTU.
		fmt.Sprintf("link add flannel.1 mtu %d type vxlan id 1 local 10.9.1.2 dstport 8472 nolearning df set", overlayMTU),
		"addr add 10.244.0.0/32 dev flannel.1", "link set flannel.1 up",
	}
	var forwarding string
	for i := 1; i <= remotes; i++ {
		lines = append(lines,
			fmt.Sprintf("neigh add 10.244.%d.0 lladdr 02:00:00:00:00:%02x dev flannel.1 nud permanent", i, i),
			fmt.Sprintf("route add 10.244.%d.0/24 via 10.244.%d.0 dev flannel.1 onlink", i, i))
		forwarding += fmt.Sprintf("fdb append 02:00:00:00:00:%02x dev flannel.1 dst 10.9.2.%d\n", i, i)
	}
	n.machine.IP(lines...)
	n.machine.Feed(forwarding, "bridge", "-batch", "-")

	cmd := n.machine.RoleCommand("", "pods", fmt.Sprint(pods), fmt.Sprint(processes), fmt.Sprint(podMTU))
	cmd.ExtraFiles = []*os.File{groups}
	n.machine.Launch("pods", cmd).Says(time.Minute, "ready")
	for _, address := range n.timeServers() {
		n.far.StartRole("time server "+address, "", "sntp", address).Says(10*time.Second, "listening")
	}
	return n
}

func (n *node) timeServers() []string { return []string{"10.9.1.1:11230", "10.9.1.1:11231"} }

// build builds commands as they are shipped.
func build(b *testing.B, dir string, commands ...string) {
	b.Helper()
	for _, command := range commands {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, command), "./cmd/"+command)
		cmd.Dir = filepath.Join("..", "..", "..")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		require.NoError(b, err, "build %s: %s", command, out)
	}
}

// podCgroup is a pod's cgroup in the directory that podCgroups opens, named as the
// kubelet names it.
func podCgroup(i int) string { return fmt.Sprintf("pod00000000-0000-4000-8000-%012d", i) }

// podCgroups makes the pods' cgroups, below a directory of this process, in any
// hierarchy that can be written, opens the directory, and removes what it made.
func podCgroups(b *testing.B) *os.File {
	b.Helper()
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/pids"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		shared := filepath.Join(root, "kubepods")
		sweep(shared)
		parent := filepath.Join(shared, fmt.Sprintf("bench-%d", os.Getpid()))
		if err := os.MkdirAll(parent, 0o755); err != nil {
			continue
		}
		b.Cleanup(func() {
			for i := range pods {
				testutils.Eventually(b, 20*time.Second, "a pod's cgroup is empty", func() bool {
					err := os.Remove(filepath.Join(parent, podCgroup(i)))
					return err == nil || os.IsNotExist(err)
				})
			}
			require.NoError(b, os.Remove(parent))
			_ = os.Remove(shared) // another test may be using it
		})
		for i := range pods {
			require.NoError(b, os.Mkdir(filepath.Join(parent, podCgroup(i)), 0o755))
		}
		dir, err := os.Open(parent)
		require.NoError(b, err)
		b.Cleanup(func() { dir.Close() })
		return dir
	}
	b.Fatal("no cgroup hierarchy can be written")
	return nil
}

// sweep removes the cgroups of runs that were killed before they could.
func sweep(shared string) {
	left, _ := filepath.Glob(filepath.Join(shared, "bench-*"))
	for _, dir := range left {
		pid := strings.TrimPrefix(filepath.Base(dir), "bench-")
		if _, err := os.Stat("/proc/" + pid); err == nil {
			continue
		}
		for i := range pods {
			_ = os.Remove(filepath.Join(dir, podCgroup(i)))
		}
		_ = os.Remove(dir)
	}
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

// startAggregator starts an aggregator on the far machine, with throw-away keys.
func (n *node) startAggregator() {
	n.b.Helper()
	out, err := exec.Command(filepath.Join(n.bin, "plumb-aggregator"), "init", n.dir, "--node", "n1=uid-n1,zone=a", "--host", "10.9.1.1").CombinedOutput()
	require.NoError(n.b, err, "%s", out)
	p := n.far.Start("aggregator", filepath.Join(n.bin, "plumb-aggregator"),
		"--listen-address", "10.9.1.1:9951", "--api-address", "127.0.0.1:9952", "--metrics-address", "127.0.0.1:9953",
		"--nodes", n.path("nodes.yaml"), "--tls-cert", n.path("server.crt"), "--tls-key", n.path("server.key"),
		"--data-dir", n.path("data"))
	n.waitReady(n.far, p, "http://127.0.0.1:9953/readyz")
}

// startAgent starts the agent and waits until every probe was sampled.
func (n *node) startAgent(pushing bool) *machine.Process {
	n.b.Helper()
	args := []string{filepath.Join(n.bin, "plumb-agent"), "--node-name", "n1", "--listen-address", "127.0.0.1:9950"}
	for i, address := range n.timeServers() {
		args = append(args, "--time-server", fmt.Sprintf("group%d=%s", i, address))
	}
	if pushing {
		args = append(args, "--aggregator", "https://10.9.1.1:9951", "--aggregator-ca", n.path("ca.crt"), "--token-file", n.path("n1.token"))
	}
	p := n.machine.Start("agent", args...)
	n.waitReady(n.machine, p, "http://127.0.0.1:9950/readyz")
	return p
}

func (n *node) waitReady(m *machine.Machine, p *machine.Process, url string) {
	n.b.Helper()
	testutils.Eventually(n.b, 60*time.Second, url+" answers", func() bool {
		require.True(n.b, p.Running(), "the process on %s ended: %s", m.Name, p.Output())
		_, ok := m.Get(url)
		return ok
	})
}
