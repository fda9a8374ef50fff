// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package flagenv gives every flag an environment variable: --listen-address of
// plumb-agent is PLUMB_AGENT_LISTEN_ADDRESS. A flag on the command line wins.
package flagenv

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Apply sets every flag that was not given on the command line from its variable
// and returns one clear error for a value that does not parse. It also names the
// variable in each flag's help.
func Apply(flags *pflag.FlagSet, prefix string, lookup func(string) (string, bool)) error {
	var first error
	flags.VisitAll(func(f *pflag.Flag) {
		name := Variable(prefix, f.Name)
		value, ok := lookup(name)
		if !ok || f.Changed || first != nil {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			first = fmt.Errorf("environment variable %s: %w", name, err)
		}
	})
	return first
}

// Document adds the variable's name to the help of each flag.
func Document(flags *pflag.FlagSet, prefix string) {
	flags.VisitAll(func(f *pflag.Flag) {
		f.Usage += " [" + Variable(prefix, f.Name) + "]"
	})
}

// Variable is the name of a flag's environment variable.
func Variable(prefix, flag string) string {
	return prefix + "_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}
