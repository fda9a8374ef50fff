// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Command plumb-aggregator takes evidence from the agents, matches it against
// failure signatures and serves the verdicts. It holds flags and wiring only.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sort"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/plumb-dev/plumb/aggregator"
	"github.com/plumb-dev/plumb/internal/buildinfo"
	"github.com/plumb-dev/plumb/internal/flagenv"
	"github.com/plumb-dev/plumb/internal/logging"
	"github.com/plumb-dev/plumb/signatures"
)

const prefix = "PLUMB_AGGREGATOR"

const usage = `plumb-aggregator takes the physical evidence of every node from plumb-agent, matches
it against failure signatures and says what the cause is, how sure that is, what
it is not, and what to do.

  plumb-aggregator init DIR --node NAME=UID,zone=a --host 127.0.0.1
                                   make a throw-away CA, certificate, nodes file and tokens
  plumb-aggregator --nodes DIR/nodes.yaml --tls-cert DIR/server.crt --tls-key DIR/server.key --data-dir DIR/data
  plumb-aggregator --check …       read every file that the flags name, and exit

Agents push to --listen-address, over TLS always. The read API (plumb, curl) is on
--api-address and meant for loopback: the right to port-forward is the right to
read.

  curl -s localhost:9952/api/v1/verdicts
  curl -s -H 'Content-Type: application/json' -d '{}' localhost:9952/plumb.api.v1.QueryService/ListNodes

Every flag can be given as an environment variable, named in brackets.

`

const initUsage = `plumb-aggregator init makes, in DIR, what an aggregator outside Kubernetes needs:
ca.crt (for the agents), server.crt and server.key, nodes.yaml with a signing key,
and NAME.token for every node, all with mode 0600. To be thrown away.

  plumb-aggregator init DIR --node NAME=UID[,zone=Z][,pool=P][,instanceType=T][,kernel=K][,image=I] --host HOST

`

// Exit statuses: 0 fine, 2 trouble.
const (
	exitFine    = 0
	exitTrouble = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "init" {
		return runInit(args[1:], stdout, stderr)
	}
	cfg := aggregator.Defaults()
	cfg.Library = signatures.FS
	flags := pflag.NewFlagSet("plumb-aggregator", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {}
	flags.StringVar(&cfg.ListenAddress, "listen-address", cfg.ListenAddress, "address on which agents push, TLS always")
	flags.StringVar(&cfg.APIAddress, "api-address", cfg.APIAddress, "address of the read API, without TLS; keep it on loopback")
	flags.StringVar(&cfg.MetricsAddress, "metrics-address", cfg.MetricsAddress, "address of /metrics, /healthz and /readyz")
	flags.StringArrayVar(&cfg.AllowedHosts, "allowed-host", nil, "a name besides localhost, 127.0.0.1 and [::1] under which the read API answers; may be repeated")
	flags.StringVar(&cfg.TLSCert, "tls-cert", "", "PEM file of the certificate for --listen-address, read again when it changes")
	flags.StringVar(&cfg.TLSKey, "tls-key", "", "PEM file of its key")
	flags.StringVar(&cfg.NodesFile, "nodes", "", "YAML file with the nodes and the key of their tokens, read again when it changes")
	flags.StringArrayVar(&cfg.SignatureDirs, "signatures", nil, "directory of signatures to add to the built-in ones; may be repeated")
	flags.StringVar(&cfg.DataDir, "data-dir", "", "directory that keeps episodes and verdicts over a restart")
	flags.StringVar(&cfg.BusURL, "bus", "", "existing NATS JetStream to keep them in instead, nats://HOST:4222")
	flags.StringVar(&cfg.Tenant, "tenant", cfg.Tenant, "first part of the subjects on the bus")
	flags.StringVar(&cfg.Cluster, "cluster", "", "name of the cluster; none: as the nodes file says")
	flags.DurationVar(&cfg.Interval, "interval", cfg.Interval, "time between two batches of an agent; a node is silent after three")
	var id logging.Identity
	var zone logging.Zone
	flags.StringVar(&id.Node, "node-name", "", "name of the node that this runs on, for the log; in Kubernetes spec.nodeName by the downward API")
	flags.StringVar(&id.Pod, "pod-name", "", "name of its own pod, for the log")
	flags.StringVar(&id.Namespace, "pod-namespace", "", "namespace of its own pod, for the log")
	ownZone := flags.String("zone", "", "zone that this runs in, for the log")
	level := flags.String("log-level", "info", "debug, info, warn or error")
	check := flags.Bool("check", false, "read every file that the flags name, say what is wrong, and exit")
	version := flags.Bool("version", false, "print the version and exit")
	flagenv.Document(flags, prefix)

	if done, status := parse(flags, args, usage, stdout, stderr); done {
		return status
	}
	if flags.NArg() > 0 {
		return trouble(stderr, fmt.Errorf("unexpected argument %q: plumb-aggregator takes flags, or init as its first word; see plumb-aggregator --help", flags.Arg(0)))
	}
	if *version {
		fmt.Fprintln(stdout, "plumb-aggregator", buildinfo.String())
		return exitFine
	}
	var slogLevel slog.Level
	if err := slogLevel.UnmarshalText([]byte(*level)); err != nil {
		return trouble(stderr, fmt.Errorf("--log-level %q: give debug, info, warn or error", *level))
	}
	zone.Set(*ownZone)
	cfg.Log = logging.New(stderr, slogLevel, id, &zone)
	if *check {
		if err := aggregator.Check(cfg); err != nil {
			return trouble(stderr, err)
		}
		fmt.Fprintln(stdout, "plumb-aggregator: every file is well")
		return exitFine
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := aggregator.Run(ctx, cfg); err != nil {
		return trouble(stderr, err)
	}
	return exitFine
}

func runInit(args []string, stdout, stderr io.Writer) int {
	var cfg aggregator.InitConfig
	flags := pflag.NewFlagSet("plumb-aggregator init", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {}
	flags.StringArrayVar(&cfg.Nodes, "node", nil, "a node, NAME=UID[,zone=Z]…; may be repeated")
	flags.StringArrayVar(&cfg.Hosts, "host", []string{"localhost", "127.0.0.1", "::1"}, "name or address by which agents reach the aggregator; may be repeated")
	flags.StringVar(&cfg.Cluster, "cluster", "local", "name of the cluster")
	flags.DurationVar(&cfg.TokenTTL, "token-ttl", 7*24*time.Hour, "how long the tokens hold")
	if done, status := parse(flags, args, initUsage, stdout, stderr); done {
		return status
	}
	if flags.NArg() != 1 {
		return trouble(stderr, errors.New("give one directory; see plumb-aggregator init --help"))
	}
	cfg.Dir = flags.Arg(0)
	files, err := aggregator.Init(cfg)
	if err != nil {
		return trouble(stderr, err)
	}
	for _, path := range []string{files.CA, files.Cert, files.Key, files.Nodes} {
		fmt.Fprintln(stdout, path)
	}
	var tokens []string
	for _, path := range files.Tokens {
		tokens = append(tokens, path)
	}
	sort.Strings(tokens)
	for _, path := range tokens {
		fmt.Fprintln(stdout, path)
	}
	return exitFine
}

// parse reads command line and environment. The first result says that the
// program is to end with the second as its status.
func parse(flags *pflag.FlagSet, args []string, text string, stdout, stderr io.Writer) (bool, int) {
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			fmt.Fprint(stdout, text, flags.FlagUsages())
			return true, exitFine
		}
		return true, trouble(stderr, fmt.Errorf("%w; see %s --help", err, flags.Name()))
	}
	if err := flagenv.Apply(flags, prefix, os.LookupEnv); err != nil {
		return true, trouble(stderr, err)
	}
	return false, exitFine
}

func trouble(stderr io.Writer, err error) int {
	fmt.Fprintln(stderr, "plumb-aggregator:", err)
	return exitTrouble
}
