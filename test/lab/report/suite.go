// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"sync"
)

// DefaultParallel is how many scenarios a suite runs at once.
const DefaultParallel = 3

// RunSuite runs every scenario by its index, at most parallel at once (3 when it
// is not positive), and returns the results in the order of names. ended is
// called with each as it ends, one at a time, with the number that have; it may
// be nil. When ctx ends, run is expected to return soon; what has not begun is
// not begun, and counts as cancelled. RunSuite returns when every run has.
func RunSuite(ctx context.Context, names []string, parallel int, run func(ctx context.Context, index int) Result, ended func(r Result, done int)) []Result {
	if parallel <= 0 {
		parallel = DefaultParallel
	}
	results := make([]Result, len(names))
	next := make(chan int)
	var (
		workers sync.WaitGroup
		mu      sync.Mutex
		done    int
	)
	finish := func(i int, r Result) {
		mu.Lock()
		defer mu.Unlock()
		results[i] = r
		done++
		if ended != nil {
			ended(r, done)
		}
	}
	for range min(parallel, len(names)) {
		workers.Go(func() {
			for i := range next {
				// A worker may win the race against the end of ctx.
				if ctx.Err() != nil {
					finish(i, skipped(names[i]))
					continue
				}
				finish(i, run(ctx, i))
			}
		})
	}
	for i := range names {
		select {
		case next <- i:
		case <-ctx.Done():
			finish(i, skipped(names[i]))
		}
	}
	close(next)
	workers.Wait()
	return results
}
