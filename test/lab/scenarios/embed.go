// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/plumb-dev/plumb/test/lab/scenario"
)

// FS holds the files NAME.yaml.
//
//go:embed *.yaml
var FS embed.FS

const suffix = ".yaml"

// Names returns the names of all built-in scenarios, sorted.
func Names() []string {
	// Glob fails on a malformed pattern only, and this one is a constant.
	files, _ := fs.Glob(FS, "*"+suffix)
	out := make([]string, 0, len(files))
	for _, f := range files {
		out = append(out, strings.TrimSuffix(f, suffix))
	}
	slices.Sort(out)
	return out
}

// Load reads and checks the built-in scenario of that name. An UnknownError says
// that there is none; every other error is a *scenario.Problem of the file.
func Load(name string) (*scenario.Scenario, error) {
	data, err := FS.ReadFile(name + suffix)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return nil, &UnknownError{Name: name}
	}
	if err != nil {
		return nil, fmt.Errorf("read the built-in scenario %s: %w", name, err)
	}
	return scenario.Parse(name+suffix, data)
}

// An UnknownError says that no built-in scenario has that name.
type UnknownError struct{ Name string }

// Error is one line.
func (e *UnknownError) Error() string {
	return fmt.Sprintf("no built-in scenario is called %q; `plumb-lab list` names them all", e.Name)
}

// Core returns the names of the scenarios that `make test` runs: between them every
// shipped signature proven and cleared, the confounders that come closest to each,
// IPv6, two aggregators, a lost identity and two causes at once. They take about
// three minutes at three side by side.
func Core() []string {
	return []string{
		"healthy",
		"healthy-ipv6",
		"mtu-overlay-mismatch",
		"kernel-fragments",
		"bridge-port-mtu",
		"pmtud-works",
		"quic-probes",
		"clock-skew",
		"ntp-lies-one",
		"aggregator-kill-mismatch",
		"token-wrong-node-clock",
		"two-zones-differ",
	}
}
