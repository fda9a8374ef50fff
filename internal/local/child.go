// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// graceTime is what a child has between SIGTERM and SIGKILL.
const graceTime = 5 * time.Second

// A child is one process that lives no longer than we do.
type child struct {
	name string
	log  string
	cmd  *exec.Cmd
	// done is closed when the process has ended and been reaped; err is set
	// before.
	done chan struct{}
	err  error
	// stopping is set before we end it, so that its end is not a crash.
	stopping atomic.Bool
}

// startChild starts path with its output in dir/name.log.
//
// Pdeathsig takes care of our own sudden death. The kernel sends it when the
// *thread* that forked ends (prctl(2), PR_SET_PDEATHSIG), so one thread is kept
// for the life of the child. The process group of its own keeps a Ctrl-C on the
// terminal from reaching the child before we stop both in order.
func startChild(dir, name, path string, args []string) (*child, error) {
	c := &child{name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make the log of %s: %w", name, err)
	}
	c.cmd = exec.Command(path, args...)
	c.cmd.Stdout, c.cmd.Stderr = out, out
	c.cmd.Dir = dir
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		defer out.Close()
		if err := c.cmd.Start(); err != nil {
			started <- fmt.Errorf("start %s: %w", path, err)
			return
		}
		started <- nil
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// stop asks the process to end and makes it end after the grace time.
func (c *child) stop() {
	c.stopping.Store(true)
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // os.ErrProcessDone is fine
	timer := time.NewTimer(graceTime)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

// ended says how the process ended; call it after done only.
func (c *child) ended() string {
	if c.err == nil {
		return "ended with status 0"
	}
	var exit *exec.ExitError
	if errors.As(c.err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return "was killed by " + unix.SignalName(ws.Signal())
		}
		return fmt.Sprintf("ended with status %d", exit.ExitCode())
	}
	return c.err.Error()
}

// tailBytes bounds what is read of a log that may be long.
const tailBytes = 16 << 10

// tail returns the last lines of the child's log.
func (c *child) tail(lines int) []string {
	f, err := os.Open(c.log)
	if err != nil {
		return []string{"its log cannot be read: " + err.Error()}
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > tailBytes {
		if _, err := f.Seek(-tailBytes, io.SeekEnd); err != nil {
			return []string{"its log cannot be read: " + err.Error()}
		}
	}
	raw, err := io.ReadAll(io.LimitReader(f, tailBytes))
	if err != nil {
		return []string{"its log cannot be read: " + err.Error()}
	}
	all := strings.Split(string(bytes.TrimSpace(raw)), "\n")
	if len(all) == 1 && all[0] == "" {
		return nil
	}
	return all[max(0, len(all)-lines):]
}
