// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/plumb-dev/plumb/aggregator/identity"
)

// A peer is what ingest remembers of one node: its rates, its stream and the
// directives that it has not answered.
type peer struct {
	name, uid string
	calls     *rate.Limiter
	bytes     *rate.Limiter
	slots     chan struct{} // one per call being served
	gate      chan struct{} // held by the batch that is being taken

	mu         sync.Mutex
	used       time.Time
	stream     *stream
	directives []*directive
}

// pay charges bytes that were received. A batch over the burst, or one for which
// the node has no credit at all, is refused; the last one taken may overdraw.
func (p *peer) pay(now time.Time, n int) bool {
	if !p.solvent(now) {
		return false
	}
	return p.bytes.ReserveN(now, n).OK()
}

func (p *peer) solvent(now time.Time) bool { return p.bytes.TokensAt(now) > 0 }

// peer returns the peer of a node, a fresh one when the node of that name was
// replaced by another.
func (s *Service) peer(node identity.Node) (*peer, error) {
	now := s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peers[node.Name]
	if p == nil || p.uid != node.UID {
		if p != nil {
			p.endStream()
		} else if len(s.peers) >= s.cfg.Limits.Nodes && !s.forget(now) {
			return nil, fmt.Errorf("admit node %s: %d nodes are connected, at most %d are served", node.Name, len(s.peers), s.cfg.Limits.Nodes)
		}
		p = &peer{
			name: node.Name, uid: node.UID,
			calls: rate.NewLimiter(rate.Limit(s.cfg.Limits.BatchesPerSecond), s.cfg.Limits.BatchBurst),
			bytes: rate.NewLimiter(rate.Limit(s.cfg.Limits.BytesPerSecond), s.cfg.Limits.BytesBurst),
			slots: make(chan struct{}, s.cfg.Limits.CallsAtOnce),
			gate:  make(chan struct{}, 1),
		}
		s.peers[node.Name] = p
	}
	p.mu.Lock()
	p.used = now
	p.mu.Unlock()
	return p, nil
}

// forget drops peers that have said nothing for an hour and says whether there
// is room now.
func (s *Service) forget(now time.Time) bool {
	for name, p := range s.peers {
		p.mu.Lock()
		idle := p.stream == nil && now.Sub(p.used) > time.Hour
		p.mu.Unlock()
		if idle {
			delete(s.peers, name)
		}
	}
	return len(s.peers) < s.cfg.Limits.Nodes
}

// quiet lets one line per key and minute through and counts the others.
type quiet struct {
	now func() time.Time

	mu   sync.Mutex
	keys map[string]*silence
}

type silence struct {
	since time.Time
	held  int
}

const (
	quietFor  = time.Minute
	quietKeys = 10_000
)

func newQuiet(now func() time.Time) *quiet { return &quiet{now: now, keys: map[string]*silence{}} }

// say returns whether to log, and how many lines were held back before.
func (q *quiet) say(key string) (held int, ok bool) {
	now := q.now()
	q.mu.Lock()
	defer q.mu.Unlock()
	k := q.keys[key]
	if k != nil && now.Sub(k.since) < quietFor {
		k.held++
		return 0, false
	}
	if k == nil {
		if len(q.keys) >= quietKeys {
			clear(q.keys)
		}
		k = &silence{}
		q.keys[key] = k
	}
	held, k.held, k.since = k.held, 0, now
	return held, true
}
