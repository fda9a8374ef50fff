// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A Process is a role that was started in a node.
type Process interface {
	// Send writes a line to its standard input.
	Send(line []byte) error
	// Stop ends its input, sends SIGTERM, waits, and kills it after the limit. It
	// returns how the process ended.
	Stop(limit time.Duration) error
	// Done is closed when it has ended.
	Done() <-chan struct{}
	// Output is the end of what it has written.
	Output() string
}

// A StartFunc starts a role with arguments in a node; onLine is called with each
// line of its standard output, in order.
type StartFunc func(args []string, onLine func(line []byte)) (Process, error)

// stopLimit is longer than all steps of a disk's end together.
const stopLimit = 30 * time.Second

// A Disk is a slow disk in a node, seen from the lab. It is safe for concurrent use.
type Disk struct {
	*remote

	record Record
}

// Start makes a disk and waits until its file system is mounted. start starts Role.
// The process lives until Stop, not until ctx ends.
func Start(ctx context.Context, cfg Config, start StartFunc) (*Disk, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	r, err := startRemote("disk "+cfg.Name, cfg.Args(), start)
	if err != nil {
		return nil, err
	}
	ready, err := r.next(ctx)
	if err == nil && ready.Ready == nil {
		err = fmt.Errorf("%s: it is not ready: %s", r.what, ready.Error)
	}
	if err != nil {
		return nil, errors.Join(err, r.Stop())
	}
	return &Disk{remote: r, record: *ready.Ready}, nil
}

// Record is what Cleanup of a later run needs to know of this disk.
func (d *Disk) Record() Record { return d.record }

// Set changes how slow the disk is, at once, also for requests that wait.
func (d *Disk) Set(ctx context.Context, s Settings) error {
	if err := s.validate(); err != nil {
		return fmt.Errorf("%s: %w", d.what, err)
	}
	line, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("%s: %w", d.what, err)
	}
	answer, err := d.ask(ctx, line)
	if err != nil {
		return err
	}
	if answer.Applied == nil || *answer.Applied != s {
		return fmt.Errorf("%s: settings %s were not applied: %s", d.what, line, answer.Error)
	}
	return nil
}

// Stats reads the disk's counters.
func (d *Disk) Stats(ctx context.Context) (Stats, error) {
	answer, err := d.ask(ctx, []byte(askStats))
	if err != nil {
		return Stats{}, err
	}
	if answer.Stats == nil {
		return Stats{}, fmt.Errorf("%s: it gave no counters: %s", d.what, answer.Error)
	}
	return *answer.Stats, nil
}

// A remote is a role that answers each line with one line.
type remote struct {
	what    string
	process Process
	answers chan event

	mu sync.Mutex
	// late are answers to questions that nobody waits for any more.
	late int
}

func startRemote(what string, args []string, start StartFunc) (*remote, error) {
	// Each question is asked after the answer before, so few are ever under way.
	r := &remote{what: what, answers: make(chan event, 64)}
	process, err := start(args, func(line []byte) {
		e, err := parseEvent(line)
		if err != nil {
			e = event{Error: err.Error()}
		}
		select {
		case r.answers <- e:
		default: // nobody has asked
		}
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", what, err)
	}
	r.process = process
	return r, nil
}

func (r *remote) next(ctx context.Context) (event, error) {
	select {
	case e := <-r.answers:
		return e, nil
	case <-ctx.Done():
		return event{}, fmt.Errorf("%s: wait for its answer: %w", r.what, ctx.Err())
	case <-r.process.Done():
		select {
		case e := <-r.answers:
			return e, nil
		default:
		}
		return event{}, fmt.Errorf("%s: it has ended: %s", r.what, r.process.Output())
	}
}

func (r *remote) ask(ctx context.Context, line []byte) (event, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.process.Send(line); err != nil {
		return event{}, fmt.Errorf("%s: %w", r.what, err)
	}
	r.late++
	for {
		e, err := r.next(ctx)
		if err != nil {
			return event{}, err
		}
		if r.late--; r.late == 0 {
			return e, nil
		}
	}
}

// Done is closed when the process has ended.
func (r *remote) Done() <-chan struct{} { return r.process.Done() }

// Stop ends the process in order and waits for it. It may be called more than once.
func (r *remote) Stop() error {
	if err := r.process.Stop(stopLimit); err != nil {
		return fmt.Errorf("stop %s: %w: %s", r.what, err, r.process.Output())
	}
	return nil
}
