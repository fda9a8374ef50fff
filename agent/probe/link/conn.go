// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// receiveBuffer holds one datagram of a dump. The kernel makes them no larger
	// than 32 KiB (netlink_dump, net/netlink/af_netlink.c, 5.10 to 6.18).
	receiveBuffer = 64 << 10
	// receiveTimeout bounds one answer: rtnetlink answers within the call, so that
	// an answer which is late for longer will not come.
	receiveTimeout = 2 * time.Second
	// dumpAttempts bounds how often a dump that changed under way is repeated.
	dumpAttempts = 4
)

var (
	// errInterrupted means that the table kept changing during every attempt.
	errInterrupted = errors.New("table kept changing while it was read")
	errTruncated   = errors.New("netlink message was cut off")
)

// A conn is one netlink socket, in the network namespace of the thread that
// opened it. It is not safe for concurrent use. vishvananda/netlink opens a
// socket per request and allocates per message and attribute, which over 110
// namespaces and every ten seconds is most of this probe's budget; hence this.
type conn struct {
	fd       int
	sequence uint32
	request  []byte
	buffer   []byte
}

// dial opens a socket of a netlink protocol in the caller's network namespace.
func dial(protocol int) (*conn, error) {
	return dialWith(protocol, make([]byte, receiveBuffer))
}

func dialWith(protocol int, buffer []byte) (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	c := &conn{fd: fd, buffer: buffer}
	tv := unix.NsecToTimeval(receiveTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set netlink receive timeout: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind netlink socket: %w", err)
	}
	// Strict checking (since 4.20) makes the kernel filter dumps by what the
	// request says. Without it the answers are only longer, and every caller
	// checks what it gets, so a refusal is harmless.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	return c, nil
}

func (c *conn) close() error {
	if c == nil || c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}

// A message is one answer. Its body is valid until the next request on the conn.
type message struct {
	kind uint16
	body []byte
}

// ask sends a request that has exactly one answer and returns it; ok is false
// when the kernel acknowledged without one.
func (c *conn) ask(kind, flags uint16, payload []byte) (message, bool, error) {
	if err := c.send(kind, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK, payload); err != nil {
		return message{}, false, err
	}
	var (
		got   message
		found bool
	)
	// The answer and the acknowledgement come as two datagrams; the answer is
	// copied because the second read would overwrite it.
	err := c.receive(func(m message) error {
		got, found = message{m.kind, append([]byte(nil), m.body...)}, true
		return nil
	})
	return got, found, err
}

// dump sends a request for a whole table and calls fn for every row. fn may be
// called again from the first row when the table changed under way; reset is
// called before each attempt.
func (c *conn) dump(kind uint16, payload []byte, reset func(), fn func(message) error) error {
	for range dumpAttempts {
		reset()
		if err := c.send(kind, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, payload); err != nil {
			return err
		}
		err := c.receive(fn)
		if !errors.Is(err, errInterrupted) {
			return err
		}
	}
	return errInterrupted
}

func (c *conn) send(kind, flags uint16, payload []byte) error {
	c.sequence++
	b := c.request[:0]
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.NLMSG_HDRLEN+len(payload)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, c.sequence)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, payload...)
	c.request = b
	if err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send netlink request %d: %w", kind, err)
	}
	return nil
}

// receive reads until the kernel says that it is done. It reads to the end even
// when fn fails, so that the next request does not meet old answers; answers to
// an earlier request that timed out are passed over.
func (c *conn) receive(fn func(message) error) error {
	var first error
	for {
		n, flags, err := c.read()
		if err != nil {
			return err
		}
		if flags&unix.MSG_TRUNC != 0 {
			return errTruncated
		}
		done, err := c.messages(c.buffer[:n], fn, &first)
		if err != nil {
			return err
		}
		if done {
			return first
		}
	}
}

func (c *conn) read() (int, int, error) {
	for {
		n, _, flags, _, err := unix.Recvmsg(c.fd, c.buffer, nil, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, 0, fmt.Errorf("read netlink answer: %w", err)
		}
		return n, flags, nil
	}
}

// messages walks one datagram. It returns done once the request is answered.
func (c *conn) messages(b []byte, fn func(message) error, first *error) (bool, error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return false, errTruncated
		}
		kind := binary.NativeEndian.Uint16(b[4:])
		flags := binary.NativeEndian.Uint16(b[6:])
		sequence := binary.NativeEndian.Uint32(b[8:])
		body := b[unix.NLMSG_HDRLEN:size]
		b = b[min(align4(size), len(b)):]
		if sequence != c.sequence {
			continue
		}
		if flags&unix.NLM_F_DUMP_INTR != 0 && *first == nil {
			*first = errInterrupted
		}
		switch kind {
		case unix.NLMSG_ERROR, unix.NLMSG_DONE:
			// Both begin with an errno, negative; an acknowledgement has 0.
			if len(body) >= 4 {
				if errno := int32(binary.NativeEndian.Uint32(body)); errno < 0 {
					return true, unix.Errno(-errno)
				}
			}
			return true, nil
		case unix.NLMSG_NOOP, unix.NLMSG_OVERRUN:
		default:
			if *first == nil {
				*first = fn(message{kind, body})
			}
		}
	}
	return false, nil
}
