// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The clock probe says by how much the node is ahead, the uplink adds what it
// gets to the node's clock: with the sign of the one for the other a certificate
// would be verified at twice the error.
func TestTheMeasuredTimeIsWhatToAddToTheNodesClock(t *testing.T) {
	ahead := func() (time.Duration, []string, bool) { return 7 * time.Minute, []string{"a", "b"}, true }
	correction, sources, ok := (&node{probes: &probes{measured: ahead}}).measuredTime()
	require.True(t, ok)
	require.Equal(t, -7*time.Minute, correction, "a node that is ahead is corrected backwards")
	require.Equal(t, []string{"a", "b"}, sources)

	for name, n := range map[string]*node{"before the probes are set up": {}, "without the clock probe": {probes: &probes{}}} {
		_, _, ok := n.measuredTime()
		require.False(t, ok, name)
	}
}
