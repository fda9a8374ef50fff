// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils/machine"
	"github.com/plumb-dev/plumb/internal/testutils/sntptest"
	"github.com/plumb-dev/plumb/test/lab/traffic"
)

// inPodRole is a role that another role runs in, in a pod's cgroup.
const inPodRole = "in-pod"

// roles are what the machines of the tests run. Each says what the application
// saw on standard output.
func roles() map[string]machine.Role {
	all := map[string]machine.Role{
		"tcp-sink":   tcpSink,
		"tcp-source": tcpSource,
		"udp-sink":   udpSink,
		"quic-like":  quicLike,
		"teardown":   teardown,
		"sntp":       sntp,
	}
	// FILES ROLE ARGUMENTS: joins the cgroups whose cgroup.procs are inherited, so
	// many, and becomes the role.
	all[inPodRole] = func(args []string) error {
		files, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		for i := range files {
			if err := traffic.JoinCgroup(3 + i); err != nil {
				return err
			}
		}
		run, known := all[args[1]]
		if !known {
			return fmt.Errorf("run %s: there is no role of this name", args[1])
		}
		return run(args[2:])
	}
	return all
}

// tcpSink ADDRESS: takes what comes and counts it.
func tcpSink(args []string) error {
	listener, err := net.Listen("tcp4", args[0])
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			n, _ := io.Copy(io.Discard, conn)
			fmt.Println("received", n)
			conn.Close()
		}()
	}
}

// tcpSource ADDRESS: opens a connection after the other and writes 256 KiB to
// each, waiting at most 20 s for one; it never gives up.
func tcpSource(args []string) error {
	block := make([]byte, 64<<10)
	for {
		conn, err := net.DialTimeout("tcp4", args[0], 5*time.Second)
		if err != nil {
			fmt.Println("connect:", err)
			<-time.After(200 * time.Millisecond)
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		written := 0
		for range 4 {
			n, err := conn.Write(block)
			written += n
			if err != nil {
				fmt.Println("stalled after", written, err)
				break
			}
		}
		if half, ok := conn.(*net.TCPConn); ok {
			_ = half.CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
		}
		fmt.Println("wrote", written)
		conn.Close()
		<-time.After(300 * time.Millisecond)
	}
}

// udpSink ADDRESS: takes what comes.
func udpSink(args []string) error {
	conn, err := net.ListenPacket("udp4", args[0])
	if err != nil {
		return err
	}
	fmt.Println("listening")
	buffer := make([]byte, 65536)
	for {
		if _, _, err := conn.ReadFrom(buffer); err != nil {
			return err
		}
	}
}

// quicLike ADDRESS SIZE: what a QUIC sender with DPLPMTUD does (RFC 8899): data
// of 1200 bytes all the time, and a probe of SIZE bytes with DF that is repeated
// three times, a second apart, and given up.
func quicLike(args []string) error {
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
		})
		if err != nil {
			return err
		}
		return failed
	}}
	conn, err := dialer.Dial("udp4", args[0])
	if err != nil {
		return err
	}
	data, probe := make([]byte, 1172), make([]byte, size-28)
	probes := 0
	for tick := 0; ; tick++ {
		_, _ = conn.Write(data)
		if tick%20 == 10 && probes < 3 {
			_, err := conn.Write(probe)
			probes++
			fmt.Println("probe", probes, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// teardown ADDRESS: opens connections, fills their send queues and resets them,
// so that the kernel frees large packets by the thousand.
func teardown(args []string) error {
	block := make([]byte, 256<<10)
	for i := 0; ; i++ {
		conn, err := net.DialTimeout("tcp4", args[0], 5*time.Second)
		if err != nil {
			return err
		}
		_ = conn.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
		_, _ = conn.Write(block)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		conn.Close()
		if i%100 == 99 {
			fmt.Println("torn down", i+1)
		}
	}
}

// sntp ADDRESS OFFSET_SECONDS: a time server that is off.
func sntp(args []string) error {
	offset, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp4", args[0])
	if err != nil {
		return err
	}
	fmt.Println("listening")
	return sntptest.Serve(context.Background(), conn, sntptest.Config{Offset: offset})
}
