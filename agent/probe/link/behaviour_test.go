// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/agent/nodeview"
	"github.com/plumb-dev/plumb/agent/probe"
	"github.com/plumb-dev/plumb/evidence"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// send sends one UDP datagram of a layer 3 size with DF from a namespace.
func send(tb testing.TB, ns *testutils.NetNS, to string, size int) error {
	tb.Helper()
	return ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO); err != nil {
			return err
		}
		addr := netip.MustParseAddr(to)
		return unix.Sendto(fd, make([]byte, size-28), 0, &unix.SockaddrInet4{Port: 9, Addr: addr.As4()})
	})
}

// A router on the way has a link of 1300 bytes and says so.
func TestALearnedPathMTUIsNotTheRouteMTU(t *testing.T) {
	n := newTestNode(t)
	router := n.underlay()
	far := testutils.NewNetNS(t)
	testutils.Veth(router, "far", far, "eth0")
	router.Run("ip", "addr", "add", "192.0.2.254/24", "dev", "node")
	router.Run("ip", "addr", "add", "198.51.100.254/24", "dev", "far")
	router.Run("ip", "link", "set", "far", "mtu", "1300")
	router.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	far.Run("ip", "addr", "add", "198.51.100.2/24", "dev", "eth0")
	n.ip("route add default via 192.0.2.254")
	n.ip("link add vx type vxlan id 7 dstport 4789 remote 198.51.100.2 df set")
	n.ip("link set vx mtu 1450 up")
	n.ip("addr add 10.9.0.1/24 dev vx")
	n.sample().want("vx", wants{"underlay_mtu_bytes": 1500, "expected_mtu_bytes": 1450, "learned_path_mtu_bytes": na("learned no path MTU")})

	var d devices
	testutils.Eventually(t, 5*time.Second, "the kernel learned the path MTU", func() bool {
		_ = send(t, n.own, "198.51.100.2", 1500) // EMSGSIZE once it has
		d = n.sample()
		return d.item("vx", uint32(evidence.LinkLearnedPathMTUBytes)).GetNotApplicable() == nil
	})
	d.want("vx", wants{"learned_path_mtu_bytes": 1300, "underlay_mtu_bytes": 1500, "expected_mtu_bytes": 1450, "overhead_bytes": 50})

	// Asked anew, the FIB does not mix the one with the other.
	n.clock.Add(uint64(fibAge))
	n.sample().want("vx", wants{"learned_path_mtu_bytes": 1300, "underlay_mtu_bytes": 1500, "expected_mtu_bytes": 1450})

	// What was configured is not mistaken for learned.
	n.ip("route flush cache")
	n.ip("route add 198.51.100.0/24 via 192.0.2.254 mtu 1350")
	n.sample().want("vx", wants{"underlay_mtu_bytes": 1350, "expected_mtu_bytes": 1300})
}

// The tunnel itself tells the inner sender, so that the exception is for a
// destination behind the overlay.
func TestALearnedPathMTUBehindTheOverlay(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	n.ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0")
	n.ip("link add vx type vxlan id 7 dstport 4789 remote 192.0.2.2 df set")
	n.ip("link set vx mtu 1500 up")
	n.ip("addr add 10.9.0.1/24 dev vx")
	n.ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:03 dev vx")
	var d devices
	testutils.Eventually(t, 5*time.Second, "the kernel learned the path MTU", func() bool {
		_ = send(t, n.own, "10.9.0.2", 1500)
		d = n.sample()
		return d.item("vx", uint32(evidence.LinkLearnedPathMTUBytes)).GetNotApplicable() == nil
	})
	// The exception for the remote, of just its device's MTU, is none.
	require.Contains(t, n.own.Run("ip", "route", "show", "cache"), "192.0.2.2")
	d.want("vx", wants{"learned_path_mtu_bytes": 1450, "mtu_bytes": 1500, "route_mtu_bytes": 1500, "underlay_mtu_bytes": 1500})
}

func TestALearnedPathMTUOfIPv6(t *testing.T) {
	n := newTestNode(t)
	router := n.underlay()
	far := testutils.NewNetNS(t)
	testutils.Veth(router, "far", far, "eth0")
	router.Run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	router.Run("ip", "addr", "add", "fd00::254/64", "dev", "node", "nodad")
	router.Run("ip", "addr", "add", "fd02::254/64", "dev", "far", "nodad")
	router.Run("ip", "link", "set", "far", "mtu", "1300")
	n.ip("-6 route add default via fd00::254")
	n.ip("link add vx type vxlan id 7 dstport 4789 remote fd02::2")
	n.ip("link set vx mtu 1430 up")
	n.sample().want("vx", wants{"expected_mtu_bytes": 1430, "learned_path_mtu_bytes": na("learned no path MTU")})
	var d devices
	testutils.Eventually(t, 10*time.Second, "the kernel learned the path MTU", func() bool {
		_, _ = n.own.Try("ping", "-c1", "-W1", "-M", "do", "-s", "1400", "fd02::2")
		d = n.sample()
		return d.item("vx", uint32(evidence.LinkLearnedPathMTUBytes)).GetNotApplicable() == nil
	})
	d.want("vx", wants{"learned_path_mtu_bytes": 1300, "underlay_mtu_bytes": 1500})
	n.clock.Add(uint64(fibAge))
	n.sample().want("vx", wants{"learned_path_mtu_bytes": 1300, "underlay_mtu_bytes": 1500})
}

func TestDropsOfAVethMove(t *testing.T) {
	n := newTestNode(t)
	pod := n.pod("p1")
	n.ip("addr add 10.1.0.1/24 dev p1")
	pod.Run("ip", "addr", "add", "10.1.0.2/24", "dev", "eth0")
	n.ip("neigh add 10.1.0.2 lladdr 02:00:00:00:00:02 dev p1")
	pod.Run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:02")
	pod.Run("ip", "link", "set", "eth0", "mtu", "1300")
	const eth0 = "eth0 in pod " + podUID
	warming := unknown{evidence.WarmingUp, "nothing to compare with"}
	d := n.sample()
	d.want("p1", wants{"drops_moving": warming})
	d.want(eth0, wants{"drops_moving": warming})
	d = n.sample()
	d.want("p1", wants{"drops_moving": false})
	d.want(eth0, wants{"drops_moving": false})

	require.NoError(t, send(t, n.own, "10.1.0.2", 1400))
	d = n.sample()
	d.want("p1", wants{"drops_moving": true})
	d.want(eth0, wants{"drops_moving": true, "receive_dropped_total": 1})
	n.clock.Add(uint64(29 * time.Second))
	n.sample().want("p1", wants{"drops_moving": true})
	n.clock.Add(uint64(2 * time.Second))
	n.sample().want("p1", wants{"drops_moving": false})
}

func TestNamespacesGetAnIDOnlyWhenTheyHaveNone(t *testing.T) {
	n := newTestNode(t)
	linked := n.pod("p1") // the veth gave it an id
	alone := testutils.NewNetNS(t)
	n.view.add(alone, "")
	before := n.own.Run("ip", "netns", "list-id")
	n.sample()
	after := n.own.Run("ip", "netns", "list-id")
	require.NotEqual(t, before, after, "the lonely namespace got an id")
	n.sample()
	require.Equal(t, after, n.own.Run("ip", "netns", "list-id"))
	_, ok := n.probe.Inventory().Device(alone.Inode(), 1)
	require.True(t, ok)
	_, ok = n.probe.Inventory().Device(linked.Inode(), 2)
	require.True(t, ok)
}

func TestANamespaceIsNotHeldAlive(t *testing.T) {
	n := newTestNode(t)
	n.ip("link add vx type vxlan id 7 dstport 4789 remote 127.0.0.9")
	n.ip("link set vx up")
	n.ip("route add 10.9.0.0/24 dev vx")
	short := exec.Command("sleep", "60")
	short.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	require.NoError(t, short.Start())
	killed := false
	t.Cleanup(func() {
		if !killed {
			_ = short.Process.Kill()
			_ = short.Wait()
		}
	})
	path := filepath.Join("/proc", strconv.Itoa(short.Process.Pid), "ns/net")
	var st unix.Stat_t
	testutils.Eventually(t, 5*time.Second, "the child has its namespace", func() bool {
		return unix.Stat(path, &st) == nil && uint32(st.Ino) != n.own.Inode()
	})
	n.own.Run("ip", "link", "add", "p1", "type", "veth", "peer", "name", "eth0", "netns", path)
	n.view.namespaces = append(n.view.namespaces, nodeview.Namespace{Inode: uint32(st.Ino), Path: path, PodUID: podUID})
	n.sample()
	require.NoError(t, short.Process.Kill())
	_ = short.Wait()
	killed = true
	// The kernel removes p1 together with its other end's namespace.
	testutils.Eventually(t, 10*time.Second, "the namespace is gone", func() bool {
		_, err := n.own.Try("ip", "link", "show", "dev", "p1")
		return err != nil
	})
}

// The child is this test binary as a user who has just the capabilities that
// deploy/ gives the agent, less SYS_ADMIN; the parent makes the namespaces.
func TestWithoutTheRightToEnterPods(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		n := childNode(t)
		d := n.sample()
		d.want("vx", wants{
			"pod_route_mtu_bytes": unknown{evidence.Blind, "CAP_SYS_ADMIN"},
			"pod_mtu_bytes":       1500,
			"expected_mtu_bytes":  1450,
		})
		d.want("eth0 in pod "+podUID, wants{"mtu_bytes": 1500, "peer_mtu_bytes": 1500})
		hook := hookOf(t, n.probe, "link.pod_routes")
		require.False(t, hook.Confirmed)
		require.Empty(t, hook.Rung)
		require.Contains(t, hook.Detail, "give the agent CAP_SYS_ADMIN")
		require.True(t, hookOf(t, n.probe, "link.devices").Confirmed)
		return
	}
	n := newTestNode(t)
	n.overlayWithPod()
	n.sample().want("vx", wants{"pod_route_mtu_bytes": 1500})
	n.runChild(unix.CAP_NET_ADMIN, unix.CAP_SYS_PTRACE)
}

func TestWithoutAnyCapability(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		n := childNode(t)
		d := n.try()
		d.want("node", wants{"namespaces_unreadable": 1})
		why := d.item("node", uint32(evidence.LinkUnreadable)).GetText()
		require.Contains(t, why, "read devices of 1 of 2 network namespaces (first: pod "+podUID+")")
		require.Contains(t, why, "give the agent CAP_NET_ADMIN and CAP_SYS_PTRACE")
		// Its own namespace it still reads.
		d.want("vx", wants{"expected_mtu_bytes": 1450})
		d.want("p1", wants{"peer_mtu_bytes": unknown{evidence.Blind, "not in the node's view"}})
		hook := hookOf(t, n.probe, "link.devices")
		require.Equal(t, "rtnetlink", hook.Rung)
		require.Contains(t, hook.Detail, "CAP_NET_ADMIN")
		return
	}
	n := newTestNode(t)
	n.overlayWithPod()
	n.runChild()
}

func (n *testNode) overlayWithPod() {
	n.underlay()
	n.ip("link add vx type vxlan id 7 dstport 4789 remote 192.0.2.2 df set")
	n.ip("link set vx mtu 1500 up")
	n.ip("route add 10.1.1.0/24 dev vx")
	pod := n.pod("p1")
	pod.Run("ip", "addr", "add", "10.1.0.2/16", "dev", "eth0")
}

func hookOf(tb testing.TB, p *Probe, signal string) probe.Hook {
	tb.Helper()
	for _, h := range p.Hooks() {
		if h.Signal == signal {
			return h
		}
	}
	require.Fail(tb, "no hook "+signal)
	return probe.Hook{}
}

const childEnv = "PLUMB_LINK_CHILD"

// runChild runs the calling test again, in the node's own namespace, as nobody
// with some capabilities.
func (n *testNode) runChild(capabilities ...uintptr) {
	t := n.tb
	t.Helper()
	dir, err := os.MkdirTemp("", "plumb-link")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	binary, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	copied := filepath.Join(dir, "test")
	require.NoError(t, os.WriteFile(copied, binary, 0o755))
	// A process in the pod, for the child cannot use the parent's descriptors.
	pod := exec.Command("sleep", "60")
	require.NoError(t, n.lastPod.Start(pod))
	t.Cleanup(func() {
		require.NoError(t, pod.Process.Kill())
		_ = pod.Wait()
	})
	cmd := exec.Command(copied, "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v")
	cmd.Dir = dir
	cmd.Env = []string{childEnv + "=" + strconv.Itoa(pod.Process.Pid) + " " + strconv.FormatUint(uint64(n.lastPod.Inode()), 10)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: capabilities}
	require.NoError(t, n.own.Do(func() error {
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		return err
	}))
}

// childNode is the node as the child sees it.
func childNode(tb testing.TB) *testNode {
	n := &testNode{tb: tb, view: &fakeView{}}
	n.clock.Store(uint64(time.Hour))
	pid, inode, _ := strings.Cut(os.Getenv(childEnv), " ")
	podInode, err := strconv.ParseUint(inode, 10, 32)
	require.NoError(tb, err)
	var st unix.Stat_t
	require.NoError(tb, unix.Stat("/proc/thread-self/ns/net", &st))
	n.view.namespaces = []nodeview.Namespace{
		{Inode: uint32(st.Ino), Own: true, Path: "/proc/self/ns/net"},
		{Inode: uint32(podInode), Path: "/proc/" + pid + "/ns/net", PodUID: podUID},
	}
	n.probe, err = New(Config{NodeView: n.view, Monotonic: n.clock.Load})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, n.probe.Close()) })
	return n
}

func TestWatchWakesOnChanges(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	woken, stop := n.watch()
	for _, change := range []string{
		"link set eth0 mtu 1400",
		"route add 10.1.0.0/24 dev eth0",
		"link set eth0 down",
		"rule add fwmark 1 table 7",
	} {
		before := woken.Load()
		n.ip(change)
		testutils.Eventually(t, settleMost+time.Second, "woken after "+change, func() bool { return woken.Load() > before })
	}
	stop()
}

// A device that flaps for as long as it likes wakes the agent a few times only.
func TestWatchIsNotSpunByAStorm(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	woken, stop := n.watch()
	start := time.Now()
	for i := 0; time.Since(start) < 2*time.Second; i++ {
		n.own.Run("ip", "link", "set", "eth0", "mtu", []string{"1400", "1500"}[i%2])
	}
	// At 0.2, 0.6 and 1.4 seconds, and not yet at 3.
	require.LessOrEqual(t, woken.Load(), int64(4))
	require.GreaterOrEqual(t, woken.Load(), int64(1))
	stop()
}

func (n *testNode) watch() (woken *atomic.Int64, stop func()) {
	woken = &atomic.Int64{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.probe.Watch(ctx, func() { woken.Add(1) }) }()
	stop = func() {
		cancel()
		require.NoError(n.tb, <-done)
	}
	// Watching has begun once a change wakes it.
	testutils.Eventually(n.tb, 5*time.Second, "the watcher runs", func() bool {
		n.ip("link set lo mtu 65000")
		n.ip("link set lo mtu 65536")
		return woken.Load() > 0
	})
	return woken, stop
}

func TestAChangeMakesTheFIBBeAskedAnew(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	n.ip("link add vx type vxlan id 7 dstport 4789 remote 192.0.2.2")
	n.sample().want("vx", wants{"expected_mtu_bytes": 1450})
	n.ip("route add 192.0.2.2 dev eth0 mtu 1300")
	n.sample().want("vx", wants{"expected_mtu_bytes": 1250})
}

func TestRemotesThatAreGoneAreForgotten(t *testing.T) {
	n := newTestNode(t)
	n.underlay()
	n.ip("link add vx type vxlan id 7 dstport 4789")
	n.own.Run("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "vx", "dst", "192.0.2.2")
	n.sample().want("vx", wants{"remotes": 1})
	require.Len(t, n.probe.fib.ways, 1)
	n.own.Run("bridge", "fdb", "del", "00:00:00:00:00:00", "dev", "vx", "dst", "192.0.2.2")
	n.clock.Add(uint64(fibAge))
	n.sample().want("vx", wants{"remotes": 0})
	require.Empty(t, n.probe.fib.ways)
}
