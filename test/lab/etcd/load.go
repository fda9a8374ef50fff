// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxInFlight bounds the puts under way: an application does not wait for an
	// answer before it has the next thing to write, but it does not pile up forever.
	maxInFlight = 8

	// keepPuts is how many of the last puts are kept for quantiles.
	keepPuts = 8192

	// loadKeys are written in turn, so that the database does not grow.
	loadKeys = 16
)

// A LoadConfig says what the application that uses etcd does.
type LoadConfig struct {
	// Every is the time between the beginnings of two puts, at least 1 ms. 0 is 50 ms.
	Every time.Duration
	// ValueBytes is the size of a value; 0 is 256.
	ValueBytes int
	// Timeout fails a put; 0 is 7 s, after which etcd gives up itself (ReqTimeout of
	// its server's configuration: 5 s and two election timeouts).
	Timeout time.Duration
	// Stall is how long a put takes that the application feels; 0 is 100 ms, from
	// which on etcd warns of it (DefaultWarningApplyDuration).
	Stall time.Duration
	// OnPut is called with each put as it ends, from several goroutines; nil: none.
	OnPut func(Put)
}

// A Put is one write as the application saw it.
type Put struct {
	Began time.Time
	Took  time.Duration
	// Err is nil when etcd has answered that it is committed.
	Err error
}

// A LoadReport is what the application saw in a time.
type LoadReport struct {
	// Count is all puts that ended, Errors those that failed, Stalls those that took
	// longer than the limit, the failed among them or not; Skipped those that were not
	// begun because too many were under way.
	Count, Errors, Stalls, Skipped int
	Max, P50, P99                  time.Duration
}

// A Load writes steadily until Stop. It is safe for concurrent use.
type Load struct {
	cfg    LoadConfig
	member *Member
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	puts    []Put // a ring once it is full
	oldest  int
	skipped []time.Time
}

// StartLoad begins to write to a member, from inside of its node.
func (m *Member) StartLoad(cfg LoadConfig) *Load {
	if cfg.Every == 0 {
		cfg.Every = 50 * time.Millisecond
	}
	if cfg.ValueBytes == 0 {
		cfg.ValueBytes = 256
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 7 * time.Second
	}
	if cfg.Stall == 0 {
		cfg.Stall = 100 * time.Millisecond
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{cfg: cfg, member: m, cancel: cancel}
	l.done.Go(func() { l.run(ctx) })
	return l
}

func (l *Load) run(ctx context.Context) {
	tick := time.NewTicker(max(l.cfg.Every, time.Millisecond))
	defer tick.Stop()
	slots := make(chan struct{}, maxInFlight)
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case slots <- struct{}{}:
			l.done.Go(func() {
				defer func() { <-slots }()
				began := time.Now()
				err := l.member.put(ctx, l.cfg.Timeout, fmt.Sprintf("lab/%02d", n%loadKeys), strings.Repeat("v", l.cfg.ValueBytes))
				if ctx.Err() == nil {
					l.record(Put{Began: began, Took: time.Since(began), Err: err})
				}
			})
		default:
			l.mu.Lock()
			if len(l.skipped) == keepPuts {
				l.skipped = l.skipped[1:]
			}
			l.skipped = append(l.skipped, time.Now())
			l.mu.Unlock()
		}
	}
}

func (l *Load) record(p Put) {
	l.mu.Lock()
	if len(l.puts) < keepPuts {
		l.puts = append(l.puts, p)
	} else {
		l.puts[l.oldest] = p
		l.oldest = (l.oldest + 1) % keepPuts
	}
	l.mu.Unlock()
	if l.cfg.OnPut != nil {
		l.cfg.OnPut(p)
	}
}

// Report is about the puts that began at or after a time, among the last 8192.
func (l *Load) Report(since time.Time) LoadReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	var r LoadReport
	var took []time.Duration
	for _, p := range l.puts {
		if p.Began.Before(since) {
			continue
		}
		took = append(took, p.Took)
		if p.Err != nil {
			r.Errors++
		}
		if p.Took > l.cfg.Stall {
			r.Stalls++
		}
	}
	for _, at := range l.skipped {
		if !at.Before(since) {
			r.Skipped++
		}
	}
	if r.Count = len(took); r.Count == 0 {
		return r
	}
	slices.Sort(took)
	r.Max, r.P50, r.P99 = took[len(took)-1], took[len(took)/2], took[len(took)*99/100]
	return r
}

// Stop ends the load and waits for the puts under way, which it breaks off.
func (l *Load) Stop() {
	l.cancel()
	l.done.Wait()
	l.member.client.CloseIdleConnections()
}

// put writes through the gRPC gateway (etcd's "gRPC gateway" page): keys and values
// are base64, which is how encoding/json writes bytes.
func (m *Member) put(ctx context.Context, limit time.Duration, key, value string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	body, err := json.Marshal(map[string][]byte{"key": []byte(key), "value": []byte(value)})
	if err != nil {
		return fmt.Errorf("put to etcd %s: %w", m.cfg.Name, err)
	}
	url := plainURL(netip.AddrFrom4([4]byte{127, 0, 0, 1}), ClientPort) + "/v3/kv/put"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("put to etcd %s: %w", m.cfg.Name, err)
	}
	_, err = m.do(request)
	return err
}
