// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// ErrFull means that a batch was refused because the evidence in it would not
// fit the limits; the node's earlier evidence stays and turns stale.
var ErrFull = errors.New("evidence does not fit")

// Config holds what a State needs.
type Config struct {
	Catalog *evidence.Catalog
	// Now is the aggregator's clock. Default time.Now.
	Now func() time.Time
	// Interval at which agents send. Default 10 s.
	Interval time.Duration
	// MaxSubjects bounds the subjects of one node. Default 20,000: a node with
	// 110 pods has 222 devices.
	MaxSubjects int
	// MaxBytes bounds the evidence of all nodes, by an estimate. Default 1 GiB:
	// 5,000 nodes with 222 devices each hold about 600 MiB, with 20 each 60 MiB.
	MaxBytes int64
	// MaxNodes bounds the nodes. Default 10,000, twice what Kubernetes documents.
	MaxNodes int
	Log      *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

// A State holds the newest evidence and the open episodes of every node. Safe
// for concurrent use.
type State struct {
	cfg     Config
	rules   *rules
	metrics *metrics
	changed chan string

	mu     sync.RWMutex
	nodes  map[string]*node
	byUID  map[string]*node
	memory memory
}

// New returns an empty state.
func New(cfg Config) *State {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Interval <= 0 {
		cfg.Interval = 10 * time.Second
	}
	if cfg.MaxSubjects <= 0 {
		cfg.MaxSubjects = 20_000
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 1 << 30
	}
	if cfg.MaxNodes <= 0 {
		cfg.MaxNodes = 10_000
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Catalog == nil {
		cfg.Catalog = evidence.NewCatalog()
	}
	s := &State{
		cfg:   cfg,
		rules: newRules(cfg.Catalog, cfg.Interval),
		// Twice the nodes: a name is sent again only after somebody took a view.
		changed: make(chan string, 2*cfg.MaxNodes),
		nodes:   map[string]*node{},
		byUID:   map[string]*node{},
		memory:  memory{limit: cfg.MaxBytes},
	}
	s.metrics = newMetrics(cfg.Registerer, s)
	return s
}

// Changed gives the names of nodes whose evidence changed. Names are coalesced:
// one that has been sent is not sent again before a view of it was taken. It is
// a hint to look soon; View.Generation is what tells whether anything changed.
func (s *State) Changed() <-chan string { return s.changed }

func (s *State) notify(n *node) {
	if n.queued {
		return
	}
	select {
	case s.changed <- n.info.Name:
		n.queued = true
	default:
		s.metrics.missedWakeups.Inc()
	}
}

// Know makes nodes known before their first batch, so that one that never
// reports is shown as such.
func (s *State) Know(nodes ...NodeInfo) error {
	for _, info := range nodes {
		if _, err := s.node(info); err != nil {
			return err
		}
	}
	return nil
}

// node returns the node of that name and uid. A node of the same name but
// another uid is another machine: what was known of the old one is dropped.
func (s *State) node(info NodeInfo) (*node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.nodes[info.Name]; ok {
		if n.uid == info.UID {
			return n, nil
		}
		s.cfg.Log.Warn("node was replaced by another of the same name; its evidence is dropped",
			"replaced_node", info.Name, "old_uid", n.uid, "new_uid", info.UID)
		delete(s.byUID, n.uid)
		delete(s.nodes, info.Name)
		n.mu.Lock()
		n.gone = true
		s.memory.release(n.held)
		n.mu.Unlock()
	}
	if len(s.nodes) >= s.cfg.MaxNodes {
		return nil, fmt.Errorf("take evidence of node %q: %w: %d nodes are known, which is the limit; raise MaxNodes", info.Name, ErrFull, len(s.nodes))
	}
	n := &node{uid: info.UID, info: info, episodes: newEpisodes()}
	n.snapshot = &snapshot{rules: s.rules}
	n.snapshot.index()
	s.nodes[info.Name] = n
	s.byUID[info.UID] = n
	return n, nil
}

func (s *State) find(name string) (*node, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n, ok := s.nodes[name]
	return n, ok
}

// Seen says up to which sequence a run of an agent is acknowledged and whether
// a batch is one that needs no work: it was seen before, or its run has been
// succeeded by another.
func (s *State) Seen(nodeUID, bootID string, sequence uint64) (acked uint64, duplicate bool) {
	s.mu.RLock()
	n, ok := s.byUID[nodeUID]
	s.mu.RUnlock()
	if !ok {
		return 0, false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.succeeded(bootID) {
		return sequence, true
	}
	if bootID != n.bootID {
		return 0, false
	}
	return n.sequence, sequence <= n.sequence
}

// View freezes the evidence of a node at this moment. It costs no copy.
func (s *State) View(name string) (*View, bool) {
	n, ok := s.find(name)
	if !ok {
		return nil, false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.queued = false
	return &View{Node: n.info, At: s.cfg.Now(), snapshot: n.snapshot}, true
}

// A NodeStatus is what the aggregator knows of an agent.
type NodeStatus struct {
	NodeInfo
	// State is "reporting", "silent" (three intervals without a batch) or "never".
	State       string
	LastBatchAt time.Time
	BootID      string
	Batches     uint64
	// NeedFull is set while the evidence is older than the agent's batches.
	NeedFull bool
	// Agent is what the agent last said of itself; nil when it never did. It is
	// shared and must not be changed.
	Agent *evidencev1.AgentStatus
	// Probes are sorted by name; one whose word does not hold any more is marked.
	Probes []ProbeState
	// StaleProbes names the probes whose last sample is too old.
	StaleProbes map[string]bool
}

// States of a node.
const (
	NodeReporting = "reporting"
	NodeSilent    = "silent"
	NodeNever     = "never"
)

// Nodes returns the status of every node, sorted by name.
func (s *State) Nodes() []NodeStatus {
	s.mu.RLock()
	nodes := make([]*node, 0, len(s.nodes))
	for _, n := range s.nodes {
		nodes = append(nodes, n)
	}
	s.mu.RUnlock()
	now := s.cfg.Now()
	out := make([]NodeStatus, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, n.status(now))
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// NodeStatus returns the status of one node.
func (s *State) NodeStatus(name string) (NodeStatus, bool) {
	n, ok := s.find(name)
	if !ok {
		return NodeStatus{}, false
	}
	return n.status(s.cfg.Now()), true
}

// Names returns the names of all nodes, sorted.
func (s *State) Names() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]string, 0, len(s.nodes))
	for name := range s.nodes {
		out = append(out, name)
	}
	sort.Strings(out)
	return out
}

// memory counts what the snapshots hold.
type memory struct {
	mu    sync.Mutex
	held  int64
	limit int64
}

// swap replaces a node's share, or refuses.
func (m *memory) swap(old, next int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if next > old && m.held-old+next > m.limit {
		return false
	}
	m.held += next - old
	return true
}

func (m *memory) release(n int64) {
	m.mu.Lock()
	m.held -= n
	m.mu.Unlock()
}

func (m *memory) total() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held
}
