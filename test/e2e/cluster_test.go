// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
	"github.com/plumb-dev/plumb/internal/testutils/machine"
	"github.com/plumb-dev/plumb/test/lab/podgroup"
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
	fabric     *machine.Machine
	aggregator *machine.Machine
	nodes      map[string]*machine.Machine

	aggregatorProcess *machine.Process
	agents            map[string]*machine.Process
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{
		t: t, dir: t.TempDir(),
		fabric: machine.New(t, "fabric"), aggregator: machine.New(t, "aggregator"),
		nodes:  map[string]*machine.Machine{"n1": machine.New(t, "n1"), "n2": machine.New(t, "n2")},
		agents: map[string]*machine.Process{},
	}
	c.fabric.Sysctl("net.ipv4.ip_forward", "1")
	c.join(c.aggregator, "9")
	for name, m := range c.nodes {
		n := strings.TrimPrefix(name, "n")
		c.join(m, n)
		m.Sysctl("net.ipv4.ip_forward", "1")
		m.IP("link add cni0 type bridge", fmt.Sprintf("addr add 10.244.%s.1/24 dev cni0", n), "link set cni0 up")
		c.pod(name, "p"+n, "10.244."+n+".10", 1500)
	}
	c.credentials()
	return c
}

// join connects a machine's eth0 to the fabric.
func (c *cluster) join(m *machine.Machine, n string) {
	c.t.Helper()
	port := "f" + n
	machine.Veth(c.fabric, port, m, "eth0")
	c.fabric.IP(fmt.Sprintf("addr add 10.9.%s.1/24 dev %s", n, port))
	m.IP(fmt.Sprintf("addr add 10.9.%s.2/24 dev eth0", n), fmt.Sprintf("route add default via 10.9.%s.1", n))
}

// pod makes a pod's network namespace behind cni0 of a node.
func (c *cluster) pod(node, pod, address string, mtu int) {
	c.t.Helper()
	m := c.nodes[node]
	gateway := address[:strings.LastIndex(address, ".")] + ".1"
	m.IP("netns add "+pod,
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
		m.IP(fmt.Sprintf("link add flannel.1 mtu %d type vxlan id 1 local 10.9.%s.2 dstport 8472 nolearning df %s", mtu, n, df),
			fmt.Sprintf("link set flannel.1 address 02:00:00:00:00:0%s", n),
			fmt.Sprintf("addr add 10.244.%s.0/32 dev flannel.1", n),
			"link set flannel.1 up",
			fmt.Sprintf("neigh add 10.244.%s.0 lladdr 02:00:00:00:00:0%s dev flannel.1 nud permanent", peer, peer),
			fmt.Sprintf("route add 10.244.%s.0/24 via 10.244.%s.0 dev flannel.1 onlink", peer, peer))
		m.Run("bridge", "fdb", "append", "02:00:00:00:00:0"+peer, "dev", "flannel.1", "dst", "10.9."+peer+".2")
		got := strings.Fields(strings.SplitN(m.Run("ip", "-o", "link", "show", "flannel.1"), "mtu ", 2)[1])[0]
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
	c.aggregatorProcess = c.aggregator.Start("aggregator", args...)
	c.waitReady(c.aggregator, c.aggregatorProcess, "http://127.0.0.1:9953/readyz")
}

// waitReady waits until a program answers.
func (c *cluster) waitReady(m *machine.Machine, p *machine.Process, url string) {
	c.t.Helper()
	testutils.Eventually(c.t, 20*time.Second, p.Name()+" on "+m.Name+" answers", func() bool {
		if !p.Running() {
			c.t.Fatalf("%s on %s ended: %v", p.Name(), m.Name, p.Err())
		}
		_, ok := m.Get(url)
		return ok
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
	c.agents[node] = m.Start("agent", args...)
	c.waitReady(m, c.agents[node], "http://127.0.0.1:9950/healthz")
}

// plumb runs the CLI beside the aggregator, as kubectl port-forward would.
func (c *cluster) plumb(args ...string) (stdout, stderr string, status int) {
	c.t.Helper()
	out, errOut, status, err := exitCode(c.aggregator.Command(append([]string{bin(c.t, "plumb"), "--server", "http://127.0.0.1:9952"}, args...)...))
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

// sink starts a TCP sink in a pod and waits until it listens.
func (c *cluster) sink(node, pod, address string) {
	c.t.Helper()
	c.inPod(node, pod, "tcp-sink", address).Says(5*time.Second, "listening")
}

// inPod starts a traffic program inside a pod, in a cgroup named as the kubelet
// names it.
func (c *cluster) inPod(node, pod, role string, args ...string) *machine.Process {
	c.t.Helper()
	group, err := podgroup.New("/sys/fs/cgroup", remover{c.t})
	require.NoError(c.t, err)
	files, err := group.Open()
	require.NoError(c.t, err)
	m := c.nodes[node]
	program := m.RoleCommand(pod, inPodRole, append([]string{strconv.Itoa(len(files)), role}, args...)...)
	program.ExtraFiles = files
	p := m.Launch(role+" in "+pod, program)
	for _, f := range files {
		require.NoError(c.t, f.Close())
	}
	return p
}

// A remover removes a pod's cgroup with its test, after the processes in it.
type remover struct{ t *testing.T }

// Own takes what is about to be made.
func (r remover) Own(_ string, detail any) error {
	raw, err := json.Marshal(detail)
	r.t.Cleanup(func() { require.NoError(r.t, podgroup.Remover(raw)) })
	return err
}
