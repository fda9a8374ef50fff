// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils/sntptest"
)

// cgroupFD is the file that podsRole gets: the directory of the pods' cgroups,
// whose mount the machine does not see.
const cgroupFD = 3

// podsRole COUNT PROCESSES MTU: makes the pods of a node as a container runtime
// and a CNI plugin do, each with a network namespace, a name in /run/netns, a
// veth to the bridge cni0, and processes in a cgroup of its own.
func podsRole(args []string) error {
	var n [3]int
	for i := range n {
		var err error
		if n[i], err = strconv.Atoi(args[i]); err != nil {
			return err
		}
	}
	count, processes, mtu := n[0], n[1], n[2]
	var batch strings.Builder
	for i := range count {
		pids, err := startPod(processes)
		if err != nil {
			return fmt.Errorf("start pod %d: %w", i, err)
		}
		if err := joinCgroup(i, pids); err != nil {
			return err
		}
		fmt.Fprintf(&batch, "netns attach pod%d %d\n", i, pids[0])
		fmt.Fprintf(&batch, "link add veth%d mtu %d type veth peer name eth0 mtu %d netns %d\n", i, mtu, mtu, pids[0])
		fmt.Fprintf(&batch, "link set veth%d master cni0 up\n", i)
	}
	if err := feed(batch.String(), "ip", "-batch", "-"); err != nil {
		return err
	}
	for i := range count {
		inside := fmt.Sprintf("link set lo up\naddr add %s/24 dev eth0\nlink set eth0 up\nroute add default via 10.244.0.1\n", podAddress(i))
		if err := feed(inside, "ip", "-n", fmt.Sprintf("pod%d", i), "-batch", "-"); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	select {} // the pods' processes are children of this one
}

func podAddress(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, 0, byte(2 + i)}) }

// startPod starts idle processes in a new network namespace. The thread that
// entered it is thrown away.
func startPod(processes int) ([]int, error) {
	type result struct {
		pids []int
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		var r result
		if r.err = unix.Unshare(unix.CLONE_NEWNET); r.err == nil {
			// 110 pods that solicit routers flood each other, and more than the
			// backlog takes at once is dropped: no idle node.
			r.err = errors.Join(
				os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0),
				os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0))
			for range processes {
				cmd := exec.Command("sleep", "infinity")
				if r.err = cmd.Start(); r.err != nil {
					break
				}
				r.pids = append(r.pids, cmd.Process.Pid)
			}
		}
		done <- r
	}()
	r := <-done
	return r.pids, r.err
}

func joinCgroup(pod int, pids []int) error {
	fd, err := unix.Openat(cgroupFD, podCgroup(pod)+"/cgroup.procs", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the cgroup of pod %d: %w", pod, err)
	}
	defer unix.Close(fd)
	for _, pid := range pids {
		if _, err := unix.Write(fd, []byte(strconv.Itoa(pid))); err != nil {
			return fmt.Errorf("put process %d into the cgroup of pod %d: %w", pid, pod, err)
		}
	}
	return nil
}

func feed(input string, args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// A stormReport is what the generator says of itself.
type stormReport struct {
	Sent    uint64  `json:"sent"`
	Seconds float64 `json:"seconds"`
	// Processor is the time that the generator took, the drops in its own
	// interrupts included.
	Processor float64 `json:"processor"`
}

// stormRole ADDRESS PAYLOAD RATE FLOWS SECONDS: sends UDP datagrams to that many
// ports from ADDRESS's on, RATE in a second or, with 0, as fast as it can.
func stormRole(args []string) error {
	to, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	var n [4]int
	for i := range n {
		if n[i], err = strconv.Atoi(args[i+1]); err != nil {
			return err
		}
	}
	size, rate, flows, seconds := n[0], n[1], n[2], n[3]
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	runtime.LockOSThread()
	payload := make([]byte, size)
	addresses := make([]unix.SockaddrInet4, flows)
	for i := range addresses {
		addresses[i] = unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port()) + i}
	}
	fmt.Println("storming")
	var r stormReport
	begin, before := time.Now(), processor()
	for r.Seconds = 0; r.Seconds < float64(seconds); r.Seconds = time.Since(begin).Seconds() {
		burst := uint64(256)
		if rate > 0 {
			due := uint64(r.Seconds * float64(rate))
			if due <= r.Sent {
				time.Sleep(time.Millisecond)
				continue
			}
			burst = due - r.Sent
		}
		for range burst {
			// ENOBUFS and EMSGSIZE tell of a drop, which is what is wanted.
			err := unix.Sendto(fd, payload, 0, &addresses[r.Sent%uint64(flows)])
			if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EMSGSIZE) {
				return fmt.Errorf("send: %w", err)
			}
			r.Sent++
		}
	}
	r.Processor = processor() - before
	return json.NewEncoder(os.Stdout).Encode(r)
}

func processor() float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// sntpRole ADDRESS: an honest time server.
func sntpRole(args []string) error {
	conn, err := net.ListenPacket("udp4", args[0])
	if err != nil {
		return err
	}
	fmt.Println("listening")
	return sntptest.Serve(context.Background(), conn, sntptest.Config{})
}
