// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settle is how long a change is left to be followed by others before the
	// agent is woken: setting up a pod makes a dozen messages.
	settle = 200 * time.Millisecond
	// settleMost bounds the growth of settle while changes never stop: a device
	// that flaps, or a routing daemon that converges, costs one sample per 5 s.
	settleMost = 5 * time.Second
	// calm without a change brings settle back down, or as long as it has grown to.
	calm = time.Second
)

// The multicast groups (include/uapi/linux/rtnetlink.h). Neighbours are left out:
// they change all the time and say nothing about MTU.
var eventGroups = []int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
}

// events is a subscription to changes in the agent's own namespace. drain may be
// called from several goroutines.
type events struct {
	mu     sync.Mutex
	fd     int
	buffer []byte
	// changes counts the drains that found something.
	changes uint64
	// lost counts overflows of the socket's buffer, each of which may hide any
	// change and therefore counts as one.
	lost uint64
}

func subscribe() (*events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket for notifications: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind netlink socket for notifications: %w", err)
	}
	for _, group := range eventGroups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("subscribe to rtnetlink group %d: %w", group, err)
		}
	}
	return &events{fd: fd, buffer: make([]byte, receiveBuffer)}, nil
}

func (e *events) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fd < 0 {
		return nil
	}
	fd := e.fd
	e.fd = -1
	return unix.Close(fd)
}

// drain reads what has come, without waiting, and returns the number of drains
// that found a change: a caller that sees it grow knows that something changed,
// whoever drained.
func (e *events) drain() (uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fd < 0 {
		return e.changes, errors.New("read notifications: the subscription is closed")
	}
	changed := false
	for {
		n, _, err := unix.Recvfrom(e.fd, e.buffer, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if changed {
				e.changes++
			}
			return e.changes, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS):
			e.lost++
			changed = true
		case err != nil:
			return e.changes, fmt.Errorf("read notifications: %w", err)
		default:
			changed = changed || matters(e.buffer[:n])
		}
	}
}

// overflows is how often notifications were lost.
func (e *events) overflows() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lost
}

// matters says whether a datagram tells of a link, route or rule. One that is cut
// off matters, for it may hold anything.
func matters(b []byte) bool {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return true
		}
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWROUTE, unix.RTM_DELROUTE, unix.RTM_NEWRULE, unix.RTM_DELRULE:
			return true
		}
		b = b[min(align4(size), len(b)):]
	}
	return false
}

// Watch wakes the agent after links, MTUs, routes or rules of the agent's own
// namespace changed. Changes are gathered for 200 ms, and for longer, up to 5 s,
// the longer they go on. It returns when ctx is done.
func (p *Probe) Watch(ctx context.Context, wake func()) error {
	stop, err := newStopper(ctx)
	if err != nil {
		return err
	}
	defer stop.close()
	seen, err := p.events.drain()
	if err != nil {
		return err
	}
	wait := settle
	for {
		quiet, err := stop.readable(p.events.fd)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		changes, err := p.events.drain()
		if err != nil {
			return err
		}
		if changes == seen {
			continue
		}
		if quiet >= max(calm, wait) {
			wait = settle
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if seen, err = p.events.drain(); err != nil {
			return err
		}
		if seen != changes {
			wait = min(2*wait, settleMost)
		}
		wake()
	}
}

// A stopper lets a poll be ended by a context.
type stopper struct {
	fd   int
	undo func() bool
	done chan struct{}
}

func newStopper(ctx context.Context) (*stopper, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	s := &stopper{fd: fd, done: make(chan struct{})}
	s.undo = context.AfterFunc(ctx, func() {
		defer close(s.done)
		// The eventfd cannot be full: this is the only write.
		_, _ = unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	return s, nil
}

func (s *stopper) close() {
	if !s.undo() {
		<-s.done // the write must not meet a file descriptor that is used anew
	}
	unix.Close(s.fd)
}

// readable waits until fd is, or the context is done, and says how long it took.
func (s *stopper) readable(fd int) (time.Duration, error) {
	start := time.Now()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(s.fd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for notifications: %w", err)
		}
		return time.Since(start), nil
	}
}
