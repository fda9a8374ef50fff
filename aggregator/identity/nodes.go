// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Node is one node as the aggregator knows it; nothing of it comes from the
// node's own messages.
type Node struct {
	Name         string `json:"name" yaml:"name"`
	UID          string `json:"uid" yaml:"uid"`
	Zone         string `json:"zone,omitempty" yaml:"zone"`
	Pool         string `json:"pool,omitempty" yaml:"pool"`
	InstanceType string `json:"instanceType,omitempty" yaml:"instanceType"`
	Kernel       string `json:"kernel,omitempty" yaml:"kernel"`
	Image        string `json:"image,omitempty" yaml:"image"`
}

// MaxFileBytes bounds a nodes file; 5,000 nodes take about 1 MiB.
const MaxFileBytes = 8 << 20

// Config says where the nodes file is.
type Config struct {
	// Path of the nodes file.
	Path string
	// Now is the clock at which tokens are verified; nil means time.Now.
	Now func() time.Time
	// Log reports reloads; nil discards.
	Log *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

// Nodes authenticates tokens against a nodes file. It is safe for concurrent
// use.
type Nodes struct {
	cfg     Config
	reloads *prometheus.CounterVec

	mu   sync.RWMutex
	file *file
	from stamp
}

// stamp recognises a changed file. A file that is replaced by a rename changes
// its inode even if it keeps size and time.
type stamp struct {
	modified time.Time
	size     int64
	inode    uint64
}

// LoadNodes reads a nodes file.
func LoadNodes(path string) (*Nodes, error) { return New(Config{Path: path}) }

// New reads the nodes file that cfg names. Its errors are one line with the
// file, the line and what to mend.
func New(cfg Config) (*Nodes, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Log = cfg.Log.With("component", "identity")
	n := &Nodes{cfg: cfg, reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "plumb", Subsystem: "aggregator_identity", Name: "reloads_total",
		Help: "Times a changed nodes file was read, by result.",
	}, []string{"result"})}
	f, from, err := load(cfg.Path)
	if err != nil {
		return nil, err
	}
	n.file, n.from = f, from
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(n.reloads); err != nil {
			return nil, fmt.Errorf("register the metrics of identity: %w", err)
		}
	}
	return n, nil
}

func load(path string) (*file, stamp, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, stamp{}, fmt.Errorf("read nodes file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, stamp{}, fmt.Errorf("read nodes file: %w", err)
	}
	if st.IsDir() {
		return nil, stamp{}, fmt.Errorf("read nodes file %s: it is a directory", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFileBytes+1))
	if err != nil {
		return nil, stamp{}, fmt.Errorf("read nodes file: %w", err)
	}
	parsed, err := parse(data)
	if err != nil {
		return nil, stamp{}, fmt.Errorf("read nodes file %s: %w", path, err)
	}
	return parsed, stampOf(st), nil
}

// Reload reads the file again. After an error the nodes and the key stay as
// they were.
func (n *Nodes) Reload() error {
	f, from, err := load(n.cfg.Path)
	if err != nil {
		n.reloads.WithLabelValues("error").Inc()
		return fmt.Errorf("keep the earlier nodes: %w", err)
	}
	n.mu.Lock()
	n.file, n.from = f, from
	n.mu.Unlock()
	n.reloads.WithLabelValues("ok").Inc()
	n.cfg.Log.Info("read the nodes file", "file", n.cfg.Path, "nodes", len(f.nodes))
	return nil
}

// Run reloads the file whenever it has changed, looking every interval, until
// ctx ends. A file that cannot be read is reported once per change.
func (n *Nodes) Run(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	n.mu.RLock()
	seen := n.from
	n.mu.RUnlock()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var now stamp // zero while the file is missing
		if st, err := os.Stat(n.cfg.Path); err == nil {
			now = stampOf(st)
		}
		n.mu.RLock()
		current := n.from
		n.mu.RUnlock()
		if now == seen || now == current {
			seen = now
			continue
		}
		seen = now
		if err := n.Reload(); err != nil {
			n.cfg.Log.Error("cannot read the changed nodes file", "error", err)
		}
	}
}

// All returns the nodes, sorted by name.
func (n *Nodes) All() []Node {
	f := n.current()
	return append([]Node(nil), f.nodes...)
}

// Cluster is the name of the cluster that the file describes.
func (n *Nodes) Cluster() string { return n.current().cluster }

func (n *Nodes) current() *file {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.file
}

var errTooLarge = errors.New("larger than 8 MiB: is it a nodes file?")
