// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// errPatience ends a transfer that its application has given up.
var errPatience = errors.New("given up")

// A stage is what a transfer is doing.
type stage struct {
	// doing is for errors, missing for stalls: what has not come.
	doing, missing string
	// counts says that a number of bytes belongs to it.
	counts bool
}

// A transfer is one try of a flow. Its methods are safe for concurrent use.
type transfer struct {
	l        *lane
	number   uint64
	patience time.Duration
	cancel   context.CancelCauseFunc

	mu    sync.Mutex
	began time.Time
	// progress is the last one, seen is what the engine had run by then, beganSeen
	// by the begin.
	progress        time.Time
	seen, beganSeen time.Duration
	stage           stage
	bytes, of       int64
	conn            *net.TCPConn
	looked          time.Time
	zeroWindow      bool
	stalled, told   bool
	ended           bool
}

// begin begins a transfer of so many bytes; nil when too many of the lane are under
// way. The context ends when the application loses its patience, or with ctx.
func (l *lane) begin(ctx context.Context, patience time.Duration, of int64, s stage) (*transfer, context.Context) {
	l.mu.Lock()
	if l.underWay >= l.most {
		l.counted.Skipped++
		l.mu.Unlock()
		return nil, nil
	}
	l.underWay++
	l.number++
	number := l.number
	l.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	now, ran := time.Now(), time.Duration(l.e.ran.Load())
	t := &transfer{l: l, number: number, patience: patience, cancel: cancel, began: now, progress: now, looked: now, seen: ran, beganSeen: ran, stage: s, of: of}
	l.e.mu.Lock()
	l.e.live[t] = struct{}{}
	l.e.mu.Unlock()
	return t, ctx
}

// reach says that the transfer has come to another stage, which is progress.
func (t *transfer) reach(s stage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return
	}
	t.stage = s
	t.moved(time.Now())
}

// advance says that so many bytes in all are through.
func (t *transfer) advance(bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.to(bytes, time.Now())
}

// to is advance by a moment; t.mu is held.
func (t *transfer) to(bytes int64, at time.Time) {
	if t.ended || bytes <= t.bytes {
		return
	}
	more := bytes - t.bytes
	t.l.count(func(c *Counters) { c.Bytes += uint64(more) })
	t.bytes = bytes
	t.moved(at)
}

// moved notes progress, and the end of a stall; t.mu is held.
func (t *transfer) moved(at time.Time) {
	if at.Before(t.progress) {
		return
	}
	quiet := at.Sub(t.progress)
	if t.told {
		t.l.well(t.number, at, quiet, true, fmt.Sprintf("goes on after %s: %s", seconds(quiet), t.through()))
	}
	if !t.stalled {
		t.l.count(func(c *Counters) { c.LongestQuiet = max(c.LongestQuiet, quiet) })
	}
	t.progress, t.seen = at, time.Duration(t.l.e.ran.Load())
	t.stalled, t.told, t.zeroWindow = false, false, false
}

// watch has the acknowledged bytes of the connection count as progress.
func (t *transfer) watch(conn *net.TCPConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conn = conn
}

// look is what the engine does at every tick.
func (t *transfer) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return
	}
	if t.conn != nil {
		t.acknowledged()
	}
	ran := time.Duration(t.l.e.ran.Load())
	// A tick more, for the progress may be that much younger than what was seen.
	if !t.stalled && ran-t.seen >= t.l.e.limit+watchEvery {
		t.stalled = true
		e := t.trouble(Stalled, t.progress)
		e.ZeroWindow = t.zeroWindow
		e.Detail = t.quiet(e.For)
		t.told = t.l.trouble(e)
	}
	// An application's timer is the wall's. But while nothing was seen the answer may
	// have come, so that it must have been looked for as long as for a stall.
	if time.Since(t.began) >= t.patience && ran-t.beganSeen >= t.l.e.limit {
		t.cancel(errPatience)
	}
}

// acknowledged reads how many bytes the other side's kernel has acknowledged, and
// when; t.mu is held.
func (t *transfer) acknowledged() {
	now := time.Now()
	info, err := tcpInfo(t.conn)
	if err != nil {
		return // the connection is being closed
	}
	// The SYN counts as a byte, so does a FIN (tcp_snd_una_update).
	acked := min(t.of, max(0, int64(info.Bytes_acked)-1))
	// Any acknowledgement sets last_ack_recv, so it bounds the progress from above;
	// the last look, which did not see these bytes, does so from below.
	at := now.Add(-time.Duration(info.Last_ack_recv) * time.Millisecond)
	if at.Before(t.looked) {
		at = t.looked
	}
	if at.Before(t.progress) {
		at = t.progress
	}
	t.to(acked, at)
	if t.bytes == t.of && t.counted() {
		t.stage = stage{doing: "waiting for the receiver", missing: "all bytes acknowledged, no answer from the receiver"}
	}
	t.looked, t.zeroWindow = now, zeroWindow(info)
}

func (t *transfer) trouble(kind EventType, since time.Time) Event {
	now := time.Now()
	e := t.l.event(kind, now)
	e.Transfer, e.For = t.number, now.Sub(since)
	e.AffectedAt = now.Add(-e.For)
	return e
}

// done ends a transfer that succeeded.
func (t *transfer) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.to(t.of, time.Now())
	t.moved(time.Now())
	t.l.count(func(c *Counters) { c.OK++ })
	t.l.well(t.number, t.progress, 0, false, "the first transfer since that completed")
	t.end()
}

// fail ends a transfer that did not succeed. When ctx ended the engine is ending,
// and that says nothing.
func (t *transfer) fail(ctx context.Context, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.end()
	cause := context.Cause(ctx)
	if cause != nil && !errors.Is(cause, errPatience) {
		return
	}
	since, words := t.progress, fmt.Sprintf("%s: %s", t.stage.doing, plain(err))
	switch {
	case cause == nil && t.counted():
		words += " after " + t.through()
	case cause != nil && t.stalled:
		words = fmt.Sprintf("given up after %s: %s", t.patience, t.quiet(time.Since(t.progress)))
	case cause != nil:
		// It moved all the time and was too slow from the begin on.
		since, words = t.began, fmt.Sprintf("given up after %s although it moved: %s", t.patience, t.through())
	}
	e := t.trouble(Failed, since)
	e.ZeroWindow, e.Detail = t.zeroWindow, words
	t.l.trouble(e)
}

// end is called once; t.mu is held.
func (t *transfer) end() {
	t.ended = true
	t.cancel(nil)
	t.l.e.mu.Lock()
	delete(t.l.e.live, t)
	t.l.e.mu.Unlock()
	t.l.mu.Lock()
	t.l.underWay--
	t.l.mu.Unlock()
}

func (t *transfer) counted() bool { return t.stage.counts && t.of > 0 }

func (t *transfer) through() string {
	if !t.counted() {
		return t.stage.doing
	}
	return fmt.Sprintf("%d of %d bytes", t.bytes, t.of)
}

// quiet says what has not come for how long.
func (t *transfer) quiet(lasts time.Duration) string {
	words := fmt.Sprintf("%s for %s", t.stage.missing, seconds(lasts))
	if t.counted() {
		words += " after " + t.through()
	}
	if t.zeroWindow {
		words += "; the receiver's window is closed"
	}
	return words
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// plain is an error without the addresses and layers that the event has already.
func plain(err error) string {
	var of *url.Error
	if errors.As(err, &of) {
		err = of.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return err.Error()
}

func tcpInfo(conn *net.TCPConn) (*unix.TCPInfo, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var info *unix.TCPInfo
	var failed error
	if err := raw.Control(func(fd uintptr) {
		info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); err != nil {
		return nil, err
	}
	return info, failed
}

// zeroWindow says whether the receiver's window is closed while there is something
// to send.
func zeroWindow(info *unix.TCPInfo) bool {
	return info.Snd_wnd == 0 && info.Notsent_bytes > 0
}
