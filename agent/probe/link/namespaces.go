// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/agent/nodeview"
)

const (
	rtgenmsgSize   = 4 // struct rtgenmsg, aligned
	netnsaNsid     = 1 // NETNSA_NSID
	netnsaFd       = 3 // NETNSA_FD
	netnsUnknownID = -1
)

// errVanished means that a namespace's representative process has gone.
var errVanished = errors.New("namespace is gone")

// openNamespace opens a namespace and makes sure that it is still the one that
// the view saw: process ids and paths are used again.
func openNamespace(ns nodeview.Namespace) (int, error) {
	fd, err := unix.Open(ns.Path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		return -1, fmt.Errorf("open %s: %w", ns.Path, errVanished)
	case err != nil:
		return -1, fmt.Errorf("open %s: %w", ns.Path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("stat %s: %w", ns.Path, err)
	}
	if uint32(st.Ino) != ns.Inode {
		unix.Close(fd)
		return -1, fmt.Errorf("open %s: it is namespace %d now: %w", ns.Path, uint32(st.Ino), errVanished)
	}
	return fd, nil
}

// netnsid returns the id by which the conn's namespace knows the one that fd is;
// netnsUnknownID when it has none.
func (c *conn) netnsid(fd int) (int32, error) {
	payload := appendUint32Attribute(make([]byte, rtgenmsgSize, 16), netnsaFd, uint32(fd))
	m, ok, err := c.ask(unix.RTM_GETNSID, 0, payload)
	if err != nil {
		return 0, fmt.Errorf("ask for a namespace's id: %w", err)
	}
	id := int32(netnsUnknownID)
	if !ok || len(m.body) < rtgenmsgSize {
		return id, nil
	}
	err = eachAttribute(m.body[rtgenmsgSize:], func(kind uint16, v []byte) error {
		if kind == netnsaNsid && len(v) >= 4 {
			id = int32(binary.NativeEndian.Uint32(v))
		}
		return nil
	})
	return id, err
}

// assignNetnsid returns the id of a namespace and lets the kernel choose one if
// it has none (NETNSA_NSID -1). An id lives as long as its namespace and holds
// nothing; CNI plugins make them by moving a veth's end, so that it is rarely
// this probe that does.
func (c *conn) assignNetnsid(fd int) (int32, error) {
	id, err := c.netnsid(fd)
	if err != nil || id != netnsUnknownID {
		return id, err
	}
	payload := appendUint32Attribute(make([]byte, rtgenmsgSize, 24), netnsaNsid, ^uint32(0))
	payload = appendUint32Attribute(payload, netnsaFd, uint32(fd))
	// EEXIST: somebody else was faster, which is just as good.
	if _, _, err := c.ask(unix.RTM_NEWNSID, 0, payload); err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, fmt.Errorf("assign an id to a namespace: %w", err)
	}
	id, err = c.netnsid(fd)
	if err == nil && id == netnsUnknownID {
		return 0, errors.New("assign an id to a namespace: the kernel gave none")
	}
	return id, err
}

// links lists the devices of the conn's own namespace, or of the one with that
// id (IFLA_TARGET_NETNSID, dumps since 4.15; needs NET_ADMIN over its user
// namespace).
func (c *conn) links(id int32, into []rawLink) ([]rawLink, error) {
	payload := make([]byte, unix.SizeofIfInfomsg, 32)
	if id != netnsUnknownID {
		payload = appendUint32Attribute(payload, unix.IFLA_TARGET_NETNSID, uint32(id))
	}
	start := len(into)
	err := c.dump(unix.RTM_GETLINK, payload, func() { into = into[:start] }, func(m message) error {
		if m.kind != unix.RTM_NEWLINK {
			return nil
		}
		l, err := decodeLink(m.body)
		if err != nil {
			return err
		}
		into = append(into, l)
		return nil
	})
	if err != nil {
		return into[:start], fmt.Errorf("list devices: %w", err)
	}
	return into, nil
}

// A visitor enters namespaces one after the other, on one thread and with one
// buffer.
type visitor struct {
	buffer []byte
}

// visit runs fn on a thread that may change its namespace, and takes the thread
// back to the namespace own before it ends: the runtime parks the main thread
// instead of ending it, and it would hold the last pod's namespace for ever.
func visit(own int, fn func(*visitor) error) error {
	return onThread(func() error {
		err := fn(&visitor{buffer: make([]byte, receiveBuffer)})
		if back := unix.Setns(own, unix.CLONE_NEWNET); back != nil && !errors.Is(back, unix.EPERM) {
			// EPERM: the thread was not allowed to enter another one either.
			err = errors.Join(err, fmt.Errorf("leave network namespace: %w", back))
		}
		return err
	})
}

// enter runs fn with a socket of the namespace fd, and closes it afterwards: a
// socket keeps its namespace alive. setns(2) needs SYS_ADMIN over the namespace
// and in the agent's own user namespace.
func (v *visitor) enter(fd, protocol int, fn func(*conn) error) error {
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	c, err := dialWith(protocol, v.buffer)
	if err != nil {
		return err
	}
	err = fn(c)
	return errors.Join(err, c.close())
}

// onThread runs fn on a thread of its own that is thrown away afterwards, so
// that a changed namespace can never reach other goroutines.
func onThread(fn func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() {
			// The main thread cannot be thrown away. While it is held here the
			// runtime has to take another one.
			err := onThread(fn)
			runtime.UnlockOSThread()
			errc <- err
			return
		}
		errc <- fn()
	}()
	return <-errc
}
