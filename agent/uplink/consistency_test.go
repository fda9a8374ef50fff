// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/ledger"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// A strictSource is a ledger that notices when it is asked for what it was told
// to forget.
type strictSource struct {
	*ledger.Ledger
	mu     sync.Mutex
	forgot uint64
	wrong  int
}

func (s *strictSource) Since(version uint64) ledger.Snapshot {
	s.mu.Lock()
	if version < s.forgot {
		s.wrong++
	}
	s.mu.Unlock()
	return s.Ledger.Since(version)
}

func (s *strictSource) Forget(version uint64) {
	s.mu.Lock()
	s.forgot = version
	s.mu.Unlock()
	s.Ledger.Forget(version)
}

// knows is what an aggregator that follows the contract knows after what it got.
func (s *testServer) knows() map[string]int64 {
	known := map[string]int64{}
	for _, r := range s.got() {
		b := r.GetBatch()
		if b.GetKind() == evidencev1.Batch_FULL {
			clear(known)
		}
		for _, gone := range b.GetRemoved() {
			delete(known, gone.GetKey())
		}
		for _, o := range b.GetObservations() {
			known[o.GetSubject().GetKey()] = o.GetItems()[0].GetInteger()
		}
	}
	return known
}

func TestReplicasThatFailNowAndThenEndUpKnowingTheSame(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := newServer(t, f.ca.issue(t, around(time.Now(), time.Hour)))
	source := &strictSource{Ledger: f.ledger}
	f.cfg.Endpoints = append(f.cfg.Endpoints, other.url())
	f.cfg.Source = source
	f.cfg.Interval, f.cfg.FullInterval, f.cfg.ReconnectSpread = 5*time.Millisecond, 200*time.Millisecond, 20*time.Millisecond
	for _, s := range []*testServer{f.server, other} {
		s.set(func() {
			s.answer = func(r *evidencev1.PushRequest) (*evidencev1.PushResponse, error, bool) {
				switch rand.N(12) {
				case 0:
					s.take(r, "")
					return nil, connect.NewError(connect.CodeUnavailable, errors.New("the acknowledgement got lost")), true
				case 1:
					return nil, connect.NewError(connect.CodeUnavailable, errors.New("nothing was taken")), true
				case 2:
					reply := s.take(r, "")
					reply.NeedFull = true
					return reply, nil, true
				}
				return nil, nil, false
			}
		})
	}
	c, _ := f.run(t)
	truth := map[string]int64{}
	for round := range 60 {
		var now []*evidencev1.Observation
		clear(truth)
		for i := range 20 {
			if rand.N(3) > 0 {
				key := fmt.Sprintf("device-%d", i)
				truth[key] = rand.Int64N(4)
				now = append(now, observation(key, truth[key]))
			}
		}
		f.ledger.Replace("link", now)
		if round == 30 {
			other.stop()
			other.start()
		}
		c.Wake()
		require.True(t, pause(t.Context(), 10*time.Millisecond))
	}
	for _, s := range []*testServer{f.server, other} {
		s.set(func() { s.answer = nil })
		c.Wake()
		testutils.Eventually(t, 10*time.Second, "the same knowledge", func() bool {
			return fmt.Sprint(s.knows()) == fmt.Sprint(truth)
		})
	}
	source.mu.Lock()
	defer source.mu.Unlock()
	require.Zero(t, source.wrong, "asked for changes since a version that it was told to forget")
	require.NotZero(t, source.forgot)
}

func TestADeadReplicaDoesNotMakeTheLedgerRememberForEver(t *testing.T) {
	f := newFixture(t)
	f.cfg.Endpoints = append(f.cfg.Endpoints, "https://127.0.0.1:1")
	source := &strictSource{Ledger: f.ledger}
	f.cfg.Source = source
	f.observe("eth0", 1500)
	c, _ := f.run(t)
	f.waitBatches(t, 1)
	f.ledger.Replace("link", nil)
	c.Wake()
	testutils.Eventually(t, 5*time.Second, "the removal to be forgotten", func() bool {
		source.mu.Lock()
		defer source.mu.Unlock()
		return source.forgot == 2
	})
}

func TestWhatChangesDuringAFullBatchIsRemembered(t *testing.T) {
	f := newFixture(t)
	f.cfg.Endpoints = append(f.cfg.Endpoints, "https://127.0.0.1:1")
	source := &strictSource{Ledger: f.ledger}
	f.cfg.Source = source
	c, err := New(f.cfg)
	require.NoError(t, err)
	defer c.close()
	f.observe("eth0", 1500)
	slow, quick := c.endpoints[0], c.endpoints[1]
	first, full := slow.take()
	require.True(t, full)
	f.ledger.Replace("link", nil)
	second, _ := quick.take()
	quick.settle(second.Version, true, false)
	require.LessOrEqual(t, source.forgot, first.Version)
	slow.settle(first.Version, true, false)
	delta, full := slow.take()
	require.False(t, full)
	require.Len(t, delta.Removed, 1)
}

func TestWakeUpsDoNotDefeatThePauseAfterARefusal(t *testing.T) {
	f := newFixture(t)
	c, err := New(f.cfg)
	require.NoError(t, err)
	defer c.close()
	s := &session{down: make(chan struct{})}
	c.Wake()
	began := time.Now()
	require.NoError(t, c.endpoints[0].idle(t.Context(), s, 3*minSpacing, false))
	require.GreaterOrEqual(t, time.Since(began), 3*minSpacing)
	require.NoError(t, c.endpoints[0].idle(t.Context(), s, time.Hour, true), "but the wake-up is not lost")
	close(s.down)
	require.ErrorIs(t, c.endpoints[0].idle(t.Context(), s, time.Hour, false), errConnectionLost)
}
