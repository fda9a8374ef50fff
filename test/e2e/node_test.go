// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// A machine is a node of its own as far as Plumb can tell: network, mount and
// PID namespace, its own /proc, /sys and /run. It ends with the test, and so
// does everything that was started inside, because its init does.
type machine struct {
	t    testing.TB
	name string
	init *exec.Cmd

	mu   sync.Mutex
	logs map[string]*bytes.Buffer
}

// TestMain is also the init of a machine and the traffic programs, so that the
// tests need nothing but themselves and iproute2.
func TestMain(m *testing.M) {
	switch role := os.Getenv("PLUMB_E2E_ROLE"); role {
	case "":
		os.Exit(m.Run())
	case "init":
		os.Exit(machineInit())
	default:
		os.Exit(traffic(role, os.Args[1:]))
	}
}

func machineInit() int {
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
			fmt.Println("machine:", step.what+":", err)
			return 1
		}
	}
	fmt.Println("ready")
	// The parent holds the other end of stdin; when it is gone, so is the machine.
	buffer := make([]byte, 1)
	for {
		if _, err := os.Stdin.Read(buffer); err != nil {
			return 0
		}
	}
}

func newMachine(t testing.TB, name string) *machine {
	t.Helper()
	testutils.SkipUnlessRoot(t)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "PLUMB_E2E_ROLE=init")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	m := &machine{t: t, name: name, init: cmd, logs: map[string]*bytes.Buffer{}}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			m.dump()
		}
	})
	ready := make([]byte, 6)
	_, err = stdout.Read(ready)
	require.NoError(t, err)
	require.Equal(t, "ready\n", string(ready), "machine %s did not start", name)
	m.run("ip", "link", "set", "lo", "up")
	m.sysctl("net.ipv6.conf.all.disable_ipv6", "1")
	m.sysctl("net.ipv6.conf.default.disable_ipv6", "1")
	return m
}

func (m *machine) pid() int { return m.init.Process.Pid }

// command makes a command that will run inside the machine.
func (m *machine) command(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(m.pid()), "-n", "-m", "-p", "-u", "--"}, args...)...)
}

// run runs a command inside and fails the test if it fails.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	out, err := m.command(args...).CombinedOutput()
	require.NoError(m.t, err, "%s: %s: %s", m.name, strings.Join(args, " "), out)
	return string(out)
}

// ip runs several ip(8) command lines.
func (m *machine) ip(lines ...string) {
	m.t.Helper()
	for _, l := range lines {
		m.run(append([]string{"ip"}, strings.Fields(l)...)...)
	}
}

func (m *machine) sysctl(key, value string) {
	m.t.Helper()
	m.run("sh", "-c", fmt.Sprintf("echo %s > /proc/sys/%s", value, strings.ReplaceAll(key, ".", "/")))
}

// A process runs inside a machine.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// start starts a program inside; its output is shown when the test fails. It is
// killed with the test at the latest.
func (m *machine) start(name string, env []string, args ...string) *process {
	m.t.Helper()
	return m.launch(name, m.command(args...), env)
}

func (m *machine) launch(name string, cmd *exec.Cmd, env []string) *process {
	m.t.Helper()
	log := &bytes.Buffer{}
	m.mu.Lock()
	key := name
	for i := 2; m.logs[key] != nil; i++ {
		key = fmt.Sprintf("%s#%d", name, i)
	}
	m.logs[key] = log
	m.mu.Unlock()
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &locked{m, log}, &locked{m, log}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = time.Second
	require.NoError(m.t, cmd.Start())
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	m.t.Cleanup(p.kill)
	return p
}

// kill is kill -9 of the process and what it started. nsenter forks for the PID
// namespace, so the program is a child in the same group.
func (p *process) kill() {
	_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
	<-p.done
}

// term is SIGTERM to the program itself; nsenter only waits for it.
func (p *process) term() {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.cmd.Process.Pid, p.cmd.Process.Pid))
	if err != nil {
		return // it has ended
	}
	for _, child := range strings.Fields(string(children)) {
		if pid, err := strconv.Atoi(child); err == nil {
			_ = unix.Kill(pid, unix.SIGTERM)
		}
	}
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// locked lets several processes of a machine write while the test reads.
type locked struct {
	m *machine
	b *bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return l.b.Write(p)
}

func (m *machine) log(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b := m.logs[name]; b != nil {
		return b.String()
	}
	return ""
}

func (m *machine) dump() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, b := range m.logs {
		text := b.String()
		if len(text) > 6000 {
			text = "…" + text[len(text)-6000:]
		}
		m.t.Logf("── %s on %s ──\n%s", name, m.name, text)
	}
}

// bin is the path of a binary under test.
func bin(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("PLUMB_BIN")
	if dir == "" {
		dir = filepath.Join("..", "..", "bin")
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	require.NoError(t, err)
	_, err = os.Stat(path)
	require.NoError(t, err, "build the binaries first: make build")
	return path
}

// exitCode runs a command and returns its output and exit status.
func exitCode(cmd *exec.Cmd) (stdout, stderr string, status int, err error) {
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out.String(), errOut.String(), exit.ExitCode(), nil
	}
	return out.String(), errOut.String(), 0, err
}
