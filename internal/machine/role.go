// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	roleVariable = "PLUMB_MACHINE_ROLE"
	initRole     = "machine-init"
)

// A Role is a hidden program of this binary, for what runs inside a machine. It is
// given the arguments that it was started with; its error goes to standard error
// and makes the exit status 1.
type Role func(args []string) error

// Main runs the role that a machine started this binary for, and then does not
// return. In every other process it does nothing.
func Main(roles map[string]Role) {
	name := os.Getenv(roleVariable)
	if name == "" {
		return
	}
	run, known := roles[name]
	switch {
	case name == initRole:
		run = func([]string) error { return beInit() }
	case !known:
		run = func([]string) error { return fmt.Errorf("start role: there is none of this name") }
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// beInit is the first process of a machine: it makes the mounts, says "ready" and
// waits for orphans until its standard input ends.
func beInit() error {
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"make mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"mount /proc", func() error { return unix.Mount("proc", "/proc", "proc", 0, "") }},
		{"mount /sys", func() error { return unix.Mount("sysfs", "/sys", "sysfs", 0, "") }},
		{"mount /run", func() error { return unix.Mount("run", "/run", "tmpfs", 0, "mode=0755") }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	// What is orphaned in a PID namespace becomes a child of its init, and a zombie
	// unless that waits.
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, syscall.SIGCHLD)
	go func() {
		for range orphans {
			for pid := 1; pid > 0; {
				pid, _ = unix.Wait4(-1, nil, unix.WNOHANG, nil)
			}
		}
	}()
	fmt.Println("ready")
	// The parent holds the other end of stdin; when it is gone, so is the machine.
	buffer := make([]byte, 1)
	for {
		if _, err := os.Stdin.Read(buffer); err != nil {
			return nil
		}
	}
}

// roleCommand makes a command that runs this binary in a role.
func roleCommand(role string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	return cmd, nil
}
