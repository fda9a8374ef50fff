// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package flagenv

import (
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

func TestApply(t *testing.T) {
	tests := []struct {
		name string
		args []string
		env  map[string]string
		want time.Duration
		err  string
	}{
		{name: "the default holds when nothing is set", want: 10 * time.Second},
		{name: "the environment sets a flag", env: map[string]string{"PLUMB_AGENT_PUSH_INTERVAL": "3s"}, want: 3 * time.Second},
		{name: "the command line wins", args: []string{"--push-interval=5s"}, env: map[string]string{"PLUMB_AGENT_PUSH_INTERVAL": "3s"}, want: 5 * time.Second},
		{name: "a value that does not parse names the variable", env: map[string]string{"PLUMB_AGENT_PUSH_INTERVAL": "soon"}, err: "environment variable PLUMB_AGENT_PUSH_INTERVAL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
			got := flags.Duration("push-interval", 10*time.Second, "how often")
			Document(flags, "PLUMB_AGENT")
			require.Contains(t, flags.FlagUsages(), "[PLUMB_AGENT_PUSH_INTERVAL]")
			require.NoError(t, flags.Parse(tt.args))
			err := Apply(flags, "PLUMB_AGENT", func(k string) (string, bool) { v, ok := tt.env[k]; return v, ok })
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, *got)
		})
	}
}
