// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"sync"
	"time"
)

// catchUp is how late a request may be without costing the disk of its rate: a timer
// of this process is up to a millisecond late (epoll_wait(2) counts in them), more
// on a busy machine.
const catchUp = 5 * time.Millisecond

// A throttle makes requests wait as a slow or capped disk does. It is safe for
// concurrent use.
//
// The cap is a token bucket that holds no more than catchUp: nothing worth the name
// is saved up while the disk is idle, so the rate is steady from the first request
// on. Real volumes grant bursts; a lab that did would show the fault only once the
// burst is spent.
type throttle struct {
	mu       sync.Mutex
	settings Settings
	// next is when the next request may be served.
	next    time.Time
	changed chan struct{}
}

func newThrottle() *throttle { return &throttle{changed: make(chan struct{})} }

// set changes the settings, also for the requests that wait: what waits under the
// old ones is lined up anew, so a disk that was healed is healthy at once.
func (t *throttle) set(s Settings) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settings, t.next = s, time.Time{}
	close(t.changed)
	t.changed = make(chan struct{})
}

// wait returns when a request may be answered.
func (t *throttle) wait(fsync bool) {
	for {
		until, changed := t.slot()
		if pause(until, changed) {
			break
		}
	}
	if !fsync {
		return
	}
	began := time.Now()
	for {
		t.mu.Lock()
		until, changed := began.Add(t.settings.Fsync), t.changed
		t.mu.Unlock()
		if pause(until, changed) {
			return
		}
	}
}

// slot takes the next place in the line.
func (t *throttle) slot() (time.Time, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.settings.IOPS == 0 {
		return time.Time{}, t.changed
	}
	at := time.Now().Add(-catchUp)
	if t.next.After(at) {
		at = t.next
	}
	t.next = at.Add(time.Second / time.Duration(t.settings.IOPS))
	return at, t.changed
}

// pause says whether the time came before the settings changed.
func pause(until time.Time, changed <-chan struct{}) bool {
	left := time.Until(until)
	if left <= 0 {
		return true
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-changed:
		return false
	}
}
