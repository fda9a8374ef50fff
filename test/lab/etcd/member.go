// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Ports of etcd: 2379 for clients, 2380 for the other members (IANA), and 2381 for
// metrics, which kubeadm sets (--listen-metrics-urls=http://127.0.0.1:2381).
const (
	ClientPort  = 2379
	PeerPort    = 2380
	MetricsPort = 2381
)

const (
	// requestLimit bounds one question to a member.
	requestLimit = 5 * time.Second

	// maxReply bounds what is read of an answer; the metrics are about 200 KiB.
	maxReply = 4 << 20
)

// A Process is a program that was started in a node.
type Process interface {
	// PID is the program's, as this process sees it; 0 when it has ended.
	PID() int
	// Kill is kill -9, and waits for the end.
	Kill()
	// Done is closed when it has ended.
	Done() <-chan struct{}
	// Output is the end of what it has written.
	Output() string
}

// A StartFunc starts a program in a node: args[0] is its path, env is added to the
// environment.
type StartFunc func(args, env []string) (Process, error)

// A DialFunc connects from inside of a node to a literal address.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// A Peer is a member as the others know it.
type Peer struct {
	Name    string
	Address netip.Addr
}

// A Config says which member to start.
type Config struct {
	// Program is the path of the etcd binary.
	Program string
	// Name is which of Peers this is.
	Name string
	// Peers are all members, this one among them: one, or an odd number of them.
	Peers []Peer
	// Token keeps clusters apart; unique to a run.
	Token string
	// DataDir is in the node, on the slow disk: /run/etcd/data. etcd makes it.
	DataDir string
}

// args are for little memory, and otherwise those of kubeadm where they bear on the
// disk: the WAL is synced on each commit.
func (c Config) args() ([]string, error) {
	var self netip.Addr
	var peers []string
	for _, p := range c.Peers {
		if !p.Address.IsValid() {
			return nil, fmt.Errorf("etcd %s: member %s has no address", c.Name, p.Name)
		}
		if p.Name == c.Name {
			self = p.Address
		}
		peers = append(peers, p.Name+"="+plainURL(p.Address, PeerPort))
	}
	if !self.IsValid() {
		return nil, fmt.Errorf("etcd %s: it is not among its own members", c.Name)
	}
	if !filepath.IsAbs(c.DataDir) || !filepath.IsAbs(c.Program) {
		return nil, fmt.Errorf("etcd %s: the program %q and the data directory %q must be absolute paths", c.Name, c.Program, c.DataDir)
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	return []string{
		c.Program,
		"--name", c.Name,
		"--data-dir", c.DataDir,
		"--listen-client-urls", plainURL(loopback, ClientPort) + "," + plainURL(self, ClientPort),
		"--advertise-client-urls", plainURL(self, ClientPort),
		"--listen-peer-urls", plainURL(self, PeerPort),
		"--initial-advertise-peer-urls", plainURL(self, PeerPort),
		"--initial-cluster", strings.Join(peers, ","),
		"--initial-cluster-state", "new",
		"--initial-cluster-token", c.Token,
		"--listen-metrics-urls", plainURL(loopback, MetricsPort),
		"--log-level", "warn",
		"--log-outputs", "stderr",
		"--quota-backend-bytes", strconv.Itoa(64 << 20),
		"--auto-compaction-mode", "revision",
		"--auto-compaction-retention", "1000",
		"--max-wals", "1",
		"--max-snapshots", "1",
	}, nil
}

func plainURL(address netip.Addr, port uint16) string {
	return "http://" + netip.AddrPortFrom(address, port).String()
}

// A Member is a running etcd. It is safe for concurrent use.
type Member struct {
	cfg     Config
	process Process
	client  *http.Client
}

// Start starts a member and does not wait: a member of several answers only when
// most of them run.
func Start(cfg Config, start StartFunc, dial DialFunc) (*Member, error) {
	args, err := cfg.args()
	if err != nil {
		return nil, err
	}
	process, err := start(args, []string{"GOMEMLIMIT=96MiB", "GOGC=50"})
	if err != nil {
		return nil, fmt.Errorf("start etcd %s: %w", cfg.Name, err)
	}
	return &Member{
		cfg: cfg, process: process,
		client: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: maxInFlight}},
	}, nil
}

// PID is etcd's process as the caller sees it, 0 when it has ended.
func (m *Member) PID() int { return m.process.PID() }

// WALDir is where the segments of its log are, in the node; their names are 37 bytes
// long: two numbers of 16 hexadecimal digits, a hyphen between them, and ".wal".
func (m *Member) WALDir() string { return filepath.Join(m.cfg.DataDir, "member", "wal") }

// WaitHealthy waits until the member says that its cluster has a leader and takes
// writes.
func (m *Member) WaitHealthy(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := m.Healthy(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-m.process.Done():
			return fmt.Errorf("etcd %s has ended: %s", m.cfg.Name, m.lastLine())
		case <-ctx.Done():
			return fmt.Errorf("wait for etcd %s: %w; at last: %w", m.cfg.Name, ctx.Err(), err)
		}
	}
}

// Healthy asks once.
func (m *Member) Healthy(ctx context.Context) error {
	body, err := m.get(ctx, "/health")
	if err != nil {
		return err
	}
	if !strings.Contains(string(body), `"health":"true"`) {
		return fmt.Errorf("etcd %s is not healthy: %s", m.cfg.Name, body)
	}
	return nil
}

// WALFsync reads etcd's own histogram of how long a sync of its log took
// (etcd_disk_wal_fsync_duration_seconds, around the call in etcd's wal.go).
func (m *Member) WALFsync(ctx context.Context) (Histogram, error) {
	body, err := m.get(ctx, "/metrics")
	if err != nil {
		return Histogram{}, err
	}
	h, err := parseHistogram(string(body), "etcd_disk_wal_fsync_duration_seconds")
	if err != nil {
		return Histogram{}, fmt.Errorf("read metrics of etcd %s: %w", m.cfg.Name, err)
	}
	return h, nil
}

// get asks the metrics endpoint, which answers without the cluster.
func (m *Member) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, plainURL(netip.AddrFrom4([4]byte{127, 0, 0, 1}), MetricsPort)+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask etcd %s: %w", m.cfg.Name, err)
	}
	return m.do(request)
}

func (m *Member) do(request *http.Request) ([]byte, error) {
	response, err := m.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask etcd %s: %w", m.cfg.Name, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return nil, fmt.Errorf("ask etcd %s: %w", m.cfg.Name, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("etcd %s answers %s: %.200s", m.cfg.Name, response.Status, body)
	}
	return body, nil
}

// lastLine is the end of what etcd wrote, where it says why it ended.
func (m *Member) lastLine() string {
	text := strings.TrimSpace(m.process.Output())
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// Kill is kill -9 of the member, and waits for its end: nobody needs the data, and an
// end in order would wait for a disk that is slow. It may be called more than once.
func (m *Member) Kill() {
	m.client.CloseIdleConnections()
	m.process.Kill()
}
