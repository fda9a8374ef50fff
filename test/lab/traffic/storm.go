// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

const (
	// defaultStorm is how many connections a second are torn down.
	defaultStorm = 50
	maxStorm     = 500
	// stormConnect and stormFill bound one connection of the storm.
	stormConnect = time.Second
	stormFill    = 5 * time.Millisecond
	// stormBytes are more than a receiver that does not read takes (64 KiB of the
	// first window) and fill a send queue with the rest.
	stormBytes = 512 << 10
)

// TeardownStorm has a sender open connections, fill their send queues and reset
// them, so that the kernel frees large packets by the thousand. Nothing is lost
// that anyone waits for.
type TeardownStorm struct {
	// Target is a Hold address of a Receiver: one that reads empties the queues.
	Target netip.AddrPort `json:"target"`
	// PerSecond is how many connections, 1 to 500; 0 is 50.
	PerSecond int `json:"perSecond,omitempty"`
}

func (s *TeardownStorm) check() error {
	switch {
	case !s.Target.IsValid() || s.Target.Port() == 0:
		return fmt.Errorf("tcpTeardownStorm: the target %s is no address and port", s.Target)
	case s.PerSecond < 0 || s.PerSecond > maxStorm:
		return fmt.Errorf("tcpTeardownStorm: %d connections a second; 1 to %d are possible", s.PerSecond, maxStorm)
	}
	return nil
}

func (s *TeardownStorm) run(ctx context.Context, out *output) {
	rate := s.PerSecond
	if rate == 0 {
		rate = defaultStorm
	}
	block := make([]byte, blockSize)
	var torn, failed int
	reported := time.Now()
	schedule(ctx, time.Second/time.Duration(rate), func() {
		if err := s.tear(ctx, block); err != nil {
			failed++
		} else {
			torn++
		}
		if now := time.Now(); now.Sub(reported) >= reportEvery {
			reported = now
			out.put(Event{Type: Noise, At: now, Detail: fmt.Sprintf("%s to %s: %d connections reset, %d could not be made", Teardown, s.Target, torn, failed)})
		}
	})
}

// tear fills the send queue of one connection and resets it.
func (s *TeardownStorm) tear(ctx context.Context, block []byte) error {
	conn, err := fill(ctx, s.Target, block)
	if err != nil {
		return err
	}
	// A linger of 0 resets and frees the queue (socket(7)).
	return errors.Join(conn.SetLinger(0), conn.Close())
}

// fill makes a connection and writes until its send queue is full.
func fill(ctx context.Context, target netip.AddrPort, block []byte) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, stormConnect)
	defer cancel()
	conn, err := dialTCP(ctx, target.String())
	if err != nil {
		return nil, err
	}
	if err := conn.SetWriteDeadline(time.Now().Add(stormFill)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	for left := stormBytes; left > 0; left -= len(block) {
		if _, err := conn.Write(block); err != nil {
			break // the queue is full
		}
	}
	return conn, nil
}
