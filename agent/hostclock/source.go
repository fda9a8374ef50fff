//go:build !plumblab

// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package hostclock

import (
	"context"
	"time"
)

// source is the one file that a build with another clock replaces.
type source struct{}

func newSource() source { return source{} }

// Round(0) strips the monotonic reading.
func (source) now() time.Time { return time.Now().Round(0) }

func (source) fromKernel(stamp time.Time) time.Time { return stamp }

func (source) adjust() (Timex, error) { return readTimex() }

func (s source) watchSteps(ctx context.Context, fn func(Step)) error {
	return watchTimer(ctx, s.now, fn)
}
