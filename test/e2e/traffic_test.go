// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils/sntptest"
)

// traffic is what the pods of the tests run. Each role says what the
// application saw on standard output.
func traffic(role string, args []string) int {
	if fd := os.Getenv("PLUMB_E2E_CGROUP"); fd != "" {
		n, err := strconv.Atoi(fd)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		file := os.NewFile(uintptr(n), "cgroup.procs")
		if _, err := file.WriteString("0"); err != nil {
			fmt.Println("join the pod's cgroup:", err)
			return 1
		}
		file.Close()
	}
	roles := map[string]func([]string) error{
		"http-get":   httpGet,
		"tcp-sink":   tcpSink,
		"tcp-source": tcpSource,
		"udp-sink":   udpSink,
		"quic-like":  quicLike,
		"teardown":   teardown,
		"sntp":       sntp,
	}
	run, known := roles[role]
	if !known {
		fmt.Println("no such role:", role)
		return 2
	}
	if err := run(args); err != nil {
		fmt.Println(role+":", err)
		return 1
	}
	return 0
}

// httpGet URL: prints the body and succeeds on status 200.
func httpGet(args []string) error {
	client := http.Client{Timeout: 2 * time.Second}
	response, err := client.Get(args[0])
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", response.Status)
	}
	_, err = io.Copy(os.Stdout, response.Body)
	return err
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
