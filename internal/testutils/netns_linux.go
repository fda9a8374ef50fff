// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package testutils

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// A NetNS is a network namespace of a test. It has no name under /run/netns and
// dies with the test.
type NetNS struct {
	file *os.File
	tb   testing.TB
}

var netnsCounter atomic.Int64

// NewNetNS makes a network namespace with lo up.
func NewNetNS(tb testing.TB) *NetNS {
	tb.Helper()
	SkipUnlessRoot(tb)
	var file *os.File
	err := onLockedThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		var err error
		file, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	ns := &NetNS{file: file, tb: tb}
	tb.Cleanup(func() { file.Close() })
	ns.Run("ip", "link", "set", "lo", "up")
	return ns
}

// onLockedThread runs fn on a thread of its own that is thrown away afterwards,
// so that a changed namespace can never leak into the scheduler's threads.
func onLockedThread(fn func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		errc <- fn()
	}()
	return <-errc
}

// Do runs fn inside the namespace. Goroutines that fn starts are outside of it.
func (ns *NetNS) Do(fn func() error) error {
	return onLockedThread(func() error {
		if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// Inode is what the kernel calls the namespace (ns.inum).
func (ns *NetNS) Inode() uint32 {
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.file.Fd()), &st); err != nil {
		ns.tb.Fatal(err)
	}
	return uint32(st.Ino)
}

// Path opens for others in this process: /proc/<pid>/fd/<n>.
func (ns *NetNS) Path() string {
	return filepath.Join("/proc", fmt.Sprint(os.Getpid()), "fd", fmt.Sprint(ns.file.Fd()))
}

// Start starts a command inside the namespace; the caller owns the process.
func (ns *NetNS) Start(cmd *exec.Cmd) error {
	return ns.Do(cmd.Start)
}

// Run runs a command inside the namespace and fails the test if it fails.
func (ns *NetNS) Run(name string, args ...string) string {
	ns.tb.Helper()
	out, err := ns.Try(name, args...)
	if err != nil {
		ns.tb.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// Try runs a command inside the namespace and returns its output.
func (ns *NetNS) Try(name string, args ...string) (string, error) {
	var out []byte
	err := ns.Do(func() error {
		var err error
		out, err = exec.Command(name, args...).CombinedOutput()
		return err
	})
	return string(out), err
}

// Name returns a device name that no other test of this process uses (at most
// 15 characters).
func Name(prefix string) string {
	return fmt.Sprintf("%.8s%d", prefix, netnsCounter.Add(1))
}

// Veth makes a pair of which one end is in each namespace.
func Veth(a *NetNS, aName string, b *NetNS, bName string) {
	a.tb.Helper()
	a.Run("ip", "link", "add", aName, "type", "veth", "peer", "name", bName, "netns", b.Path())
	a.Run("ip", "link", "set", aName, "up")
	b.Run("ip", "link", "set", bName, "up")
}
