// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"context"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/agent/probe/link"
	"github.com/plumb-dev/plumb/agent/probe/oversize"
	"github.com/plumb-dev/plumb/evidence"
	"github.com/plumb-dev/plumb/internal/testutils"
)

type everything struct{}

func (everything) Contains(uint32) bool             { return true }
func (everything) Filtered() bool                   { return false }
func (everything) Refresh(context.Context) error    { return nil }
func (everything) PodByNetns(uint32) (string, bool) { return "", false }
func (everything) Inventory() *link.Inventory       { return nil }

// statistics turns on the kernel's own accounting of programs and restores it.
func statistics(b *testing.B) {
	b.Helper()
	const path = "/proc/sys/kernel/bpf_stats_enabled"
	before, err := os.ReadFile(path)
	require.NoError(b, err)
	require.NoError(b, os.WriteFile(path, []byte("1"), 0o644))
	b.Cleanup(func() { require.NoError(b, os.WriteFile(path, []byte(strings.TrimSpace(string(before))), 0o644)) })
}

// program finds the kernel's program by name; its statistics are the kernel's.
func program(b *testing.B, prefix string) *ebpf.Program {
	b.Helper()
	var newest *ebpf.Program
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if err != nil {
			break
		}
		id = next
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue
		}
		if info, err := p.Info(); err == nil && strings.HasPrefix(info.Name, prefix) {
			newest = p
		}
	}
	require.NotNil(b, newest)
	return newest
}

func startProbe(b *testing.B) *oversize.Probe {
	b.Helper()
	p, err := oversize.New(oversize.Config{
		NodeView: everything{}, Inventory: everything{}, Clock: hostclock.New(), Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	wakes := make(chan struct{}, 1)
	watched, sampled := make(chan error, 1), make(chan struct{})
	go func() {
		watched <- p.Watch(ctx, func() {
			select {
			case wakes <- struct{}{}:
			default:
			}
		})
	}()
	// As the agent does: a sample with each wake and each tick.
	go func() {
		defer close(sampled)
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-wakes:
			case <-tick.C:
			}
			var s evidence.Sample
			_ = p.Sample(ctx, &s)
		}
	}()
	b.Cleanup(func() {
		cancel()
		<-sampled
		require.NoError(b, <-watched)
		require.NoError(b, p.Close())
	})
	return p
}

// storm makes two namespaces of which the far one's veth is too small, and sends
// packets that are dropped there, over so many flows.
type storm struct {
	// Bare sockets: Go's would wake its poller with each packet, in our own process.
	sockets []int
	sent    atomic.Int64
}

func newStorm(b *testing.B, flows int) *storm {
	b.Helper()
	node, far := testutils.NewNetNS(b), testutils.NewNetNS(b)
	testutils.Veth(node, "eth0", far, "eth0")
	far.Run("ip", "link", "set", "eth0", "mtu", "1400")
	node.Run("ip", "addr", "add", "10.8.0.1/24", "dev", "eth0")
	node.Run("ip", "neigh", "add", "10.8.0.2", "lladdr", "0a:00:00:00:08:02", "dev", "eth0")
	s := &storm{}
	require.NoError(b, node.Do(func() error {
		for range flows {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			s.sockets = append(s.sockets, fd)
			if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9000, Addr: [4]byte{10, 8, 0, 2}}); err != nil {
				return err
			}
		}
		return nil
	}))
	b.Cleanup(func() {
		for _, fd := range s.sockets {
			require.NoError(b, unix.Close(fd))
		}
	})
	return s
}

func (s *storm) send(n int, payload []byte) {
	for i := range n {
		// ENOBUFS is how a veth tells the sender of the drop.
		_, _ = unix.Write(s.sockets[i%len(s.sockets)], payload)
		s.sent.Add(1)
	}
}

// BenchmarkDropInTheKernel measures the program's own time for an oversize drop
// (the whole way: length, limit, flow, aggregate) of few and of many flows.
func BenchmarkDropInTheKernel(b *testing.B) {
	testutils.SkipUnlessRoot(b)
	for name, flows := range map[string]int{"one flow": 1, "500 flows": 500} {
		b.Run(name, func(b *testing.B) {
			statistics(b)
			startProbe(b)
			s := newStorm(b, flows)
			measure(b, "kfree_skb", func() { s.send(b.N, make([]byte, 1450)) })
		})
	}
}

// BenchmarkOtherDropInTheKernel measures the program's time for a drop that has
// nothing to do with sizes: what it costs every machine.
func BenchmarkOtherDropInTheKernel(b *testing.B) {
	testutils.SkipUnlessRoot(b)
	statistics(b)
	startProbe(b)
	ns := testutils.NewNetNS(b)
	var c net.Conn
	require.NoError(b, ns.Do(func() (err error) {
		c, err = net.Dial("udp", "127.0.0.1:9")
		return err
	}))
	defer c.Close()
	payload := make([]byte, 100)
	measure(b, "kfree_skb", func() {
		for range b.N {
			_, _ = c.Write(payload)
		}
	})
}

func measure(b *testing.B, prefix string, run func()) {
	b.Helper()
	p := program(b, prefix)
	defer p.Close()
	before, err := p.Stats()
	require.NoError(b, err)
	b.ResetTimer()
	run()
	b.StopTimer()
	after, err := p.Stats()
	require.NoError(b, err)
	if runs := after.RunCount - before.RunCount; runs > 0 {
		b.ReportMetric(float64(after.Runtime-before.Runtime)/float64(runs), "ns/drop")
		b.ReportMetric(float64(runs)/b.Elapsed().Seconds(), "drops/s")
	}
}

// BenchmarkUserSpaceUnderAStorm drops at 100,000 packets/s (or as many as the
// machine makes) for b.N × 1 s, and reports the share of a core that the probe's
// goroutines took. The sender has a thread of its own, whose time does not
// count.
func BenchmarkUserSpaceUnderAStorm(b *testing.B) {
	testutils.SkipUnlessRoot(b)
	startProbe(b)
	s := newStorm(b, 500)
	stop, done := make(chan struct{}), make(chan float64)
	go func() {
		// The sender's own thread, whose time is taken off the process's.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		begin := cpu(unix.RUSAGE_THREAD)
		payload := make([]byte, 1450)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				done <- cpu(unix.RUSAGE_THREAD) - begin
				return
			case <-tick.C:
				s.send(1000, payload)
			}
		}
	}()
	before := cpu(unix.RUSAGE_SELF)
	b.ResetTimer()
	for range b.N {
		<-time.After(time.Second)
	}
	b.StopTimer()
	close(stop)
	own := cpu(unix.RUSAGE_SELF) - before - <-done
	b.ReportMetric(100*own/b.Elapsed().Seconds(), "%core")
	b.ReportMetric(float64(s.sent.Load())/b.Elapsed().Seconds(), "drops/s")
}

func cpu(who int) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
