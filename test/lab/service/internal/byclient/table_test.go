// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package byclient

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestATableHoldsWhatWasSetLast(t *testing.T) {
	n1, n2 := netip.MustParseAddr("10.9.1.2"), netip.MustParseAddr("10.9.2.2")
	first := netip.MustParsePrefix("10.9.1.0/24")
	type step struct {
		value   string
		clients []netip.Prefix
	}
	for name, c := range map[string]struct {
		steps    []step
		one, two string
	}{
		"empty":                                   {nil, "", ""},
		"for all":                                 {[]step{{"x", nil}}, "x", "x"},
		"for one":                                 {[]step{{"x", []netip.Prefix{first}}}, "x", ""},
		"for one, after all":                      {[]step{{"x", nil}, {"y", []netip.Prefix{first}}}, "y", "x"},
		"for all, after one":                      {[]step{{"y", []netip.Prefix{first}}, {"x", nil}}, "x", "x"},
		"taken back from one":                     {[]step{{"x", nil}, {"", []netip.Prefix{first}}}, "", "x"},
		"a wider prefix after a narrower one":     {[]step{{"y", []netip.Prefix{first}}, {"x", []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}}, "x", "x"},
		"a narrower prefix after a wider one":     {[]step{{"x", []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}, {"y", []netip.Prefix{first}}}, "y", "x"},
		"an address that is not that of its mask": {[]step{{"x", []netip.Prefix{netip.MustParsePrefix("10.9.1.77/24")}}}, "x", ""},
		"no prefix at all":                        {[]step{{"x", []netip.Prefix{{}}}}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var table Table[string]
			for _, s := range c.steps {
				table.Set(s.value, s.clients...)
			}
			require.Equal(t, c.one, table.For(n1))
			require.Equal(t, c.two, table.For(n2))
		})
	}
}

func TestATableKnowsAnAddressInEveryForm(t *testing.T) {
	var table Table[int]
	table.Set(4, netip.MustParsePrefix("10.9.1.2/32"))
	table.Set(6, netip.MustParsePrefix("fe80::/10"))
	require.Equal(t, 4, table.For(netip.MustParseAddr("::ffff:10.9.1.2")))
	require.Equal(t, 6, table.For(netip.MustParseAddr("fe80::1%eth0")))
	require.Equal(t, 0, table.For(netip.Addr{}))
	table.Set(7)
	require.Equal(t, 7, table.For(netip.MustParseAddr("fd00:9:1::2")))
	require.Equal(t, 7, table.For(netip.MustParseAddr("192.0.2.1")))
}

func TestATableForgetsWhatIsCovered(t *testing.T) {
	var table Table[int]
	for i := range 100 {
		table.Set(i, netip.MustParsePrefix("10.9.1.2/32"), netip.MustParsePrefix("fd00:9:1::2/128"))
	}
	require.Len(t, table.rules, 2)
	table.Set(0)
	require.Len(t, table.rules, 2, "one for each family")
}

func TestAWatchEndsWithTheNextChange(t *testing.T) {
	var table Table[int]
	client := netip.MustParseAddr("10.9.1.2")
	table.Set(1)
	value, changed := table.Watch(client)
	require.Equal(t, 1, value)
	select {
	case <-changed:
		t.Fatal("nothing changed yet")
	default:
	}
	table.Set(2, netip.MustParsePrefix("10.9.1.2/32"))
	<-changed
	value, changed = table.Watch(client)
	require.Equal(t, 2, value)
	require.NotNil(t, changed)
}

func TestThePeerIsComparedWithoutItsForm(t *testing.T) {
	want := netip.MustParseAddr("10.9.1.2")
	require.Equal(t, want, Addr(&net.TCPAddr{IP: net.IPv4(10, 9, 1, 2), Port: 1}))
	require.Equal(t, want, Addr(&net.UDPAddr{IP: net.IPv4(10, 9, 1, 2), Port: 1}))
	require.Equal(t, want, Parse("[::ffff:10.9.1.2]:80"))
	require.Equal(t, netip.MustParseAddr("fe80::1"), Parse("[fe80::1%eth0]:80"))
	require.False(t, Addr(&net.UnixAddr{Name: "x"}).IsValid())
	require.False(t, Parse("nobody").IsValid())
}
