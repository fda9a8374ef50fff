// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keepOutput is how much of the end of a process's output is kept for messages.
const keepOutput = 64 << 10

// wakeInterval is how often nsenter is woken that must notice the end of its program;
// it takes less than a millisecond otherwise.
const wakeInterval = 2 * time.Millisecond

// reapLimit is how long the kernel may take to end a program that is killed.
const reapLimit = 5 * time.Second

// lineLimit bounds one line that OnLine is given.
const lineLimit = 1 << 20

// A Spec says what to start in a machine: a command, or a role of this binary.
type Spec struct {
	// Name is for messages.
	Name string
	// Args is the command line; with Role it is what the role is given.
	Args []string
	// Role is a role of this binary, "" for a command.
	Role string
	// Wrap is put before the command line: a program that becomes, or starts, what its
	// further arguments say.
	Wrap []string
	// Netns is a network namespace that /run/netns of the machine names, "" the
	// machine's own.
	Netns string
	// Env is added to the caller's environment, or, with OnlyEnv, to its PATH and
	// TMPDIR alone.
	Env     []string
	OnlyEnv bool
	// Files are inherited from file descriptor 3 on. The caller closes its own.
	Files []*os.File
	// OnLine is called with each line of standard output, in order, from one
	// goroutine; nil: none. The slice is only good until it returns.
	OnLine func(line []byte)
	// Log takes everything that the process writes, as well; nil: nothing. Standard
	// output and standard error are written at the same time.
	Log io.Writer
}

// A Process runs inside a machine. It dies with the machine at the latest. Its
// methods are safe for concurrent use.
type Process struct {
	name    string
	machine *Machine
	cmd     *exec.Cmd
	done    chan struct{}

	stdinMu sync.Mutex
	stdin   io.WriteCloser

	mu   sync.Mutex
	tail []byte
	pid  int
	err  error
}

// Start starts a process.
func (m *Machine) Start(spec Spec) (*Process, error) {
	line := spec.Args
	env := append(os.Environ(), spec.Env...)
	if spec.OnlyEnv {
		env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}, spec.Env...)
	}
	if spec.Role != "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("%s: start %s: find this program: %w", m.name, spec.Name, err)
		}
		line = append([]string{self}, spec.Args...)
		env = append(env, roleVariable+"="+spec.Role)
	}
	line = append(slices.Clone(spec.Wrap), line...)
	if spec.Netns != "" {
		line = append([]string{"nsenter", "--net=/run/netns/" + spec.Netns, "--"}, line...)
	}
	cmd := m.Command(line...)
	cmd.Env, cmd.ExtraFiles = env, spec.Files
	p := &Process{name: spec.Name, machine: m, cmd: cmd, done: make(chan struct{})}
	stdout := &lines{p: p, log: spec.Log, each: spec.OnLine}
	cmd.Stdout, cmd.Stderr = stdout, &lines{p: p, log: spec.Log}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = time.Second
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("%s: start %s: %w", m.name, spec.Name, err)
	}
	p.stdin = stdin
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("%s: start %s: the machine has ended", m.name, spec.Name)
	}
	if err := m.spawn.start(cmd); err != nil {
		return nil, fmt.Errorf("%s: start %s: %w", m.name, spec.Name, err)
	}
	go func() {
		err := cmd.Wait()
		stdout.flush()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(p.done)
	}()
	// Those that have ended are forgotten, or a long run that restarts things grows.
	m.processes = append(slices.DeleteFunc(m.processes, func(p *Process) bool { return !p.Running() }), p)
	return p, nil
}

// Name is what the process was called.
func (p *Process) Name() string { return p.name }

// PID is the program itself as the caller sees it, 0 when it has ended or did not
// begin. nsenter forks for the PID namespace and waits, so the program is its
// child, found once it was forked.
func (p *Process) PID() int {
	p.mu.Lock()
	known := p.pid
	p.mu.Unlock()
	if !p.Running() {
		return 0
	}
	if known != 0 {
		return known
	}
	parent := strconv.Itoa(p.cmd.Process.Pid)
	for tick := time.NewTicker(2 * time.Millisecond); ; {
		raw, err := os.ReadFile("/proc/" + parent + "/task/" + parent + "/children")
		if err != nil {
			tick.Stop()
			return 0
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil {
			tick.Stop()
			p.mu.Lock()
			p.pid = pid
			p.mu.Unlock()
			return pid
		}
		select {
		case <-tick.C:
		case <-p.done:
			tick.Stop()
			return 0
		}
	}
}

// Signal sends the program a signal.
func (p *Process) Signal(signal unix.Signal) error {
	pid := p.PID()
	if pid == 0 {
		return fmt.Errorf("%s: send %s to %s: it has ended", p.machine.name, unix.SignalName(signal), p.name)
	}
	if err := unix.Kill(pid, signal); err != nil {
		return fmt.Errorf("%s: send %s to %s: %w", p.machine.name, unix.SignalName(signal), p.name, err)
	}
	if signal == unix.SIGCONT {
		p.wake()
	}
	return nil
}

// wake lets nsenter go on, which stops itself when its program is stopped
// (continue_as_child in nsenter.c of util-linux) and would not notice its end.
func (p *Process) wake() { _ = unix.Kill(p.cmd.Process.Pid, unix.SIGCONT) }

// Kill is kill -9 of the process and what it started, and waits for the end.
func (p *Process) Kill() {
	if p.Running() {
		p.killProgram()
		// What the program started is of the same group.
		_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
	}
	<-p.done
}

// killProgram kills the program and has nsenter wait for it. Were both killed, the
// program would be left to the first process of the host, not the machine's; until
// that has waited for it, in a container perhaps never, the machine cannot end.
func (p *Process) killProgram() {
	pid := p.PID()
	limit := time.NewTimer(reapLimit)
	defer limit.Stop()
	tick := time.NewTicker(wakeInterval)
	defer tick.Stop()
	for pid != 0 && unix.Kill(pid, unix.SIGKILL) == nil {
		p.wake()
		select {
		case <-p.done:
			return
		case <-limit.C:
			return
		case <-tick.C:
		}
	}
}

// Stop asks the program to end by SIGTERM, and kills it when it has not within a
// limit. It returns how the program ended.
func (p *Process) Stop(limit time.Duration) error {
	if pid := p.PID(); pid != 0 {
		_ = unix.Kill(pid, unix.SIGTERM) // it may end by itself meanwhile
	}
	return p.endWithin(limit, "SIGTERM")
}

// Finish ends the program's standard input, which ends a role, and kills it when
// that did not within a limit. It returns how the program ended.
func (p *Process) Finish(limit time.Duration) error {
	if err := p.CloseInput(); err != nil {
		return err
	}
	return p.endWithin(limit, "the end of its input")
}

func (p *Process) endWithin(limit time.Duration, of string) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	tick := time.NewTicker(wakeInterval)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return p.Err()
		case <-tick.C:
			p.wake()
		case <-timer.C:
			p.Kill()
			return fmt.Errorf("%s: end %s: it did not within %s of %s and was killed", p.machine.name, p.name, limit, of)
		}
	}
}

// Done is closed when the process has ended and all of its output was taken.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the process ended; nil while it runs and after exit status 0.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Running says whether the process has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// CPU is what the process and its waited-for children used, once it has ended.
func (p *Process) CPU() time.Duration {
	if p.Running() || p.cmd.ProcessState == nil {
		return 0
	}
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

// Output is the end of what the process has written so far.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.tail)
}

// Send writes a line to the program's standard input.
func (p *Process) Send(line []byte) error {
	p.stdinMu.Lock()
	defer p.stdinMu.Unlock()
	if _, err := p.stdin.Write(append(slices.Clone(line), '\n')); err != nil {
		return fmt.Errorf("%s: write to %s: %w", p.machine.name, p.name, err)
	}
	return nil
}

// CloseInput ends the program's standard input.
func (p *Process) CloseInput() error {
	p.stdinMu.Lock()
	defer p.stdinMu.Unlock()
	if err := p.stdin.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("%s: close the input of %s: %w", p.machine.name, p.name, err)
	}
	return nil
}

// lines takes the output of a process: the tail of it, a log, and line by line.
type lines struct {
	p    *Process
	log  io.Writer
	each func(line []byte)
	part []byte
}

func (l *lines) Write(data []byte) (int, error) {
	l.p.mu.Lock()
	l.p.tail = append(l.p.tail, data...)
	if over := len(l.p.tail) - keepOutput; over > 0 {
		l.p.tail = append(l.p.tail[:0], l.p.tail[over:]...)
	}
	l.p.mu.Unlock()
	if l.log != nil {
		_, _ = l.log.Write(data) // a full disk must not stop the process
	}
	if l.each == nil {
		return len(data), nil
	}
	l.part = append(l.part, data...)
	for {
		end := bytes.IndexByte(l.part, '\n')
		if end < 0 {
			break
		}
		l.each(l.part[:end])
		l.part = l.part[end+1:]
	}
	if len(l.part) > lineLimit {
		l.part = nil
	}
	return len(data), nil
}

func (l *lines) flush() {
	if l.each != nil && len(l.part) > 0 {
		l.each(l.part)
	}
}
