// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/beevik/ntp"

	"github.com/plumb-dev/plumb/agent/hostclock"
)

const (
	// minimumDispersion is MINDISP of RFC 5905 appendix A.1.1: no root distance is
	// told smaller, for servers on one network that are honestly a millisecond apart
	// would otherwise call each other liars.
	minimumDispersion = 10 * time.Millisecond
	// stepTolerance is by how much the wall clock and the raw clock may differ over
	// one exchange before the clock counts as stepped in between.
	stepTolerance = time.Millisecond

	// Offsets of fields in an NTP packet, RFC 5905 figure 8.
	ntpPacketBytes    = 48
	ntpStratumAt      = 1
	ntpPollAt         = 2
	ntpPrecisionAt    = 3
	ntpReferenceIDAt  = 12
	ntpOriginAt       = 24
	ntpTransmitAt     = 40
	ntpReferenceIDEnd = 16

	// leastExponent is −128 as a byte. The library negates it as a signed byte, which
	// gives −128 again, and panics by shifting by it (toInterval in v1.6.0); as a
	// power of two it is zero as −127 is.
	leastExponent = 0x80
)

var (
	// errUnreachable means that no answer came.
	errUnreachable = errors.New("no answer")
	// errInvalid means that an answer came which cannot be used.
	errInvalid = errors.New("unusable answer")
	// errStepped means that the clock was set during the exchange.
	errStepped = errors.New("the clock was set during the exchange")
)

// A kissError is a kiss-o'-death packet, RFC 5905 section 7.4.
type kissError struct{ code string }

func (e *kissError) Error() string { return fmt.Sprintf("the server sent kiss code %q", e.code) }

// A sample is one measurement of one source.
type sample struct {
	span interval
	// delay is the round trip, or the time that a PTP reading took.
	delay time.Duration
	// boottime and raw are when it was taken.
	boottime, raw uint64
	// rung is how it was measured.
	rung string
	// remote is the address that answered; empty for a local source.
	remote string
}

// DialFunc opens a connection, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// An sntpClient asks one server.
//
// It stands on github.com/beevik/ntp for the packets and their validation. The
// library takes our clock (GetSystemTime) for its T1 and T4, so that a build with
// another clock is measured by that clock; offset and delay are computed here from
// its four time stamps, because the library clamps a negative delay to zero, which
// is how a step in the middle of an exchange, or a server that lies about its own
// delay, would look like a perfect sample. The connection is ours, so that a
// datagram which does not answer our request is skipped instead of ending the
// exchange, and so that kiss codes are seen whatever else the packet says.
type sntpClient struct {
	clock   *hostclock.Clock
	dial    DialFunc
	address string
	timeout time.Duration

	// pinned is the address that the name was resolved to; kept while it answers, so
	// that a pool is one server and not another one each time.
	mu     sync.Mutex
	pinned string
}

func (c *sntpClient) query(ctx context.Context) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	c.mu.Lock()
	address := c.address
	if c.pinned != "" {
		address = c.pinned
	}
	c.mu.Unlock()
	s, remote, err := c.exchange(ctx, address)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pinned = remote
	if errors.Is(err, errUnreachable) {
		c.pinned = ""
	}
	return s, err
}

func (c *sntpClient) exchange(ctx context.Context, address string) (sample, string, error) {
	dialed, err := c.dial(ctx, "udp", address)
	if err != nil {
		return sample{}, "", fmt.Errorf("%w: %s", errUnreachable, c.plain(ctx, err))
	}
	// The library sets a deadline and takes no context.
	defer context.AfterFunc(ctx, func() { dialed.Close() })()
	conn := &answerConn{Conn: dialed}
	remote := dialed.RemoteAddr().String()

	// The library reads the time exactly twice: before it sends and after it has
	// received.
	var raws []uint64
	var boottime uint64
	now := func() time.Time {
		wall := c.clock.Now()
		raws = append(raws, c.clock.MonotonicRaw())
		boottime = c.clock.Boottime()
		return wall
	}
	response, err := ntp.QueryWithOptions(address, ntp.QueryOptions{
		Timeout:       c.timeout,
		GetSystemTime: now,
		Dialer:        func(string, string) (net.Conn, error) { return conn, nil },
	})
	if conn.kiss != "" {
		return sample{}, remote, &kissError{conn.kiss}
	}
	if err != nil {
		var network net.Error
		if errors.As(err, &network) || ctx.Err() != nil {
			return sample{}, remote, fmt.Errorf("%w: %s", errUnreachable, c.plain(ctx, err))
		}
		return sample{}, remote, fmt.Errorf("%w: %w", errInvalid, err)
	}
	if err := response.Validate(); err != nil {
		return sample{}, remote, fmt.Errorf("%w: %w", errInvalid, err)
	}
	if len(raws) != 2 {
		return sample{}, remote, fmt.Errorf("%w: %d time stamps of our own, want 2", errInvalid, len(raws))
	}
	s, err := measure(response, time.Duration(raws[1]-raws[0]))
	s.boottime, s.raw, s.rung, s.remote = boottime, raws[1], rungSNTP, remote
	return s, remote, err
}

// plain is the cause without our changing port, which would make every failure a
// new one.
func (c *sntpClient) plain(ctx context.Context, err error) string {
	var network net.Error
	if ctx.Err() != nil || errors.As(err, &network) && network.Timeout() {
		return "nothing came back from " + c.address + " within " + c.timeout.String()
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return "asking " + c.address + ": " + op.Err.Error()
	}
	return err.Error()
}

// measure computes the interval from the four time stamps; elapsed is the time
// between T1 and T4 by the raw clock.
func measure(r *ntp.Response, elapsed time.Duration) (sample, error) {
	offset, delay, err := fourStamps(r.Timestamps.ClientXmit, r.Timestamps.ServerRecv, r.Timestamps.ServerXmit, r.Timestamps.ClientRecv, elapsed)
	if err != nil {
		return sample{}, err
	}
	// The exponent is a signed byte of the server's choice: 2^127 s does not fit.
	if r.Precision < 0 || r.Precision > time.Second {
		return sample{}, fmt.Errorf("%w: the server claims a precision of no clock", errInvalid)
	}
	// Root distance, RFC 5905 appendix A.5.5.2; the sum over age (PHI) is added
	// when the sample is used.
	half := max(minimumDispersion, r.RootDelay+delay)/2 + r.RootDispersion + r.Precision
	return sample{span: around(offset, half), delay: delay}, nil
}

// fourStamps returns the clock's offset, node minus server, and the round trip,
// RFC 5905 section 8 with the opposite sign. The true offset is within half the
// round trip of it whatever the asymmetry, because neither way takes negative
// time.
func fourStamps(t1, t2, t3, t4 time.Time, elapsed time.Duration) (offset, delay time.Duration, err error) {
	wall := t4.Sub(t1)
	if slack := stepTolerance + time.Duration(float64(elapsed)*maxSlew); (wall - elapsed).Abs() > slack {
		return 0, 0, errStepped
	}
	held := t3.Sub(t2)
	delay = wall - held
	if held < 0 || delay < -stepTolerance {
		return 0, 0, fmt.Errorf("%w: the server says that it held the request for %s of the %s that the exchange took", errInvalid, held, wall)
	}
	// Halved before they are added: decades would overflow.
	return t1.Sub(t2)/2 + t4.Sub(t3)/2, max(delay, 0), nil
}

// An answerConn lets only the answer to what was sent through.
type answerConn struct {
	net.Conn
	transmit [8]byte
	kiss     string
}

func (c *answerConn) Write(p []byte) (int, error) {
	if len(p) >= ntpPacketBytes {
		copy(c.transmit[:], p[ntpTransmitAt:ntpPacketBytes])
	}
	return c.Conn.Write(p)
}

// Read skips datagrams whose origin is not what was sent: late answers to an
// earlier request, and forgeries of who cannot read our traffic.
func (c *answerConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil {
			return n, err
		}
		kiss, ok := answers(p[:n], c.transmit)
		if ok {
			c.kiss = kiss
			for _, at := range []int{ntpPollAt, ntpPrecisionAt} {
				if p[at] == leastExponent {
					p[at]++
				}
			}
			return n, nil
		}
	}
}

// answers says whether a datagram is the answer to a request, and its kiss code
// if it is a kiss-o'-death packet (stratum 0).
func answers(packet []byte, transmit [8]byte) (kiss string, ok bool) {
	if len(packet) < ntpPacketBytes ||
		binary.BigEndian.Uint64(packet[ntpOriginAt:]) != binary.BigEndian.Uint64(transmit[:]) {
		return "", false
	}
	if packet[ntpStratumAt] != 0 {
		return "", true
	}
	code := make([]byte, 0, ntpReferenceIDEnd-ntpReferenceIDAt)
	for _, b := range packet[ntpReferenceIDAt:ntpReferenceIDEnd] {
		if b < ' ' || b > '~' {
			b = '?'
		}
		code = append(code, b)
	}
	return string(code), true
}
