// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAnOverlayFaultFollowsItsUnderlay(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, lines, want string }{
		{"it fits", "    - {kind: overlay-mtu, mtu: 1450}\n", ""},
		{"too large for the default underlay", "    - {kind: overlay-mtu, mtu: 1451}\n",
			"f.yaml:7:32: fault 0: the overlay MTU of n1 is 1451: with a lower device the kernel would clamp it to 1450, the underlay 1500 - 50; use lowerDevice: false or a lower MTU"},
		{"raised underlay", "    - {kind: underlay-mtu, mtu: 9000, until: 30s}\n    - {kind: overlay-mtu, mtu: 8950, at: 1s}\n", ""},
		{"the underlay is raised too late", "    - {kind: underlay-mtu, mtu: 9000, at: 2s}\n    - {kind: overlay-mtu, mtu: 8950, at: 1s}\n",
			"f.yaml:8:32: fault 1: the overlay MTU of n1 is 8950: with a lower device the kernel would clamp it to 1450, the underlay 1500 - 50; use lowerDevice: false or a lower MTU"},
		{"the underlay is raised at the same time, before", "    - {kind: underlay-mtu, mtu: 9000}\n    - {kind: overlay-mtu, mtu: 8950}\n", ""},
		{"the underlay is raised at the same time, after", "    - {kind: overlay-mtu, mtu: 8950}\n    - {kind: underlay-mtu, mtu: 9000}\n",
			"f.yaml:7:32: fault 0: the overlay MTU of n1 is 8950: with a lower device the kernel would clamp it to 1450, the underlay 1500 - 50; use lowerDevice: false or a lower MTU"},
		{"another node's underlay is raised", "    - {kind: underlay-mtu, mtu: 9000, node: n2}\n    - {kind: overlay-mtu, mtu: 8950, at: 1s, node: n3}\n",
			"f.yaml:8:32: fault 1: the overlay MTU of n3 is 8950: with a lower device the kernel would clamp it to 1450, the underlay 1500 - 50; use lowerDevice: false or a lower MTU"},
		{"a lowered underlay alone", "    - {kind: underlay-mtu, mtu: 1400}\n", ""},
		{"a lowered underlay that is back before", "    - {kind: underlay-mtu, mtu: 1400, until: 10s}\n    - {kind: overlay-mtu, mtu: 1450, at: 10s}\n", ""},
		{"taken back under a lowered underlay", "    - {kind: underlay-mtu, mtu: 1400, until: 30s}\n    - {kind: overlay-mtu, mtu: 1300, until: 20s}\n",
			"f.yaml:8:45: until of fault 1 is wrong: with a lower device the kernel would refuse n1 its overlay MTU 1450 back while its underlay is 1400; end the underlay-mtu fault first, or use lowerDevice: false"},
		{"taken back after a lowered underlay", "    - {kind: underlay-mtu, mtu: 1400, until: 20s}\n    - {kind: overlay-mtu, mtu: 1300, until: 30s}\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("f.yaml", []byte(small("  faults:\n"+tt.lines)))
			if tt.want == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, tt.want)
			}
			_, err = Parse("f.yaml", []byte(small("  overlay: {lowerDevice: false}\n  faults:\n"+tt.lines)))
			require.NoError(t, err, "without a lower device nothing is clamped")
		})
	}
}
