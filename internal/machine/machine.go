// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startLimit is how long a machine's first process may take to make its mounts;
// it takes milliseconds on an idle machine.
const startLimit = 30 * time.Second

// Config says what machine to make.
type Config struct {
	// Name is for messages.
	Name string
	// IPv6 leaves IPv6 on for new devices. Otherwise it is off, so that no neighbour
	// discovery changes counters by itself.
	IPv6 bool
}

// A Machine is a node of its own. Its methods are safe for concurrent use.
type Machine struct {
	name  string
	init  *exec.Cmd
	stdin io.Closer
	netns *os.File
	spawn *spawner

	mu        sync.Mutex
	processes []*Process
	closed    bool
}

// New makes a machine with lo up. It needs root.
func New(ctx context.Context, cfg Config) (*Machine, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("make machine %s: namespaces need root; run it with sudo", cfg.Name)
	}
	cmd, err := roleCommand(initRole)
	if err != nil {
		return nil, fmt.Errorf("make machine %s: %w", cfg.Name, err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
		// Ctrl-C at a terminal is for the caller, which takes things down in order.
		Setpgid: true,
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("make machine %s: %w", cfg.Name, err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("make machine %s: %w", cfg.Name, err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	m := &Machine{name: cfg.Name, init: cmd, stdin: stdin, spawn: newSpawner()}
	if err := m.spawn.start(cmd); err != nil {
		m.spawn.close()
		return nil, fmt.Errorf("make machine %s: start its first process: %w (network, mount, PID and UTS namespaces are needed)", cfg.Name, err)
	}
	if err := m.setUp(ctx, cfg, stdout); err != nil {
		closeErr := m.Close()
		return nil, fmt.Errorf("make machine %s: %w", cfg.Name, errors.Join(err, closeErr, said(&stderr)))
	}
	return m, nil
}

func said(stderr *bytes.Buffer) error {
	if text := strings.TrimSpace(stderr.String()); text != "" {
		return errors.New(text)
	}
	return nil
}

func (m *Machine) setUp(ctx context.Context, cfg Config, stdout io.Reader) error {
	ready := make(chan error, 1)
	go func() {
		line := make([]byte, len("ready\n"))
		_, err := io.ReadFull(stdout, line)
		ready <- err
	}()
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	select {
	case err := <-ready:
		if err != nil {
			return fmt.Errorf("its first process ended: %w", err)
		}
	case <-limit.C:
		return fmt.Errorf("its first process was not ready within %s", startLimit)
	case <-ctx.Done():
		return ctx.Err()
	}
	netns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.PID()))
	if err != nil {
		return fmt.Errorf("open its network namespace: %w", err)
	}
	m.netns = netns
	if err := m.IP(ctx, "link set lo up"); err != nil {
		return err
	}
	if cfg.IPv6 {
		return nil
	}
	for _, key := range []string{"net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.default.disable_ipv6"} {
		// A kernel without IPv6 has nothing to switch off.
		if err := m.Sysctl("", key, "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Name is what the machine was called.
func (m *Machine) Name() string { return m.name }

// PID is the machine's first process as the caller sees it. /proc/PID/ns,
// /proc/PID/net and /proc/PID/root are the machine's.
func (m *Machine) PID() int { return m.init.Process.Pid }

// Path is where a file of the machine's own mount namespace is for the caller.
func (m *Machine) Path(inside string) string {
	return filepath.Join("/proc", strconv.Itoa(m.PID()), "root", inside)
}

// Close ends every process in the machine and with them its namespaces. It may be
// called more than once.
func (m *Machine) Close() error {
	m.mu.Lock()
	done := m.closed
	m.closed = true
	processes := m.processes
	m.mu.Unlock()
	if done {
		return nil
	}
	err := m.stdin.Close()
	// The kernel kills whatever is left in the PID namespace with its first process.
	if killErr := m.init.Process.Kill(); killErr != nil && !errors.Is(killErr, os.ErrProcessDone) {
		err = errors.Join(err, killErr)
	}
	// It ends when everything in there was waited for, by nsenter too.
	for _, p := range processes {
		p.Kill()
	}
	_ = m.init.Wait() // killed: its status says nothing
	m.spawn.close()
	if m.netns != nil {
		err = errors.Join(err, m.netns.Close())
	}
	if err != nil {
		return fmt.Errorf("end machine %s: %w", m.name, err)
	}
	return nil
}

// Command makes a command that will run inside the machine, as the caller's user.
func (m *Machine) Command(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(m.PID()), "-n", "-m", "-p", "-u", "--"}, args...)...)
}

// Run runs a command inside and returns what it wrote, also when it fails.
func (m *Machine) Run(ctx context.Context, args ...string) (string, error) {
	return m.Feed(ctx, "", args...)
}

// IP runs ip(8) command lines, without the word ip, up to the first that fails. A
// line may begin with "-n NAME" for a network namespace that /run/netns names.
func (m *Machine) IP(ctx context.Context, lines ...string) error {
	for len(lines) > 0 {
		netns, _ := inNetns(lines[0])
		var batch []string
		for len(lines) > 0 {
			name, rest := inNetns(lines[0])
			if name != netns {
				break
			}
			batch, lines = append(batch, rest), lines[1:]
		}
		args := []string{"ip", "-batch", "-"}
		if netns != "" {
			args = []string{"ip", "-n", netns, "-batch", "-"}
		}
		if _, err := m.Feed(ctx, strings.Join(batch, "\n")+"\n", args...); err != nil {
			return err
		}
	}
	return nil
}

// inNetns splits "-n NAME rest".
func inNetns(line string) (netns, rest string) {
	after, found := strings.CutPrefix(line, "-n ")
	if !found {
		return "", line
	}
	netns, rest, _ = strings.Cut(after, " ")
	return netns, rest
}

// Feed runs a command inside with that standard input and returns what it wrote,
// also when it fails.
func (m *Machine) Feed(ctx context.Context, input string, args ...string) (string, error) {
	inside := m.Command(args...)
	cmd := exec.CommandContext(ctx, inside.Path, inside.Args[1:]...)
	// nsenter forks for the PID namespace, so its end is not the command's; and a
	// Ctrl-C at a terminal is for the caller.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %s: %w: %s", m.name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Bridge runs bridge(8) command lines, without the word bridge.
func (m *Machine) Bridge(ctx context.Context, lines ...string) error {
	if len(lines) == 0 {
		return nil
	}
	_, err := m.Feed(ctx, strings.Join(lines, "\n")+"\n", "bridge", "-batch", "-")
	return err
}
