// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Command plumb-agent measures the physical evidence of one node and pushes it
// to the aggregators. It holds flags and wiring only.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/plumb-dev/plumb/agent"
	"github.com/plumb-dev/plumb/internal/buildinfo"
	"github.com/plumb-dev/plumb/internal/flagenv"
	"github.com/plumb-dev/plumb/internal/logging"
)

const prefix = "PLUMB_AGENT"

const usage = `plumb-agent measures what the Kubernetes API cannot see of this node: MTU of every
overlay against what carries it, packets dropped for their size, clock offset.
It runs on every node and pushes to plumb-aggregator. It needs no access to the
Kubernetes API.

  plumb-agent --check              what can be seen on this machine, by which hook
  plumb-agent --check --json       the same for a program
  plumb-agent --aggregator https://plumb-aggregator:9951 --aggregator-ca ca.crt --token-file token

As root everything is measured. Otherwise it needs the capabilities BPF, PERFMON,
NET_ADMIN, NET_RAW, SYSLOG and SYS_PTRACE; what is missing makes its evidence
unknown, never healthy, and the rest goes on.

Every flag can be given as an environment variable, named in brackets.

`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// memoryLimitBytes is the soft limit of the Go heap unless GOMEMLIMIT says
// otherwise. With 222 interfaces 4 MiB are live; left alone the heap grows to
// where the agent is over its 30 MiB (docs/benchmarks.md).
const memoryLimitBytes = 16 << 20

// Exit statuses: 0 fine, 1 --check found a blind signal, 2 trouble.
const (
	exitFine    = 0
	exitBlind   = 1
	exitTrouble = 2
)

func run(args []string, stdout, stderr io.Writer) int {
	hostname, _ := os.Hostname() // an empty name is asked for by Validate
	cfg := agent.Defaults()
	flags := pflag.NewFlagSet("plumb-agent", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {}
	check := flags.Bool("check", false, "say what can be seen on this machine and by which hook, or precisely why not, and exit (status 1 when a signal is blind)")
	asJSON := flags.Bool("json", false, "with --check: one JSON object instead of a table")
	flags.StringVar(&cfg.NodeName, "node-name", hostname, "name of this node; in Kubernetes spec.nodeName by the downward API")
	flags.StringVar(&cfg.PodName, "pod-name", "", "name of the agent's own pod, for the log")
	flags.StringVar(&cfg.PodNamespace, "pod-namespace", "", "namespace of the agent's own pod, for the log")
	flags.StringArrayVar(&cfg.Aggregators, "aggregator", nil, "address of an aggregator, https://HOST:PORT; may be repeated, every replica gets everything; none: serve /metrics only")
	flags.StringVar(&cfg.CAFile, "aggregator-ca", "", "PEM file of the private CA that the aggregator's certificate must come from")
	flags.StringVar(&cfg.TokenFile, "token-file", "", "file with this node's token, read again for every call")
	flags.StringVar(&cfg.SpoolDir, "spool-dir", "", "directory that keeps unsent episodes over a restart; none: memory only")
	flags.StringVar(&cfg.ListenAddress, "listen-address", ":9950", "address of /metrics, /healthz and /readyz; empty: none")
	flags.StringArrayVar(&cfg.TimeServers, "time-server", nil, "time server to measure the clock against, [GROUP=]HOST[:PORT]; may be repeated, two groups are needed for proof; none: those that this node's own time daemon uses")
	flags.DurationVar(&cfg.Interval, "interval", cfg.Interval, "time between two samples of a probe")
	flags.DurationVar(&cfg.PushInterval, "push-interval", cfg.PushInterval, "time between two batches; what is urgent is pushed at once")
	flags.StringSliceVar(&cfg.Probes, "probes", cfg.Probes, "probes to run")
	flags.BoolVar(&cfg.PodMetrics, "pod-metrics", false, "show devices inside pods on /metrics as well")
	flags.IntVar(&cfg.MaxSegment, "max-segment", cfg.MaxSegment, "TCP maximum segment size of the uplink in bytes, small so that it survives an MTU black hole")
	flags.StringVar(&cfg.ProcPath, "proc-path", cfg.ProcPath, "where the node's /proc is mounted")
	flags.StringVar(&cfg.SysPath, "sys-path", cfg.SysPath, "where the node's /sys is mounted")
	flags.StringVar(&cfg.RootPath, "root-path", cfg.RootPath, "where the node's / is mounted, to read its time daemon's configuration")
	level := flags.String("log-level", "info", "debug, info, warn or error")
	version := flags.Bool("version", false, "print the version and exit")
	flagenv.Document(flags, prefix)

	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			fmt.Fprint(stdout, usage, flags.FlagUsages())
			return exitFine
		}
		return trouble(stderr, fmt.Errorf("%w; see plumb-agent --help", err))
	}
	if flags.NArg() > 0 {
		return trouble(stderr, fmt.Errorf("unexpected argument %q: plumb-agent takes flags only; see plumb-agent --help", flags.Arg(0)))
	}
	if err := flagenv.Apply(flags, prefix, os.LookupEnv); err != nil {
		return trouble(stderr, err)
	}
	if *version {
		fmt.Fprintln(stdout, "plumb-agent", buildinfo.String())
		return exitFine
	}
	if *asJSON && !*check {
		return trouble(stderr, errors.New("--json goes with --check only; evidence for programs is on /metrics"))
	}
	var slogLevel slog.Level
	if err := slogLevel.UnmarshalText([]byte(*level)); err != nil {
		return trouble(stderr, fmt.Errorf("--log-level %q: give debug, info, warn or error", *level))
	}
	cfg.Version, cfg.BuildTime = buildinfo.Version(), buildinfo.BuildTime()
	if err := cfg.Validate(); err != nil {
		return trouble(stderr, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	zone := &logging.Zone{}
	cfg.OnZone = zone.Set
	identity := logging.Identity{Namespace: cfg.PodNamespace, Pod: cfg.PodName, Node: cfg.NodeName}
	if *check {
		// The report says it all; the log would only repeat it.
		cfg.Log = logging.New(stderr, slog.LevelError+1, identity, zone)
		return runCheck(ctx, cfg, *asJSON, stdout, stderr)
	}
	cfg.Log = logging.New(stderr, slogLevel, identity, zone)
	if _, set := os.LookupEnv("GOMEMLIMIT"); !set {
		debug.SetMemoryLimit(memoryLimitBytes)
	}
	if err := agent.Run(ctx, cfg); err != nil {
		return trouble(stderr, err)
	}
	return exitFine
}

func runCheck(ctx context.Context, cfg agent.Config, asJSON bool, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	report, err := agent.Check(ctx, cfg)
	if err != nil {
		return trouble(stderr, err)
	}
	write := report.WriteTable
	if asJSON {
		write = report.WriteJSON
	}
	if err := write(stdout); err != nil {
		return trouble(stderr, err)
	}
	if report.Blind > 0 {
		return exitBlind
	}
	return exitFine
}

func trouble(stderr io.Writer, err error) int {
	fmt.Fprintln(stderr, "plumb-agent:", err)
	return exitTrouble
}
