// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"time"

	"connectrpc.com/connect"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

const (
	// minSpacing is the least time between two batches to one endpoint, so that a
	// burst of wake-ups becomes one batch. An aggregator takes five a second of a
	// node without end.
	minSpacing = 200 * time.Millisecond
	// callTimeout bounds Push and Time.
	callTimeout = 10 * time.Second
	// firstRetry is the ceiling of the first wait after a connection was lost;
	// each further one doubles it, up to ReconnectSpread. The wait is uniform
	// below its ceiling, so that the agents of a cluster, which lose a restarted
	// aggregator all at once, do not return all at once.
	firstRetry = time.Second
	// lastWords is how long a stopping agent tries to hand over what it has.
	lastWords = time.Second
)

// An endpoint is one replica of the aggregator and this agent's stream to it.
type endpoint struct {
	client *Client
	index  int
	name   string // host:port, for people
	url    string
	host   string
	port   string
	log    *slog.Logger
	wake   chan struct{}

	// The following belong to the sender goroutine.
	sequence uint64
	lastFull time.Time
	stream   quarantine

	mu sync.Mutex
	// needFull says that the next batch must be FULL; then acked means nothing.
	needFull bool
	// acked is the ledger version that this endpoint has. While a FULL batch is
	// on its way pinned is true, and what changes after it must be remembered.
	acked    uint64
	pinned   bool
	session  *session
	status   EndpointStatus
	results  []*evidencev1.DirectiveResult
	lastKind string // reason of the last logged failure
	uid      string // node uid of the last token
}

func newEndpoint(c *Client, index int, raw string) (*endpoint, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("parse endpoint: %w", err)
	}
	if u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || u.User != nil ||
		(u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("parse endpoint %q: it must be https://HOST:PORT", u.Redacted())
	}
	name := net.JoinHostPort(u.Hostname(), u.Port())
	e := &endpoint{
		client: c, index: index, name: name, url: "https://" + name, host: u.Hostname(), port: u.Port(),
		log: c.log.With("endpoint", name), wake: make(chan struct{}, 1), needFull: true,
	}
	e.stream.limit = unlimited
	e.status.Endpoint = name
	return e, nil
}

// run keeps a session up until ctx is done.
func (e *endpoint) run(ctx context.Context) {
	for attempt := 0; ctx.Err() == nil; attempt++ {
		s, err := e.connect(ctx)
		if err == nil {
			var acknowledged bool
			acknowledged, err = e.serve(ctx, s)
			if acknowledged {
				attempt = 0
			}
		}
		if ctx.Err() != nil {
			return
		}
		e.failed(err)
		if !pause(ctx, spread(attempt, e.client.cfg.ReconnectSpread)) {
			return
		}
	}
}

// spread is a random wait before the given attempt (from 0).
func spread(attempt int, most time.Duration) time.Duration {
	ceiling := firstRetry
	for range attempt {
		if ceiling *= 2; ceiling >= most {
			break
		}
	}
	return rand.N(min(ceiling, most)) + 1
}

// pause waits and says whether ctx is still not done.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

var errConnectionLost = errors.New("the connection was lost")

// serve pushes over one session until it is over and says whether any batch was
// acknowledged. Only ctx being done makes err nil.
func (e *endpoint) serve(ctx context.Context, s *session) (acknowledged bool, err error) {
	e.opened(s)
	watching, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { e.watch(watching, s) })
	defer func() {
		stop()
		e.closed()
		s.close()
		watcher.Wait()
	}()
	failures := 0
	for {
		again, err := e.push(ctx, s)
		wait := e.client.cfg.Interval
		switch {
		case ctx.Err() != nil:
			e.farewell(ctx, s)
			return acknowledged, nil
		case err == nil:
			acknowledged = true
			failures = 0
			e.recovered()
			if again {
				wait = minSpacing
			}
		case !connect.IsWireError(err) && !errors.Is(err, errLocal) || !s.alive():
			// The call may or may not have arrived and the path may be dead.
			return acknowledged, err
		default:
			e.failed(err)
			wait = spread(failures, e.client.cfg.ReconnectSpread)
			failures++
		}
		if err := e.idle(ctx, s, wait, err == nil); err != nil {
			return acknowledged, err
		}
		if ctx.Err() != nil {
			e.farewell(ctx, s)
			return acknowledged, nil
		}
	}
}

// idle waits until the next batch is due. Wake-ups count only if wakeable: they
// must not defeat the pause after a refusal.
func (e *endpoint) idle(ctx context.Context, s *session, wait time.Duration, wakeable bool) error {
	began := time.Now()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	wake := e.wake
	if !wakeable {
		wake = nil
	}
	select {
	case <-ctx.Done():
	case <-s.down:
		return errConnectionLost
	case <-timer.C:
	case <-wake:
		pause(ctx, minSpacing-time.Since(began))
	}
	return nil
}

// farewell hands over the episodes that still wait when the agent stops.
func (e *endpoint) farewell(ctx context.Context, s *session) {
	if !s.alive() || e.client.episodes.waiting(e.index) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	if _, err := e.push(ctx, s); err != nil {
		e.failed(err)
	}
}

// signal makes a batch due now.
func (e *endpoint) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// opened takes a new session into use. Its first batch is FULL.
func (e *endpoint) opened(s *session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.status.TLSTime
	e.session = s
	e.needFull = true
	e.status.Connected = true
	e.status.TLSTime = s.tls
	if s.tls.GetSource() != before.GetSource() {
		level := slog.LevelInfo
		if s.tls.GetSource() != evidencev1.TLSTime_NODE_CLOCK {
			level = slog.LevelWarn
		}
		e.log.Log(context.Background(), level, "time at which the aggregator's certificate is verified changed",
			"source", s.tls.GetSource().String(), "correction_seconds", s.tls.GetCorrectionSeconds(), "detail", s.tls.GetDetail())
	}
	e.client.metrics.tlsTime(e.name, s.tls)
}

func (e *endpoint) closed() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.session = nil
	e.needFull = true
	e.status.Connected = false
}

func (e *endpoint) setDNS(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if (err != nil) != e.status.DNSFailed {
		if err != nil {
			e.log.Warn("name lookup failed; using the last good addresses", "error", err)
		} else {
			e.log.Info("name lookup works again")
		}
	}
	e.status.DNSFailed = err != nil
}

// failed counts a failure and logs it when it is not the one logged last.
func (e *endpoint) failed(err error) {
	reason := reasonOf(err)
	t, _ := readToken(e.client.cfg.TokenFile)
	text := redact(err.Error(), t)
	e.client.metrics.failed(e.name, reason)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status.LastError = text
	e.status.LastErrorReason = reason
	if reason == e.lastKind {
		return
	}
	e.lastKind = reason
	switch reason {
	case "unauthenticated", "permission_denied":
		e.log.Error("aggregator refuses this node", "reason", reason, "error", text, "node_uid", e.uid, "token_file", e.client.cfg.TokenFile)
	default:
		e.log.Warn("uplink fails", "reason", reason, "error", text)
	}
}

func (e *endpoint) recovered() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lastKind != "" {
		e.log.Info("uplink works again", "after", e.lastKind)
	}
	e.lastKind = ""
	e.status.LastError, e.status.LastErrorReason = "", ""
}

// reasonOf classifies a failure into one of a closed list, for the counter.
func reasonOf(err error) string {
	var f *connectFailure
	switch {
	case errors.As(err, &f):
		return f.step
	case errors.Is(err, errNoToken):
		return "token"
	case errors.Is(err, errNotAcknowledged):
		return "not_acknowledged"
	case errors.Is(err, errConnectionLost):
		return "connection_lost"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	switch connect.CodeOf(err) {
	case connect.CodeUnauthenticated:
		return "unauthenticated"
	case connect.CodePermissionDenied:
		return "permission_denied"
	case connect.CodeResourceExhausted:
		return "resource_exhausted"
	case connect.CodeInvalidArgument:
		return "invalid"
	case connect.CodeDeadlineExceeded:
		return "timeout"
	case connect.CodeUnavailable:
		return "unavailable"
	}
	return "other"
}
