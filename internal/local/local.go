// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
	"github.com/plumb-dev/plumb/aggregator/api/v1/apiv1connect"
)

// Progress is told what happens. Calls come from one goroutine.
type Progress interface {
	// Step begins a step; it ends the one before it.
	Step(what string)
	// Waiting says what the current step still waits for; it is called often,
	// also with the same words.
	Waiting(what string)
	// Done ends the current step.
	Done(detail string)
}

// A Config says what to run. All fields without "Optional" are required.
type Config struct {
	// BinDir holds plumb-aggregator and plumb-agent.
	BinDir string
	// TempDir is where the working directory is made. Optional: os.TempDir().
	TempDir string
	// Node is the name that this machine reports under.
	Node string
	// TimeServers are GROUP=HOST:PORT, passed on to the agent. Optional: the
	// agent's own default.
	TimeServers []string
	// Credentials makes keys. Optional: ThrowAwayKeys.
	Credentials func(dir, node, uid string) (Credentials, error)
	Progress    Progress
	// ReadyTimeout bounds the aggregator's start. Optional: 30 s.
	ReadyTimeout time.Duration
	// EvidenceTimeout bounds the wait for evidence. Optional: 60 s.
	EvidenceTimeout time.Duration
}

// Credentials are paths of files in the working directory.
type Credentials struct {
	// CA verifies the aggregator's certificate.
	CA string
	// Cert and Key are the aggregator's own, for 127.0.0.1.
	Cert, Key string
	// Nodes is the nodes file that names the one node.
	Nodes string
	// Token is the node's token file.
	Token string
}

// A Stack is an aggregator and an agent that run. Close ends both.
type Stack struct {
	// URL of the read API.
	URL string
	// Node is the name under which this machine reports.
	Node string
	// Metrics are where the two processes answer /metrics.
	AgentMetrics, AggregatorMetrics string

	cfg        Config
	dir        *workdir
	aggregator *child
	agent      *child
	rpc        apiv1connect.QueryServiceClient
	http       *http.Client
}

// A CrashError says that a child ended on its own.
type CrashError struct {
	// Name of the program.
	Name string
	// How it ended.
	How string
	// Tail are the last lines of its log.
	Tail []string
}

// Error is one line; the tail is for showing above it.
func (e *CrashError) Error() string {
	return fmt.Sprintf("%s %s while it was needed; the last lines of its log stand above", e.Name, e.How)
}

// pollEvery is how often a condition is looked at.
const pollEvery = 100 * time.Millisecond

// cluster is what this machine calls itself.
const cluster = "local"

// portTries is how often ports are chosen anew when another process was quicker
// to take one between our choice and its use.
const portTries = 3

// Start runs both processes and returns when the aggregator answers and the
// agent has been started. It leaves nothing behind when it fails.
func Start(ctx context.Context, cfg Config) (_ *Stack, err error) {
	if cfg.TempDir == "" {
		cfg.TempDir = os.TempDir()
	}
	if cfg.ReadyTimeout == 0 {
		cfg.ReadyTimeout = 30 * time.Second
	}
	if cfg.EvidenceTimeout == 0 {
		cfg.EvidenceTimeout = 60 * time.Second
	}
	if cfg.Credentials == nil {
		cfg.Credentials = ThrowAwayKeys
	}
	aggregatorPath, err := find(cfg.BinDir, "plumb-aggregator")
	if err != nil {
		return nil, err
	}
	agentPath, err := find(cfg.BinDir, "plumb-agent")
	if err != nil {
		return nil, err
	}

	cfg.Progress.Step("making throw-away keys")
	swept := sweep(cfg.TempDir)
	s := &Stack{Node: cfg.Node, cfg: cfg}
	// HTTP/1.1 without kept connections: the server may be restarted on its port.
	s.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if s.dir, err = newWorkdir(cfg.TempDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	creds, err := cfg.Credentials(s.dir.path, cfg.Node, newUID())
	if err != nil {
		return nil, fmt.Errorf("make throw-away keys: %w", err)
	}
	detail := "in " + s.dir.path
	if swept > 0 {
		detail += fmt.Sprintf("; removed what %d killed runs had left", swept)
	}
	cfg.Progress.Done(detail)

	cfg.Progress.Step("starting the aggregator")
	ingest, err := s.startAggregator(ctx, aggregatorPath, creds)
	if err != nil {
		return nil, err
	}
	cfg.Progress.Done(fmt.Sprintf("process %d, read API %s", s.aggregator.pid(), s.URL))

	cfg.Progress.Step("starting the agent")
	if err = s.startAgent(agentPath, "https://"+ingest, creds); err != nil {
		return nil, err
	}
	cfg.Progress.Done(fmt.Sprintf("process %d, metrics %s", s.agent.pid(), s.AgentMetrics))
	return s, nil
}

// find wants an executable file.
func find(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", fmt.Errorf("find %s: %w; build all binaries with make build, or name their directory with --bin-dir", name, err)
	case info.IsDir() || info.Mode()&0o111 == 0:
		return "", fmt.Errorf("find %s: %s cannot be executed; build all binaries with make build, or name their directory with --bin-dir", name, path)
	}
	return filepath.Abs(path)
}

// startAggregator returns the address of its ingest.
func (s *Stack) startAggregator(ctx context.Context, path string, creds Credentials) (string, error) {
	for try := 1; ; try++ {
		ports, err := freePorts(3)
		if err != nil {
			return "", err
		}
		s.URL = "http://" + ports[1]
		s.AggregatorMetrics = "http://" + ports[2] + "/metrics"
		s.rpc = apiv1connect.NewQueryServiceClient(s.http, s.URL)
		s.aggregator, err = startChild(s.dir.path, "plumb-aggregator", path, []string{
			"--listen-address=" + ports[0], "--api-address=" + ports[1], "--metrics-address=" + ports[2],
			"--nodes=" + creds.Nodes, "--tls-cert=" + creds.Cert, "--tls-key=" + creds.Key,
			"--data-dir=" + filepath.Join(s.dir.path, "data"), "--cluster=" + cluster,
		})
		if err != nil {
			return "", err
		}
		err = s.until(ctx, s.cfg.ReadyTimeout, func(ctx context.Context) (string, error) {
			_, err := s.rpc.ListNodes(ctx, connect.NewRequest(&apiv1.ListNodesRequest{}))
			if err != nil {
				return "its read API to answer", nil
			}
			return "", nil
		})
		var crash *CrashError
		if errors.As(err, &crash) && try < portTries && strings.Contains(strings.Join(crash.Tail, "\n"), "address already in use") {
			continue
		}
		return ports[0], err
	}
}

func (s *Stack) startAgent(path, aggregator string, creds Credentials) error {
	ports, err := freePorts(1)
	if err != nil {
		return err
	}
	s.AgentMetrics = "http://" + ports[0] + "/metrics"
	args := []string{
		"--aggregator=" + aggregator, "--aggregator-ca=" + creds.CA, "--token-file=" + creds.Token,
		"--node-name=" + s.cfg.Node, "--spool-dir=" + filepath.Join(s.dir.path, "spool"),
		"--listen-address=" + ports[0], "--log-level=info",
	}
	for _, t := range s.cfg.TimeServers {
		args = append(args, "--time-server="+t)
	}
	s.agent, err = startChild(s.dir.path, "plumb-agent", path, args)
	return err
}

// freePorts returns addresses of the loopback that were free a moment ago. All
// are held until the last is found, so that they differ.
func freePorts(n int) ([]string, error) {
	var out []string
	for range n {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port on the loopback: %w", err)
		}
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out, nil
}

// newUID is a random UUID (RFC 9562, version 4).
func newUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
