// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package testutils

import (
	"os"
	"testing"
	"time"
)

// CI says whether the tests run where skipping is failing.
func CI() bool { return os.Getenv("CI") != "" || os.Getenv("PLUMB_NO_SKIP") != "" }

// SkipUnlessRoot skips a privileged test for a user who is not root; in CI that
// is a failure.
func SkipUnlessRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		Skip(tb, "needs root")
	}
}

// Skip skips, but fails in CI: a test that cannot run there proves nothing.
func Skip(tb testing.TB, why string) {
	tb.Helper()
	if CI() {
		tb.Fatalf("would be skipped in CI: %s", why)
	}
	tb.Skip(why)
}

// Eventually waits until ok returns true, polling; it fails the test with what
// after the time is up.
func Eventually(tb testing.TB, within time.Duration, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("not within %s: %s", within, what)
		}
		<-tick.C
	}
}
