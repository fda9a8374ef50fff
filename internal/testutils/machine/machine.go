// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils"
)

const (
	roleVariable = "PLUMB_MACHINE_ROLE"
	initRole     = "machine-init"
	getRole      = "machine-get"
)

// A Role is a program that a machine runs; it is given the arguments that Role
// was called with.
type Role func(args []string) error

// Main runs the tests, or whatever a machine started this binary for. It does not
// return.
func Main(m *testing.M, roles map[string]Role) {
	name := os.Getenv(roleVariable)
	switch name {
	case "":
		os.Exit(m.Run())
	case initRole:
		exit(name, beInit())
	case getRole:
		exit(name, get(os.Args[1:]))
	}
	run, known := roles[name]
	if !known {
		exit(name, fmt.Errorf("start role: there is none of this name"))
	}
	exit(name, run(os.Args[1:]))
}

func exit(role string, err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A Machine is a node of its own.
type Machine struct {
	// Name is for messages.
	Name string

	tb   testing.TB
	init *exec.Cmd
	mu   sync.Mutex
	logs map[string]*bytes.Buffer
}

func beInit() error {
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"make mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"mount /proc", func() error { return unix.Mount("proc", "/proc", "proc", 0, "") }},
		{"mount /sys", func() error { return unix.Mount("sysfs", "/sys", "sysfs", 0, "") }},
		{"mount /run", func() error { return unix.Mount("run", "/run", "tmpfs", 0, "") }},
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

// New makes a machine with lo up and IPv6 off, so that nothing changes by itself
// afterwards. It skips the test for a user who is not root.
func New(tb testing.TB, name string) *Machine {
	tb.Helper()
	testutils.SkipUnlessRoot(tb)
	self, err := os.Executable()
	require.NoError(tb, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleVariable+"="+initRole)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	stdin, err := cmd.StdinPipe()
	require.NoError(tb, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(tb, err)
	require.NoError(tb, cmd.Start())
	m := &Machine{Name: name, tb: tb, init: cmd, logs: map[string]*bytes.Buffer{}}
	tb.Cleanup(func() {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if tb.Failed() {
			m.dump()
		}
	})
	ready := make([]byte, 6)
	_, err = stdout.Read(ready)
	require.NoError(tb, err)
	require.Equal(tb, "ready\n", string(ready), "machine %s did not start", name)
	m.Run("ip", "link", "set", "lo", "up")
	m.Sysctl("net.ipv6.conf.all.disable_ipv6", "1")
	m.Sysctl("net.ipv6.conf.default.disable_ipv6", "1")
	return m
}

// PID is the machine's init as the test sees it. /proc/PID/ns and /proc/PID/net
// are the machine's.
func (m *Machine) PID() int { return m.init.Process.Pid }

// Command makes a command that will run inside.
func (m *Machine) Command(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(m.PID()), "-n", "-m", "-p", "-u", "--"}, args...)...)
}

// Run runs a command inside, returns its output, and fails the test if it fails.
func (m *Machine) Run(args ...string) string {
	m.tb.Helper()
	out, err := m.Command(args...).CombinedOutput()
	require.NoError(m.tb, err, "%s: %s: %s", m.Name, strings.Join(args, " "), out)
	return string(out)
}

// Feed runs a command inside with that standard input, as ip -batch - needs it.
func (m *Machine) Feed(input string, args ...string) {
	m.tb.Helper()
	cmd := m.Command(args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	require.NoError(m.tb, err, "%s: %s: %s", m.Name, strings.Join(args, " "), out)
}

// IP runs ip(8) command lines.
func (m *Machine) IP(lines ...string) {
	m.tb.Helper()
	m.Feed(strings.Join(lines, "\n")+"\n", "ip", "-batch", "-")
}

// Veth makes a pair of which one end is in each machine. It runs outside of both
// PID namespaces, for inside of one the process that stands for the other has no
// number.
func Veth(a *Machine, aName string, b *Machine, bName string) {
	a.tb.Helper()
	out, err := exec.Command("nsenter", "-t", strconv.Itoa(a.PID()), "-n", "--",
		"ip", "link", "add", aName, "type", "veth", "peer", "name", bName, "netns", strconv.Itoa(b.PID())).CombinedOutput()
	require.NoError(a.tb, err, "join %s and %s: %s", a.Name, b.Name, out)
	a.IP("link set " + aName + " up")
	b.IP("link set " + bName + " up")
}

// Sysctl sets one of the machine's own kernel parameters.
func (m *Machine) Sysctl(key, value string) {
	m.tb.Helper()
	m.Feed(value, "tee", "/proc/sys/"+strings.ReplaceAll(key, ".", "/"))
}

// Get says whether a URL answers with status 200 inside.
func (m *Machine) Get(url string) (body string, ok bool) {
	m.tb.Helper()
	cmd := m.roleCommand(getRole, url)
	var out bytes.Buffer
	cmd.Stdout = &out
	err := cmd.Run()
	return out.String(), err == nil
}

// get URL: prints the body; succeeds on status 200.
func get(args []string) error {
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Get(args[0])
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(response.Body); err != nil {
		return err
	}
	fmt.Print(body.String())
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: status %s", args[0], response.Status)
	}
	return nil
}

func (m *Machine) dump() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, b := range m.logs {
		text := b.String()
		if len(text) > 6000 {
			text = "…" + text[len(text)-6000:]
		}
		m.tb.Logf("── %s on %s ──\n%s", name, m.Name, text)
	}
}
