// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// listening is what the receiver in b has open.
func listening() ReceiverConfig {
	return ReceiverConfig{
		TCP:  one("10.0.0.2:9000", "[fd00::2]:9000"),
		HTTP: one("10.0.0.2:8080"),
		UDP:  one("10.0.0.2:9001"),
		QUIC: one("10.0.0.2:4433", "[fd00::2]:4433"),
		Hold: one("10.0.0.2:9002"),
	}
}

func fourFlows(dns *nameserver) []Flow {
	return []Flow{tcpFlow("tcp", "10.0.0.2:9000"), httpFlow("http", "10.0.0.2:8080"), udpFlowTo("udp", "10.0.0.2:9001"), dnsFlow("dns", dns.address)}
}

func TestHealthyTrafficHasNoTroubleBesideBusyLoops(t *testing.T) {
	a, b := pair(t)
	dns := serveNames(t, b, "10.0.0.2:53")
	inside(t, b, "receiver", listening())
	for range 4 { // twice as many as most machines that test have processors
		inside(t, a, "spin", nil)
	}
	flows := append(fourFlows(dns), tcpFlow("tcp6", "[fd00::2]:9000"))
	sender := inside(t, a, "sender", SenderConfig{Flows: flows})
	sender.completed(t, 1, flows...)
	<-time.After(3 * time.Second)
	for _, f := range flows {
		c := sender.observe(f).Counters(f.ID)
		t.Logf("%s: %+v", f.ID, c)
		require.GreaterOrEqual(t, c.OK, uint64(10), f.ID)
	}
	require.Empty(t, sender.troubles())
	_, _, affected := sender.observe(flows...).FirstAffected(time.Time{}, nil)
	require.False(t, affected)
}

// cut is one way to have nothing pass, and its end.
type cut struct{ begin, end func() }

func cuts(a, b *testutils.NetNS) map[string]cut {
	do := func(ns *testutils.NetNS, args ...string) func() { return func() { ns.Run("ip", args...) } }
	return map[string]cut{
		"the sender's link is taken down":         {do(a, "link", "set", "eth0", "down"), do(a, "link", "set", "eth0", "up")},
		"nothing comes back and nobody says so":   {do(b, "route", "add", "blackhole", "10.0.0.1/32"), do(b, "route", "del", "blackhole", "10.0.0.1/32")},
		"the other end of the wire is taken down": {do(b, "link", "set", "eth0", "down"), do(b, "link", "set", "eth0", "up")},
	}
}

func TestACutIsNoticedAsOfItsMomentAndItsEndAsRecovery(t *testing.T) {
	t.Parallel()
	for name := range cuts(nil, nil) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			dns := serveNames(t, b, "10.0.0.2:53")
			inside(t, b, "receiver", listening())
			flows := fourFlows(dns)
			// A transfer that is always under way: it must stall, not merely not begin.
			long := tcpFlow("long", "10.0.0.2:9000")
			long.Bytes = maxBytes
			flows = append(flows, long)
			sender := inside(t, a, "sender", SenderConfig{Flows: flows})
			sender.completed(t, 3, flows[:4]...)
			require.Empty(t, sender.troubles())
			c := cuts(a, b)[name]
			moment := time.Now()
			c.begin()
			cutEnd := time.Now()
			for _, f := range flows {
				var since time.Time
				var e Event
				testutils.Eventually(t, 20*time.Second, f.ID+" is affected within 300 ms of the cut", func() bool {
					var ok bool
					since, e, ok = sender.observe(flows...).FirstAffected(moment, func(o Flow) bool { return o.ID == f.ID })
					return ok && since.Sub(cutEnd) < 300*time.Millisecond // an error may be told before an earlier stall
				})
				require.False(t, since.Before(moment))
				t.Logf("%s: %s after the cut: %s", f.ID, since.Sub(moment).Round(time.Millisecond), e.Detail)
			}
			stall := sender.await(t, "the long transfer stalls", of(Stalled, "long"))
			require.InDelta(t, 0, stall.AffectedAt.Sub(moment).Seconds(), 0.3)
			require.InDelta(t, 1.05, stall.For.Seconds(), 0.5)
			require.Regexp(t, `^no byte acknowledged for 1\.\d s after \d+ of 1073741824 bytes`, stall.Detail)
			healed := time.Now()
			c.end()
			for _, f := range flows {
				e := sender.await(t, f.ID+" recovers", func(e Event) bool { return e.Type == Recovered && e.Flow == f.ID && e.At.After(healed) })
				require.Greater(t, e.For, 900*time.Millisecond)
				require.True(t, e.AffectedAt.After(healed), "%s: %s", f.ID, e.Detail)
			}
		})
	}
}

func TestAFrozenReceiverClosesItsWindow(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	receiver := inside(t, b, "receiver", listening())
	big, small := tcpFlow("big", "10.0.0.2:9000"), tcpFlow("small", "10.0.0.2:9000")
	small.Bytes = 1000
	sender := inside(t, a, "sender", SenderConfig{Flows: []Flow{big, small}})
	sender.completed(t, 3, big)
	sender.completed(t, 3, small)
	moment := time.Now()
	require.NoError(t, receiver.cmd.Process.Signal(unix.SIGSTOP))
	closed := sender.await(t, "a stall with a closed window", func(e Event) bool { return e.Type == Stalled && e.Flow == "big" })
	require.True(t, closed.ZeroWindow, closed.Detail)
	require.Contains(t, closed.Detail, "window is closed")
	require.InDelta(t, 0, closed.AffectedAt.Sub(moment).Seconds(), 0.4)
	unread := sender.await(t, "a stall without an answer", of(Stalled, "small"))
	require.False(t, unread.ZeroWindow)
	require.Contains(t, unread.Detail, "all bytes acknowledged, no answer from the receiver for 1.")
	require.NoError(t, receiver.cmd.Process.Signal(unix.SIGCONT))
	sender.await(t, "the stalled transfer goes on", func(e Event) bool {
		return e.Type == Recovered && e.Flow == "big" && e.Transfer == closed.Transfer && strings.HasPrefix(e.Detail, "goes on after ")
	})
	sender.completed(t, 3, big)
}

func TestASlowReceiverClosesItsWindowAndDropsNothing(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	receiver := inside(t, b, "receiver", listening())
	f := tcpFlow("tcp", "10.0.0.2:9000")
	// What an ordinary buffer takes whole.
	small := tcpFlow("small", "10.0.0.2:9000")
	small.Bytes = 48 << 10
	sender := inside(t, a, "sender", SenderConfig{Flows: []Flow{f, small}})
	sender.completed(t, 3, f)
	before := netstat(t, b, "TcpExt", "TCPRcvQDrop") + netstat(t, b, "TcpExt", "RcvPruned")
	zero := netstat(t, b, "TcpExt", "TCPToZeroWindowAdv")
	receiver.command(t, Command{Receiver: Slow})
	// The kernel opens a closed window only when half of the buffer is free, so the
	// trickle reaches the sender in lumps.
	stall := sender.await(t, "a stall with a closed window", func(e Event) bool { return e.Type == Stalled && e.ZeroWindow && e.Flow == "small" })
	sender.await(t, "which goes on", func(e Event) bool { return e.Type == Recovered && e.Flow == "small" && e.Transfer == stall.Transfer })
	sender.await(t, "a transfer is given up", func(e Event) bool {
		return e.Type == Failed && strings.HasPrefix(e.Detail, "given up after 15s")
	})
	require.Greater(t, netstat(t, b, "TcpExt", "TCPToZeroWindowAdv"), zero)
	require.Equal(t, before, netstat(t, b, "TcpExt", "TCPRcvQDrop")+netstat(t, b, "TcpExt", "RcvPruned"))
	receiver.command(t, Command{Receiver: Normal})
	sender.completed(t, 5, f)
}

// A sender that was not run saw nothing, so it must not speak of a stall.
func TestASenderThatWasStoppedHasSeenNoStall(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	dns := serveNames(t, b, "10.0.0.2:53")
	inside(t, b, "receiver", listening())
	flows := fourFlows(dns)
	sender := inside(t, a, "sender", SenderConfig{Flows: flows})
	for round := range 3 {
		sender.completed(t, 2, flows...)
		require.NoError(t, sender.cmd.Process.Signal(unix.SIGSTOP))
		<-time.After(1300 * time.Millisecond)
		require.NoError(t, sender.cmd.Process.Signal(unix.SIGCONT))
		sender.completed(t, 2, flows...)
		require.Empty(t, sender.troubles(), "round %d", round)
	}
}

func TestQUICProbesAreNotFragmentedAndGivenUp(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	inside(t, b, "receiver", listening())
	sender := inside(t, a, "sender", SenderConfig{})
	// 1500 passes; of 1501 the device says that it is too long.
	probes := &QUICProbes{Targets: listening().QUIC, Sizes: []int{1400, 1500, 1501}}
	sender.command(t, Command{QUICProbes: probes})
	for _, target := range probes.Targets {
		for _, words := range []string{"1400 bytes passes", "1500 bytes passes", "1501 bytes given up after 3 probes"} {
			sender.await(t, target.String()+": "+words, func(e Event) bool {
				return e.Type == Noise && e.Detail == fmt.Sprintf("quic-probes to %s: a packet of %s", target, words)
			})
		}
	}
	require.Zero(t, netstat(t, a, "Ip", "FragCreates"))
	require.Greater(t, netstat(t, b, "Udp", "InDatagrams"), int64(100))
	sender.command(t, Command{Stop: QUIC})
	sent := netstat(t, a, "Udp", "OutDatagrams")
	<-time.After(200 * time.Millisecond)
	require.Equal(t, sent, netstat(t, a, "Udp", "OutDatagrams"), "stopped is stopped")
	require.Empty(t, sender.troubles(), "a confounder is no trouble")
}

func TestATeardownStormResetsFullQueuesAtABoundedRate(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	inside(t, b, "receiver", listening())
	var queued int
	require.NoError(t, a.Do(func() error {
		conn, err := fill(t.Context(), at("10.0.0.2:9002"), make([]byte, blockSize))
		if err != nil {
			return err
		}
		defer conn.Close()
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(func(fd uintptr) { queued, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	}))
	require.Greater(t, queued, 64<<10, "the send queue is full of large packets")
	t.Log("queued", queued)

	sender := inside(t, a, "sender", SenderConfig{})
	begin, resets := time.Now(), netstat(t, a, "Tcp", "OutRsts")
	sender.command(t, Command{TeardownStorm: &TeardownStorm{Target: at("10.0.0.2:9002")}})
	sender.await(t, "the storm says what it did", func(e Event) bool { return e.Type == Noise && strings.Contains(e.Detail, " 0 could not be made") })
	torn := func() int64 { return netstat(t, a, "Tcp", "OutRsts") - resets }
	testutils.Eventually(t, 10*time.Second, "100 resets", func() bool { return torn() >= 100 })
	sender.command(t, Command{Stop: Teardown})
	require.LessOrEqual(t, float64(torn()), 1.5*defaultStorm*time.Since(begin).Seconds())
	require.Empty(t, sender.troubles(), "a confounder is no trouble")
}

func TestAPodsProcessesAreSmall(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	dns := serveNames(t, b, "10.0.0.2:53")
	receiver := inside(t, b, "receiver", listening())
	flows := fourFlows(dns)
	sender := inside(t, a, "sender", SenderConfig{Flows: flows})
	sender.completed(t, 10, flows...)
	for name, p := range map[string]*program{"sender": sender, "receiver": receiver} {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		require.NoError(t, err)
		for line := range strings.Lines(string(raw)) {
			if strings.HasPrefix(line, "VmHWM") || strings.HasPrefix(line, "RssAnon") {
				t.Log(name, strings.TrimSpace(line))
			}
		}
	}
}

func TestARoleJoinsItsCgroupFirst(t *testing.T) {
	procs, err := os.CreateTemp(t.TempDir(), "cgroup.procs")
	require.NoError(t, err)
	defer procs.Close()
	cmd := exec.Command("/proc/self/exe", "3")
	cmd.Env = append(os.Environ(), roleVariable+"=sender")
	cmd.ExtraFiles = []*os.File{procs}
	cmd.Stdin = strings.NewReader(`{"flows":[]}` + "\n")
	require.NoError(t, cmd.Run())
	raw, err := os.ReadFile(procs.Name())
	require.NoError(t, err)
	require.Equal(t, "0", string(raw))

	cmd = exec.Command("/proc/self/exe", "9")
	cmd.Env = append(os.Environ(), roleVariable+"=sender")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "join a cgroup by file descriptor 9")
	require.ErrorContains(t, JoinCgroup(1), "standard stream")
	require.ErrorContains(t, Sender([]string{"x"}), "no number")
}

// netstat reads one counter of a namespace from /proc/net/snmp or netstat.
func netstat(t *testing.T, ns *testutils.NetNS, group, name string) int64 {
	t.Helper()
	var text string
	require.NoError(t, ns.Do(func() error {
		for _, file := range []string{"snmp", "netstat"} {
			raw, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			text += string(raw)
		}
		return nil
	}))
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if fields[0] != group+":" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, n := range names {
			if n == name {
				value, err := strconv.ParseInt(fields[i], 10, 64)
				require.NoError(t, err)
				return value
			}
		}
	}
	t.Fatalf("no counter %s %s", group, name)
	return 0
}
