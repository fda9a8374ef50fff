// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"sync"
	"time"
)

// A background runs one job that may block for long (the disk) in a goroutine
// of its own that exists only while there is something to do. The job never
// runs twice at a time and runs again if it was asked for while it ran.
type background struct {
	job func()

	mu      sync.Mutex
	wanted  chan struct{}
	running bool
	closed  bool
	idle    sync.WaitGroup
}

func newBackground(job func()) *background { return &background{job: job} }

// kick asks for a run of the job that begins after this call, and returns a
// channel that is closed when that run has ended.
func (b *background) kick() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		over := make(chan struct{})
		close(over)
		return over
	}
	if b.wanted == nil {
		b.wanted = make(chan struct{})
	}
	over := b.wanted
	if !b.running {
		b.running = true
		b.idle.Add(1)
		go b.loop()
	}
	return over
}

func (b *background) loop() {
	defer b.idle.Done()
	for {
		b.mu.Lock()
		over := b.wanted
		b.wanted = nil
		if over == nil {
			b.running = false
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		b.job()
		close(over)
	}
}

// close refuses further runs and waits, but not longer than given, for the
// present one. It says whether nothing runs any more.
func (b *background) close(wait time.Duration) bool {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	over := make(chan struct{})
	go func() {
		b.idle.Wait()
		close(over)
	}()
	return within(over, wait)
}

// within says whether a channel is closed within a time.
func within(over <-chan struct{}, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-over:
		return true
	case <-timer.C:
		return false
	}
}
