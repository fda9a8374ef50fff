// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/plumb-dev/plumb/agent/ledger"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// A batch is held to about 1 MiB: this much for observations, this much for
// episodes, and the rest for the state of probes and agent, which is bounded by
// the number of probes.
const (
	maxBatchObservations = 512 << 10
	maxBatchEpisodes     = 256 << 10
	// maxBatchEpisodeCount bounds their number; an aggregator takes 1,024.
	maxBatchEpisodeCount = 512
	// maxBatchResults bounds directive results; more follow in the next batch.
	maxBatchResults = 64
)

var (
	// errLocal marks failures before anything was sent.
	errLocal           = errors.New("nothing was sent")
	errNoToken         = errors.New("no usable token")
	errNotAcknowledged = errors.New("the aggregator did not acknowledge the batch")
)

// push sends everything that the endpoint does not have yet, in as many batches
// as it takes. It says whether another one is due at once: the endpoint asks for
// FULL in reply to a DELTA. (If it asks for it in reply to FULL, it gets it with
// the next interval, lest the two of them spin.) After an error the next batch
// is FULL.
func (e *endpoint) push(ctx context.Context, s *session) (again bool, err error) {
	snapshot, full := e.take()
	wanted := false
	defer func() { e.settle(snapshot.Version, full, wanted || err != nil) }()
	pages, oversized := paginate(snapshot.Observations, maxBatchObservations)
	if oversized > 0 {
		e.client.metrics.observationsDropped(oversized)
		e.log.Warn("dropped observations that are larger than a batch may be", "count", oversized, "limit_bytes", maxBatchObservations)
	}
	for page := 0; page < len(pages) || e.stream.wants(e.client.episodes.waiting(e.index)); page++ {
		b := &evidencev1.Batch{Kind: evidencev1.Batch_DELTA, Probes: snapshot.Probes}
		if page < len(pages) {
			b.Observations = pages[page]
		}
		if page == 0 {
			b.Removed = snapshot.Removed
			if full {
				b.Kind = evidencev1.Batch_FULL
				b.OpenEpisodeIds = snapshot.OpenEpisodeIDs
			}
		}
		sent := e.client.episodes.next(e.index, e.stream.limit, maxBatchEpisodes)
		if page >= len(pages) && len(sent) == 0 {
			break // only the disk has them and it does not answer
		}
		reply, err := e.send(ctx, s, b, sent)
		if err != nil {
			if connect.CodeOf(err) == connect.CodeInvalidArgument {
				e.stream.refused(len(sent))
			}
			return false, err
		}
		if e.stream.accepted(len(sent)) {
			e.dropFirst()
		}
		if wanted = reply.GetNeedFull(); wanted {
			return !full, nil
		}
	}
	return false, nil
}

// take fixes what is to be sent. It is under the client's lock so that no mark of
// a removed subject is forgotten between taking a snapshot and its being known.
func (e *endpoint) take() (ledger.Snapshot, bool) {
	c := e.client
	c.mu.Lock()
	defer c.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	full := e.needFull || time.Since(e.lastFull) >= c.cfg.FullInterval
	if !full {
		return c.cfg.Source.Since(e.acked), false
	}
	snapshot := c.cfg.Source.Full()
	e.acked, e.pinned = snapshot.Version, true
	return snapshot, true
}

// settle records how a push ended: with the endpoint at a version of the ledger,
// or in need of a FULL batch.
func (e *endpoint) settle(version uint64, full, needFull bool) {
	c := e.client
	c.mu.Lock()
	defer c.mu.Unlock()
	e.mu.Lock()
	e.pinned = false
	e.needFull = needFull
	if !needFull {
		e.acked = version
		if full {
			e.lastFull = time.Now()
		}
	}
	e.mu.Unlock()
	c.forgetLocked()
}

// remembers is the ledger version that this endpoint builds on, if it does.
func (e *endpoint) remembers() (uint64, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.acked, e.pinned || !e.needFull
}

// send sends one batch under the next sequence number and takes the reply over.
func (e *endpoint) send(ctx context.Context, s *session, b *evidencev1.Batch, sent []loaded) (*evidencev1.PushResponse, error) {
	c := e.client
	tok, err := c.token()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLocal, err)
	}
	for _, l := range sent {
		episode := &evidencev1.Episode{}
		if err := proto.Unmarshal(l.data, episode); err != nil {
			return nil, fmt.Errorf("%w: decode kept episode: %w", errLocal, err)
		}
		b.Episodes = append(b.Episodes, episode)
	}
	results := e.queuedResults()
	e.sequence++
	b.SchemaVersion = evidence.SchemaVersion
	b.NodeUid = tok.nodeUID
	b.BootId = c.cfg.BootID
	b.Sequence = e.sequence
	b.Agent = c.agentStatus(e, s)
	b.DirectiveResults = results
	e.mu.Lock()
	e.uid = tok.nodeUID
	e.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request := connect.NewRequest(&evidencev1.PushRequest{
		Batch:                   b,
		SentBoottimeNanoseconds: c.cfg.Clock.Boottime(),
		SentAt:                  timestamppb.New(c.cfg.Clock.Now()),
	})
	request.Header().Set("Authorization", "Bearer "+tok.value)
	c.metrics.sent(e.name, b.GetKind(), proto.Size(request.Msg))
	response, err := s.rpc.Push(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("push batch %d to %s: %w", b.GetSequence(), e.name, err)
	}
	reply := response.Msg
	if reply.GetAckedSequence() < b.GetSequence() {
		return nil, fmt.Errorf("push batch %d to %s: %w: it says %d", b.GetSequence(), e.name, errNotAcknowledged, reply.GetAckedSequence())
	}
	c.episodes.ack(e.index, sent)
	e.acknowledged(b, reply, results)
	for _, d := range reply.GetDirectives() {
		c.directives.deliver(e, d)
	}
	return reply, nil
}

// acknowledged takes over what a reply says.
func (e *endpoint) acknowledged(b *evidencev1.Batch, reply *evidencev1.PushResponse, results []*evidencev1.DirectiveResult) {
	e.mu.Lock()
	e.results = slices.DeleteFunc(e.results, func(r *evidencev1.DirectiveResult) bool { return slices.Contains(results, r) })
	e.status.LastAckBoottime = e.client.cfg.Clock.Boottime()
	e.status.AckedSequence = b.GetSequence()
	e.status.Zone = reply.GetZone()
	more := len(e.results) > 0
	e.mu.Unlock()
	if more {
		e.signal()
	}
	e.client.zone(reply.GetZone())
}

func (e *endpoint) queuedResults() []*evidencev1.DirectiveResult {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := min(len(e.results), maxBatchResults)
	return append([]*evidencev1.DirectiveResult(nil), e.results[:n]...)
}

// dropFirst gives up the oldest episode for this endpoint: it refuses every
// batch with it and takes those without.
func (e *endpoint) dropFirst() {
	first := e.client.episodes.next(e.index, 1, maxBatchEpisodes)
	e.client.episodes.refuse(e.index, first)
	for _, l := range first {
		episode := &evidencev1.Episode{}
		_ = proto.Unmarshal(l.data, episode) // only for the log line
		e.log.Error("dropped an episode that the aggregator refuses", "episode", episode.GetId(), "condition", episode.GetCondition())
	}
}

// paginate cuts observations into pages of at most max bytes, at least one page,
// and counts those that are too large for any.
func paginate(all []*evidencev1.Observation, max int) (pages [][]*evidencev1.Observation, oversized int) {
	var page []*evidencev1.Observation
	bytes := 0
	for _, o := range all {
		// The tag and length of a repeated field cost at most 6 bytes.
		size := proto.Size(o) + 6
		if size > max {
			oversized++
			continue
		}
		if bytes+size > max {
			pages = append(pages, page)
			page, bytes = nil, 0
		}
		page = append(page, o)
		bytes += size
	}
	return append(pages, page), oversized
}
