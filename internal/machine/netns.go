// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// netnsFile opens a network namespace: one that /run/netns of the machine names,
// or the machine's own for "".
func (m *Machine) netnsFile(netns string) (*os.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errors.New("the machine has ended")
	}
	path := fmt.Sprintf("/proc/self/fd/%d", m.netns.Fd())
	if netns != "" {
		path = m.Path(filepath.Join("/run/netns", netns))
	}
	return os.Open(path)
}

// Do runs fn inside a network namespace that /run/netns of the machine names, ""
// being the machine's own. Sockets that fn opens stay there. Goroutines that fn
// starts are outside of it, and it must not start processes.
func (m *Machine) Do(netns string, fn func() error) error {
	file, err := m.netnsFile(netns)
	if err != nil {
		return fmt.Errorf("%s: open network namespace: %w", m.name, err)
	}
	defer file.Close()
	result := make(chan error, 1)
	go func() { result <- inside(file, fn) }()
	if err := <-result; err != nil {
		return fmt.Errorf("%s: in network namespace %q: %w", m.name, netns, err)
	}
	return nil
}

// inside runs fn on a thread that is in a network namespace meanwhile. A thread
// that does not come back is thrown away: it stays locked to a goroutine that ends.
// It is brought back otherwise, for the first thread of a program cannot be thrown
// away, and /proc/self is about that one.
func inside(netns *os.File, fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open this thread's own: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter it: %w", err)
	}
	defer func() {
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return fn()
}

// Listen opens a listener inside.
func (m *Machine) Listen(netns, network, address string) (net.Listener, error) {
	var l net.Listener
	err := m.Do(netns, func() error {
		var err error
		// A keep-alive of its own would only be noise on the fabric.
		l, err = (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), network, address)
		return err
	})
	return l, err
}

// ListenPacket opens a packet socket inside.
func (m *Machine) ListenPacket(netns, network, address string) (net.PacketConn, error) {
	var c net.PacketConn
	err := m.Do(netns, func() error {
		var err error
		c, err = net.ListenPacket(network, address)
		return err
	})
	return c, err
}

// DialContext is a dialer, as net/http wants one, whose connections begin inside.
// Addresses are literal: resolving a name would happen outside.
func (m *Machine) DialContext(netns string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("%s: connect to %s: %w", m.name, address, err)
		}
		if net.ParseIP(strings.SplitN(host, "%", 2)[0]) == nil {
			return nil, fmt.Errorf("%s: connect to %s: the address is no literal IP address", m.name, address)
		}
		var conn net.Conn
		err = m.Do(netns, func() error {
			var err error
			conn, err = (&net.Dialer{KeepAlive: -1}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

// Sysctl sets a kernel parameter of a network namespace, "" being the machine's
// own. Only those below net belong to a namespace; others are the whole kernel's
// and refused.
func (m *Machine) Sysctl(netns, key, value string) error {
	if !strings.HasPrefix(key, "net.") {
		return fmt.Errorf("%s: set %s: it belongs to the whole kernel, not to a network namespace", m.name, key)
	}
	// /proc/sys/net shows the namespace of the thread that opens it.
	return m.Do(netns, func() error {
		file, err := os.OpenFile("/proc/sys/"+strings.ReplaceAll(key, ".", "/"), os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			return fmt.Errorf("%s: set %s: %w", m.name, key, err)
		}
		defer file.Close()
		if _, err := file.WriteString(value); err != nil {
			return fmt.Errorf("%s: set %s to %s: %w", m.name, key, value, err)
		}
		return nil
	})
}
