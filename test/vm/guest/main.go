// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Command guest is the init of a test machine: it mounts what a node has, loads
// modules, answers SNTP on loopback, runs /program and powers off.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils/sntptest"
)

func main() {
	status := 125
	if err := prepare(); err != nil {
		fmt.Println("guest:", err)
	} else {
		status = run()
	}
	fmt.Printf("\nPLUMB-VM-END %d\n", status)
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Println("guest: power off:", err)
	}
}

func prepare() error {
	for _, m := range []struct{ source, target, kind string }{
		{"proc", "/proc", "proc"}, {"sys", "/sys", "sysfs"}, {"dev", "/dev", "devtmpfs"},
		{"tmp", "/tmp", "tmpfs"}, {"run", "/run", "tmpfs"},
		{"tracefs", "/sys/kernel/tracing", "tracefs"}, {"bpf", "/sys/fs/bpf", "bpf"}, {"cgroup2", "/sys/fs/cgroup", "cgroup2"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", m.target, err)
		}
		if err := unix.Mount(m.source, m.target, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

type job struct {
	Args    []string
	Modules []string
}

func run() int {
	raw, err := os.ReadFile("/job.json")
	if err != nil {
		fmt.Println("guest:", err)
		return 125
	}
	var j job
	if err := json.Unmarshal(raw, &j); err != nil {
		fmt.Println("guest: job.json:", err)
		return 125
	}
	for _, path := range j.Modules {
		if err := load(path); err != nil {
			fmt.Println("guest:", err)
			return 125
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, port := range []int{11123, 11124} {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			fmt.Println("guest:", err)
			return 125
		}
		go sntptest.Serve(ctx, conn, sntptest.Config{})
	}
	fmt.Println("PLUMB-VM-BEGIN")
	cmd := exec.Command("/program", j.Args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/tmp", "CI=true"}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		fmt.Println("guest: run:", err)
		return 126
	}
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", path, err)
	}
	return nil
}
