// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBadConfigurationGetsOneClearLine(t *testing.T) {
	tests := []struct {
		name string
		edit func(*Config)
		want string
	}{
		{name: "the defaults are good", edit: func(*Config) {}},
		{name: "a complete uplink is good", edit: func(c *Config) {
			c.Aggregators, c.CAFile, c.TokenFile = []string{"https://10.0.0.1:9951"}, "ca", "token"
		}},
		{name: "no node name", edit: func(c *Config) { c.NodeName = "" }, want: "--node-name"},
		{name: "an unknown probe", edit: func(c *Config) { c.Probes = []string{"lnik"} }, want: `there is no probe "lnik"; there are link, oversize, clock`},
		{name: "no probe", edit: func(c *Config) { c.Probes = nil }, want: "--probes"},
		{name: "too short an interval", edit: func(c *Config) { c.Interval = time.Millisecond }, want: "--interval 1ms: give 1s to 5m"},
		{name: "too long a push interval", edit: func(c *Config) { c.PushInterval = time.Hour }, want: "--push-interval 1h0m0s: give 1s to 5m"},
		{name: "a time server that is none", edit: func(c *Config) { c.TimeServers = []string{"a=10.0.0.1:123456"} }, want: "--time-server: parse time server"},
		{name: "a segment that the kernel refuses", edit: func(c *Config) { c.MaxSegment = 9 }, want: "--max-segment"},
		{name: "plain http", edit: func(c *Config) { c.Aggregators = []string{"http://x:1"} }, want: "give https://HOST:PORT"},
		{name: "no CA", edit: func(c *Config) { c.Aggregators = []string{"https://x:1"} }, want: "--aggregator-ca"},
		{name: "no token", edit: func(c *Config) { c.Aggregators, c.CAFile = []string{"https://x:1"}, "ca" }, want: "--token-file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Defaults()
			cfg.NodeName = "n1"
			tt.edit(&cfg)
			err := cfg.Validate()
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.want)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}
