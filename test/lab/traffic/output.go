// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"encoding/json"
	"io"
	"time"
)

const (
	// queueLength is how many lines wait for a reader that is behind. It is about ten
	// seconds of a pod with three flows that all fail.
	queueLength = 512
	// drainLimit is how long the end waits for a reader that does not read.
	drainLimit = time.Second
)

// An output writes events, one a line. Traffic never waits for its reader. Its
// methods are safe for concurrent use, but for close, which is the last call.
type output struct {
	queue   chan []byte
	drained chan struct{}
}

func newOutput(w io.Writer) *output {
	o := &output{queue: make(chan []byte, queueLength), drained: make(chan struct{})}
	go func() {
		defer close(o.drained)
		for line := range o.queue {
			// A reader that has gone is the end of the lab, which also ends the input.
			_, _ = w.Write(line)
		}
	}()
	return o
}

// put says whether there was room for the event.
func (o *output) put(e Event) bool {
	e.At = e.At.UTC().Round(0)
	if !e.AffectedAt.IsZero() {
		e.AffectedAt = e.AffectedAt.UTC().Round(0)
	}
	line, err := json.Marshal(e)
	if err != nil {
		return false
	}
	select {
	case o.queue <- append(line, '\n'):
		return true
	default:
		return false
	}
}

func (o *output) close() {
	close(o.queue)
	limit := time.NewTimer(drainLimit)
	defer limit.Stop()
	select {
	case <-o.drained:
	case <-limit.C:
	}
}
