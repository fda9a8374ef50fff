// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestOverheadRefusesWhatCannotBe(t *testing.T) {
	_, err := overhead("ipip", unix.AF_INET6, overheadOptions{})
	require.ErrorContains(t, err, "ipip has no ipv6 outer header")
	_, err = overhead("ip6tnl", unix.AF_INET, overheadOptions{})
	require.ErrorContains(t, err, "ip6tnl has no ipv4 outer header")
	_, err = overhead("carrier pigeon", unix.AF_INET, overheadOptions{})
	require.ErrorContains(t, err, "no overhead is known")
}

// The rows of the table that no device above has.
func TestOverhead(t *testing.T) {
	for name, tc := range map[string]struct {
		encapsulation string
		family        int
		options       overheadOptions
		want          int
	}{
		"wireguard over IPv6":           {"wireguard", unix.AF_INET6, overheadOptions{}, 80},
		"vxlan over IPv6":               {"vxlan", unix.AF_INET6, overheadOptions{}, 70},
		"vxlan-gpe over IPv6":           {"vxlan-gpe", unix.AF_INET6, overheadOptions{layer3: true}, 56},
		"vxlan with inner VLAN":         {"vxlan", unix.AF_INET, overheadOptions{innerVLAN: true}, 54},
		"geneve over IPv6":              {"geneve", unix.AF_INET6, overheadOptions{}, 70},
		"gretap with inner VLAN":        {"gretap", unix.AF_INET, overheadOptions{innerVLAN: true}, 42},
		"gre in GUE":                    {"gre", unix.AF_INET, overheadOptions{encap: encapGUE}, 36},
		"ip6gretap":                     {"ip6gretap", unix.AF_INET6, overheadOptions{}, 58},
		"ip6tnl in FOU":                 {"ip6tnl", unix.AF_INET6, overheadOptions{encap: encapFOU}, 48},
		"encapsulation limit over IPv4": {"gre", unix.AF_INET, overheadOptions{encapLimit: true}, 24},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := overhead(tc.encapsulation, tc.family, tc.options)
			require.NoError(t, err)
			require.Equal(t, tc.want, n)
		})
	}
	require.Equal(t, 32, macsecOverhead(16))
	require.Equal(t, 32, macsecOverhead(0))
}
