// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseServer(t *testing.T) {
	tests := []struct {
		text, group, address string
	}{
		{"time.example.com", "example.com", "time.example.com:123"},
		{"Time.Example.COM.", "example.com", "time.example.com:123"},
		{"time.example.com:1123", "example.com", "time.example.com:1123"},
		{"lab-a=127.0.0.1:4123", "lab-a", "127.0.0.1:4123"},
		{"192.0.2.1", "192.0.2.1", "192.0.2.1:123"},
		{"2001:db8::1", "2001:db8::1", "[2001:db8::1]:123"},
		{"[2001:db8::1]", "2001:db8::1", "[2001:db8::1]:123"},
		{"mine=[2001:db8::1]:124", "mine", "[2001:db8::1]:124"},
		{"::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1:123"},
		{"fe80::1%eth0", "link-local", "[fe80::1%eth0]:123"},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			s, err := ParseServer(tt.text)
			require.NoError(t, err)
			require.Equal(t, Server{Group: tt.group, Address: tt.address}, s)
		})
	}
}

func TestParseServerRefuses(t *testing.T) {
	tests := []struct{ text, says string }{
		{"", "the host is empty"},
		{"=time.example.com", "group \"\" must be"},
		{"a/b=time.example.com", "group \"a/b\" must be"},
		{strings.Repeat("g", 65) + "=h", "must be 1 to 64"},
		{"time.example.com:0", "port \"0\""},
		{"time.example.com:70000", "port \"70000\""},
		{"time.example.com:ntp", "port \"ntp\""},
		{"a b", "neither a host name nor an address"},
		{"a..b", "neither a host name nor an address"},
		{"-x", "neither a host name nor an address"},
		{"[2001:db8::1", "bad address"},
		{"0.0.0.0", "no address of a server"},
		{"224.0.1.1", "no address of a server"},
		{"fe80::1%a/b", "no address of a server"},
		{strings.Repeat("a", 254), "neither a host name"},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			_, err := ParseServer(tt.text)
			require.ErrorContains(t, err, tt.says)
			require.ErrorContains(t, err, "parse time server")
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestGroupOf(t *testing.T) {
	tests := []struct{ host, want, why string }{
		{"0.pool.ntp.org", "ntp.org", "a pool is one operator"},
		{"3.debian.pool.ntp.org", "ntp.org", "a vendor's zone of it too"},
		{"time1.google.com", "google.com", ""},
		{"time4.google.com", "google.com", ""},
		{"ntp.example.co.uk", "example.co.uk", "the public suffix list knows co.uk"},
		{"ntp1.corp", "corp", "a private domain is one owner's"},
		{"ntp2.corp", "corp", ""},
		{"ntp.dc1.corp", "dc1.corp", ""},
		{"ntp1", "unqualified", ""},
		{"169.254.169.123", "link-local", "AWS"},
		{"fd00:ec2::123", "link-local", "AWS"},
		{"169.254.169.254", "link-local", "OCI, GCP"},
		{"metadata.google.internal", "link-local", ""},
		{"::ffff:169.254.169.123", "link-local", ""},
		{"127.0.0.1", "loopback", ""},
		{"::1", "loopback", ""},
		{"10.0.0.1", "10.0.0.1", ""},
		{"10.0.0.2", "10.0.0.2", ""},
	}
	for _, tt := range tests {
		t.Run(tt.host, func(t *testing.T) { require.Equal(t, tt.want, GroupOf(tt.host), tt.why) })
	}
}

func FuzzParseServer(f *testing.F) {
	for _, seed := range []string{"time.example.com", "g=h:1", "[::1]:123", "=", "a=b=c", "fe80::1%25eth0", "[", "::", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseServer(text)
		if err != nil {
			return
		}
		require.NotEmpty(t, s.Group)
		// What it accepts it also reads back as the same server.
		again, err := ParseServer(s.Address)
		require.NoError(t, err)
		require.Equal(t, s.Address, again.Address)
	})
}
