// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// A cluster is two nodes behind a router, the aggregator behind a third port:
//
//	n1 10.9.1.2 ── 10.9.1.1 fabric 10.9.2.1 ── 10.9.2.2 n2
//	                     10.9.9.1 ── 10.9.9.2 aggregator
//
// Every node has a bridge cni0 with one pod behind it (10.244.N.10) and, when the
// test asks for it, a VXLAN as flannel sets one up.
type cluster struct {
	t          *testing.T
	dir        string
	fabric     *machine
	aggregator *machine
	nodes      map[string]*machine

	aggregatorProcess *process
	agents            map[string]*process
}

const (
	podUID1 = "11111111-1111-4111-8111-111111111111"
	podUID2 = "22222222-2222-4222-8222-222222222222"
)

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{
		t: t, dir: t.TempDir(),
		fabric: newMachine(t, "fabric"), aggregator: newMachine(t, "aggregator"),
		nodes:  map[string]*machine{"n1": newMachine(t, "n1"), "n2": newMachine(t, "n2")},
		agents: map[string]*process{},
	}
	c.fabric.sysctl("net.ipv4.ip_forward", "1")
	c.join(c.aggregator, "9")
	for name, m := range c.nodes {
		n := strings.TrimPrefix(name, "n")
		c.join(m, n)
		m.sysctl("net.ipv4.ip_forward", "1")
		m.ip("link add cni0 type bridge", fmt.Sprintf("addr add 10.244.%s.1/24 dev cni0", n), "link set cni0 up")
		c.pod(name, "p"+n, "10.244."+n+".10", 1500)
	}
	c.credentials()
	return c
}

// join connects a machine's eth0 to the fabric.
func (c *cluster) join(m *machine, n string) {
	c.t.Helper()
	port := "f" + n
	// From the fabric's network namespace, but where the other machine's PID means
	// something.
	out, err := exec.Command("nsenter", "-t", fmt.Sprint(c.fabric.pid()), "-n", "ip", "link", "add", port,
		"type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(m.pid())).CombinedOutput()
	require.NoError(c.t, err, "%s", out)
	c.fabric.ip(fmt.Sprintf("addr add 10.9.%s.1/24 dev %s", n, port), "link set "+port+" up")
	m.ip(fmt.Sprintf("addr add 10.9.%s.2/24 dev eth0", n), "link set eth0 up", fmt.Sprintf("route add default via 10.9.%s.1", n))
}

// pod makes a pod's network namespace behind cni0 of a node.
func (c *cluster) pod(node, pod, address string, mtu int) {
	c.t.Helper()
	m := c.nodes[node]
	gateway := address[:strings.LastIndex(address, ".")] + ".1"
	m.ip("netns add "+pod,
		fmt.Sprintf("link add veth%s mtu %d type veth peer name eth0 mtu %d netns %s", pod, mtu, mtu, pod),
		"link set veth"+pod+" master cni0 up",
		"-n "+pod+" link set lo up",
		fmt.Sprintf("-n %s addr add %s/24 dev eth0", pod, address),
		"-n "+pod+" link set eth0 up",
		fmt.Sprintf("-n %s route add default via %s", pod, gateway))
}

// overlay joins the nodes by a VXLAN as flannel does. A lower device would make
// the kernel clamp the MTU; without one it stays as it is asked for.
func (c *cluster) overlay(mtu int, df string) {
	c.t.Helper()
	for name, m := range c.nodes {
		n := strings.TrimPrefix(name, "n")
		peer := map[string]string{"1": "2", "2": "1"}[n]
		m.ip(fmt.Sprintf("link add flannel.1 mtu %d type vxlan id 1 local 10.9.%s.2 dstport 8472 nolearning df %s", mtu, n, df),
			fmt.Sprintf("link set flannel.1 address 02:00:00:00:00:0%s", n),
			fmt.Sprintf("addr add 10.244.%s.0/32 dev flannel.1", n),
			"link set flannel.1 up",
			fmt.Sprintf("neigh add 10.244.%s.0 lladdr 02:00:00:00:00:0%s dev flannel.1 nud permanent", peer, peer),
			fmt.Sprintf("route add 10.244.%s.0/24 via 10.244.%s.0 dev flannel.1 onlink", peer, peer))
		m.run("bridge", "fdb", "append", "02:00:00:00:00:0"+peer, "dev", "flannel.1", "dst", "10.9."+peer+".2")
		got := strings.Fields(strings.SplitN(m.run("ip", "-o", "link", "show", "flannel.1"), "mtu ", 2)[1])[0]
		require.Equal(c.t, fmt.Sprint(mtu), got, "the kernel changed the MTU that was asked for")
	}
}

// credentials makes the throw-away CA, the nodes file and one token per node.
func (c *cluster) credentials() {
	c.t.Helper()
	out, err := exec.Command(bin(c.t, "plumb-aggregator"), "init", c.dir, "--cluster", "e2e", "--host", "10.9.9.2",
		"--node", "n1=uid-n1,zone=a", "--node", "n2=uid-n2,zone=b").CombinedOutput()
	require.NoError(c.t, err, "%s", out)
}

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

// startAggregator starts it and waits until it is ready.
func (c *cluster) startAggregator(extra ...string) {
	c.t.Helper()
	args := append([]string{bin(c.t, "plumb-aggregator"),
		"--listen-address", "10.9.9.2:9951", "--api-address", "127.0.0.1:9952", "--metrics-address", "127.0.0.1:9953",
		"--nodes", c.path("nodes.yaml"), "--tls-cert", c.path("server.crt"), "--tls-key", c.path("server.key"),
		"--data-dir", c.path("data"), "--cluster", "e2e"}, extra...)
	c.aggregatorProcess = c.aggregator.start("aggregator", nil, args...)
	c.waitReady(c.aggregator, c.aggregatorProcess, "http://127.0.0.1:9953/readyz")
}

func (c *cluster) waitReady(m *machine, p *process, url string) {
	c.t.Helper()
	testutils.Eventually(c.t, 20*time.Second, m.name+" is ready", func() bool {
		if !p.running() {
			c.t.Fatalf("the process on %s ended: %v", m.name, p.err)
		}
		return get(m, url)
	})
}

// startAgent starts the agent of a node and waits until it answers.
func (c *cluster) startAgent(node string, extra ...string) {
	c.t.Helper()
	m := c.nodes[node]
	args := append([]string{bin(c.t, "plumb-agent"),
		"--aggregator", "https://10.9.9.2:9951", "--aggregator-ca", c.path("ca.crt"), "--token-file", c.path(node + ".token"),
		"--node-name", node, "--spool-dir", c.path("spool-" + node), "--listen-address", "127.0.0.1:9950"}, extra...)
	require.NoError(c.t, os.MkdirAll(c.path("spool-"+node), 0o700))
	c.agents[node] = m.start("agent", nil, args...)
	testutils.Eventually(c.t, 20*time.Second, "the agent of "+node+" is alive", func() bool {
		if p := c.agents[node]; !p.running() {
			c.t.Fatalf("the agent of %s ended: %v", node, p.err)
		}
		return get(m, "http://127.0.0.1:9950/healthz")
	})
}

// plumb runs the CLI beside the aggregator, as kubectl port-forward would.
func (c *cluster) plumb(args ...string) (stdout, stderr string, status int) {
	c.t.Helper()
	out, errOut, status, err := exitCode(c.aggregator.command(append([]string{bin(c.t, "plumb"), "--server", "http://127.0.0.1:9952"}, args...)...))
	require.NoError(c.t, err)
	return out, errOut, status
}

// verdicts asks for all verdicts, resolved ones as well.
func (c *cluster) verdicts() []*apiv1.Verdict {
	c.t.Helper()
	out, errOut, status := c.plumb("verdicts", "--all", "--json")
	require.NotEqual(c.t, 2, status, "%s", errOut)
	var list apiv1.ListVerdictsResponse
	require.NoError(c.t, protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal([]byte(out), &list), out)
	return list.GetVerdicts()
}

// verdict returns the verdict of a signature on a node, or nil.
func (c *cluster) verdict(signature, node string) *apiv1.Verdict {
	c.t.Helper()
	for _, v := range c.verdicts() {
		if v.GetSignature() != signature {
			continue
		}
		for _, n := range v.GetScope().GetNodes() {
			if n == node {
				return v
			}
		}
	}
	return nil
}

// waitGrade waits for a verdict to reach a grade.
func (c *cluster) waitGrade(within time.Duration, signature, node, grade string) *apiv1.Verdict {
	c.t.Helper()
	var got *apiv1.Verdict
	testutils.Eventually(c.t, within, fmt.Sprintf("%s is %s on %s", signature, grade, node), func() bool {
		got = c.verdict(signature, node)
		return got.GetGrade() == grade
	})
	return got
}

// forbid fails if any verdict of this grade shows up while ok is false, and
// returns when ok is true.
func (c *cluster) silentUntil(within time.Duration, what string, grades []string, ok func() bool) {
	c.t.Helper()
	testutils.Eventually(c.t, within, what, func() bool {
		for _, v := range c.verdicts() {
			for _, g := range grades {
				require.NotEqual(c.t, g, v.GetGrade(), "%s must not be %s: %s", v.GetSignature(), g, protojson.Format(v))
			}
		}
		return ok()
	})
}

// subjects returns everything that is known of a node.
func (c *cluster) subjects(node string) []*apiv1.SubjectEvidence {
	c.t.Helper()
	out, errOut, status := c.plumb("evidence", node, "--json")
	require.NotEqual(c.t, 2, status, "%s", errOut)
	var response apiv1.GetEvidenceResponse
	require.NoError(c.t, protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal([]byte(out), &response), out)
	return response.GetSubjects()
}

// evidence returns one item of a node, or nil.
func (c *cluster) evidence(node, subject, item string) *apiv1.EvidenceItem {
	c.t.Helper()
	for _, s := range c.subjects(node) {
		if s.GetName() != subject {
			continue
		}
		for _, it := range s.GetItems() {
			if it.GetItem() == item {
				return it
			}
		}
	}
	return nil
}

// role starts a traffic program in a machine's own namespace.
func (c *cluster) role(m *machine, name, role string, args ...string) *process {
	c.t.Helper()
	self, err := os.Executable()
	require.NoError(c.t, err)
	return m.start(name, []string{"PLUMB_E2E_ROLE=" + role}, append([]string{self}, args...)...)
}

func get(m *machine, url string) bool {
	cmd, err := getCommand(m, url)
	return err == nil && cmd.Run() == nil
}

func getCommand(m *machine, url string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := m.command(self, url)
	cmd.Env = append(os.Environ(), "PLUMB_E2E_ROLE=http-get")
	return cmd, nil
}

// inPod starts a traffic program inside a pod, in a cgroup named as the kubelet
// names it.
func (c *cluster) inPod(node, pod, uid, role string, args ...string) *process {
	c.t.Helper()
	self, err := os.Executable()
	require.NoError(c.t, err)
	m := c.nodes[node]
	group := podCgroup(c.t, uid)
	// The cgroup tree is mounted outside of the machine only, so the test opens
	// the file and the program writes itself in.
	procs, err := os.OpenFile(filepath.Join(group, "cgroup.procs"), os.O_WRONLY, 0)
	require.NoError(c.t, err)
	defer procs.Close()
	cmd := m.command(append([]string{"ip", "netns", "exec", pod, self}, args...)...)
	cmd.ExtraFiles = []*os.File{procs}
	return m.launch(role+" in "+pod, cmd, []string{"PLUMB_E2E_ROLE=" + role, "PLUMB_E2E_CGROUP=3"})
}

// podCgroup makes kubepods/pod<uid> in any hierarchy that can be written and
// removes it with the test.
func podCgroup(t testing.TB, uid string) string {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/pids"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		// A directory of this process's own in between: runs side by side must not
		// meet in one cgroup.
		kubepods := filepath.Join(root, "kubepods")
		parent := filepath.Join(kubepods, fmt.Sprintf("e2e-%d", os.Getpid()))
		group := filepath.Join(parent, "pod"+uid)
		if err := os.MkdirAll(group, 0o755); err != nil {
			continue
		}
		t.Cleanup(func() {
			testutils.Eventually(t, 10*time.Second, "the pod's cgroup is empty", func() bool {
				err := os.Remove(group)
				return err == nil || os.IsNotExist(err)
			})
			_ = os.Remove(parent)
			_ = os.Remove(kubepods)
		})
		return group
	}
	t.Fatal("no cgroup hierarchy can be written")
	return ""
}
