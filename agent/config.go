// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/plumb-dev/plumb/agent/probe/clock"
	"github.com/plumb-dev/plumb/internal/mss"
)

// Config is what the agent is told by flags and environment; it has no file.
type Config struct {
	// NodeName is for display and the log. Who the node is, the token decides; one that
	// names another node is not used.
	NodeName string
	// PodName and PodNamespace are the agent's own, for the log.
	PodName, PodNamespace string
	// Aggregators are https URLs; every batch goes to each. Empty: the agent
	// measures and serves /metrics only.
	Aggregators []string
	CAFile      string
	TokenFile   string
	SpoolDir    string
	// ListenAddress of /metrics, /healthz and /readyz; empty: none.
	ListenAddress string
	// TimeServers are [GROUP=]HOST[:PORT]; empty: those of the node's time daemon.
	TimeServers []string
	// Interval between samples, 1 s to 5 min.
	Interval time.Duration
	// PushInterval between batches, 1 s to 5 min.
	PushInterval time.Duration
	// Probes to run, by name.
	Probes []string
	// PodMetrics shows devices inside pods on /metrics as well.
	PodMetrics bool
	// MaxSegment is the TCP maximum segment size of the uplink in bytes.
	MaxSegment int
	// ProcPath, SysPath and RootPath are the node's /proc, /sys and /.
	ProcPath, SysPath, RootPath string
	Version                     string
	BuildTime                   time.Time
	// OnZone is told the node's zone when an aggregator says it.
	OnZone func(string)
	Log    *slog.Logger
}

// Defaults returns the configuration of an agent that is told nothing.
func Defaults() Config {
	return Config{
		Interval:     10 * time.Second,
		PushInterval: 10 * time.Second,
		Probes:       probeNames(),
		MaxSegment:   512,
		ProcPath:     "/proc",
		SysPath:      "/sys",
		RootPath:     "/",
	}
}

// Validate returns one clear error for the first value that cannot work.
func (c Config) Validate() error {
	if c.NodeName == "" {
		return errors.New("--node-name: give this node's name; the host name is empty")
	}
	if len(c.Probes) == 0 {
		return fmt.Errorf("--probes: give at least one of %s", strings.Join(probeNames(), ", "))
	}
	for _, p := range c.Probes {
		if !slices.Contains(probeNames(), p) {
			return fmt.Errorf("--probes: there is no probe %q; there are %s", p, strings.Join(probeNames(), ", "))
		}
	}
	for _, of := range []struct {
		flag string
		d    time.Duration
	}{{"--interval", c.Interval}, {"--push-interval", c.PushInterval}} {
		if of.d < time.Second || of.d > 5*time.Minute {
			return fmt.Errorf("%s %s: give 1s to 5m", of.flag, of.d)
		}
	}
	for _, server := range c.TimeServers {
		if _, err := clock.ParseServer(server); err != nil {
			return fmt.Errorf("--time-server: %w", err)
		}
	}
	if err := mss.Check(c.MaxSegment); err != nil {
		return fmt.Errorf("--max-segment: %w", err)
	}
	for _, a := range c.Aggregators {
		u, err := url.Parse(a)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("--aggregator %q: give https://HOST:PORT", a)
		}
	}
	if len(c.Aggregators) == 0 {
		return nil
	}
	if c.CAFile == "" {
		return errors.New("--aggregator-ca: give the PEM file of the private CA that the aggregator's certificate comes from")
	}
	if c.TokenFile == "" {
		return errors.New("--token-file: give the file with this node's token")
	}
	return nil
}
