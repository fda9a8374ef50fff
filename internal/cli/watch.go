// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
)

type watchOptions struct {
	node string
	// all also shows refuted verdicts as they come.
	all bool
	// quiet leaves out what stands at the start; the caller has shown it.
	quiet bool
}

// Waits between attempts to connect again: doubled from the first to the last,
// each with up to half of jitter so that many watchers do not come at once.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// watch shows changes until ctx is done. That no first connection can be made is
// trouble; a connection that is lost later is said and made again.
func (a *app) watch(ctx context.Context, c *client, opts watchOptions) error {
	t := &timeline{app: a, p: a.printer(), opts: opts, last: make(map[string]string)}
	connected, lost, wait := false, false, firstRetry
	for {
		err := t.follow(ctx, c, func() {
			if lost {
				t.say("connected again", good)
			}
			connected, lost, wait = true, false, firstRetry
		})
		if ctx.Err() != nil {
			return context.Canceled
		}
		if t.p.err != nil {
			return t.p.err
		}
		err = c.explain(err)
		var refused *answerError
		if !connected || errors.As(err, &refused) {
			return err
		}
		if !lost {
			t.say("connection lost: "+err.Error()+"; trying again until it is back (Ctrl-C ends)", blind)
			lost = true
		}
		if !sleep(ctx, wait/2+rand.N(wait/2+1)) {
			return context.Canceled
		}
		wait = min(2*wait, lastRetry)
	}
}

// errEnded is what a stream that ends without an error means: the aggregator
// shuts down.
var errEnded = connect.NewError(connect.CodeUnavailable, errors.New("the aggregator ended the stream"))

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A timeline remembers what was shown of each verdict, so that only changes are
// shown, also across connections.
type timeline struct {
	app  *app
	p    *printer
	opts watchOptions
	// last is grade, state and stable sentence per verdict id.
	last   map[string]string
	synced bool
}

// follow reads one stream to its end. ready is called with its first message.
// The time limit holds until then only.
func (t *timeline) follow(ctx context.Context, c *client, ready func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(c.timeout, func() {
		cancel(connect.NewError(connect.CodeDeadlineExceeded, errors.New("no first message")))
	})
	defer limit.Stop()
	stream, err := c.rpc.WatchVerdicts(ctx, connect.NewRequest(&apiv1.WatchVerdictsRequest{Node: t.opts.node}))
	if err != nil {
		return cause(ctx, err)
	}
	defer stream.Close()
	first := true
	seen := make(map[string]bool)
	var initial []*apiv1.Verdict
	synced := false
	for stream.Receive() {
		if first {
			limit.Stop()
			first = false
			ready()
		}
		msg := stream.Msg()
		if v := msg.GetVerdict(); v != nil {
			seen[v.GetId()] = true
			if !synced && !t.synced && !t.app.json {
				initial = append(initial, v)
				t.last[v.GetId()] = fingerprint(v)
			} else {
				t.show(v)
			}
		}
		if msg.GetSynced() && !synced {
			synced = true
			t.sync(initial, seen)
		}
		if t.p.err != nil {
			return t.p.err
		}
	}
	if err := stream.Err(); err != nil {
		return cause(ctx, err)
	}
	return errEnded
}

// cause prefers why we gave up over the cancellation that it led to.
func cause(ctx context.Context, err error) error {
	var ce *connect.Error
	if c := context.Cause(ctx); errors.As(c, &ce) {
		return ce
	}
	return err
}

// sync ends the initial set: shows it the first time, and on a later connection
// says which verdicts the aggregator no longer knows.
func (t *timeline) sync(initial []*apiv1.Verdict, seen map[string]bool) {
	if t.app.json {
		t.synced = true
		return
	}
	if !t.synced {
		t.synced = true
		if t.opts.quiet {
			return
		}
		var standing []*apiv1.Verdict
		for _, v := range initial {
			if live(v) || t.opts.all {
				standing = append(standing, v)
			}
		}
		if len(standing) > 0 {
			t.p.verdicts(standing)
			t.p.blank()
		} else {
			t.p.line(span{"plumb: no verdict stands", good})
		}
		t.p.line(span{"watching for changes; Ctrl-C ends", faint})
		return
	}
	for id := range t.last {
		if !seen[id] {
			t.say("verdict "+shortID(id)+" is no longer known to the aggregator", faint)
			delete(t.last, id)
		}
	}
}

// fingerprint holds what makes a change worth a line. Sentences carry numbers
// that move all the time, so they are not in it.
func fingerprint(v *apiv1.Verdict) string {
	return fmt.Sprintf("%s %s %v %v %v", v.GetGrade(), v.GetState(), v.GetScope().GetNodes(), v.GetScope().GetZones(), v.GetOnset().AsTime())
}

// show prints one verdict if it changed.
func (t *timeline) show(v *apiv1.Verdict) {
	if t.app.json {
		if t.p.err == nil {
			t.p.err = writeJSONLine(t.app.Stdout, v)
		}
		return
	}
	before, now := t.last[v.GetId()], fingerprint(v)
	t.last[v.GetId()] = now
	if before == now || (before == "" && !live(v) && !t.opts.all) {
		return
	}
	word, st := v.GetGrade(), gradeStyle(v.GetGrade(), v.GetState())
	tail := sentence(v.GetSummary())
	switch v.GetState() {
	case "resolved":
		word = "resolved"
		if v.GetResolvedAt() != nil && v.GetOnset() != nil {
			tail = "It stood for " + duration(v.GetResolvedAt().AsTime().Sub(v.GetOnset().AsTime())) + "."
		}
	case "refuted":
		word, tail = "refuted", sentence(v.GetReason())
	case "stale":
		word, st = "stale", blind
		tail = "Was " + v.GetGrade() + ". " + sentence(v.GetReason())
	case "pending":
		word += ", pending"
	}
	const hang = 10
	t.p.para(text(t.p.clock(v.GetUpdatedAt())), hang,
		span{word, st}, text(" "+v.GetSignature()+" at "+where(v.GetScope())+": "), text(tail+" "), span{"(" + shortID(v.GetId()) + ")", faint})
}

// say prints a line of our own, stamped with the time. With --json it goes to
// standard error, so that every line of standard output stays an object.
func (t *timeline) say(s string, st style) {
	if t.app.json {
		fmt.Fprintf(t.app.Stderr, "plumb: %s\n", oneLine(s))
		return
	}
	t.p.para(span{t.app.Now().In(t.app.Location).Format("15:04:05"), plain}, 10, span{s, st})
}
