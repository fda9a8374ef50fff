// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/agent/probe"
)

const name = "clock"

// Rungs beside those of the PTP devices.
const (
	rungSNTP     = "sntp/4"
	rungAdjtimex = "adjtimex"
	rungSteps    = "timerfd/cancel_on_set"
	rungPoll     = "poll/realtime-boottime"
	rungSuspend  = "boottime-monotonic"
	rungPairwise = "uplink/four-timestamps"
	rungPTP      = "ptp"
	rungBoth     = "sntp/4+ptp"
	rungNone     = ""
)

const (
	// freshness is how long a measurement counts: the ttl of the catalogue.
	freshness = 150 * time.Second
	// window is how long a step or a suspend is told.
	window = 5 * time.Minute
	// offsetLimit is the default limit of identity/clock-skew.
	offsetLimit = 500 * time.Millisecond
	// leastStep is the smallest step that makes measurements worthless and opens
	// clock.step; smaller ones are within any interval (minimumDispersion).
	leastStep = time.Millisecond
	// leastSuspend is far above what two readings of the clocks can be apart.
	leastSuspend = 100 * time.Millisecond
)

// Config is what a Probe needs.
type Config struct {
	// Clock is the node's.
	Clock *hostclock.Clock
	// Servers are asked for the time; see ParseServer and DiscoverServers. None is
	// legal: everything that needs them is unknown.
	Servers []Server
	// Peer reaches the aggregator; nil when there is no uplink.
	Peer Peer
	// PTPPath is where the kernel lists PTP devices, "/sys/class/ptp" when empty.
	PTPPath string
	// DevPath is where their device files are, "/dev" when empty.
	DevPath string
	// KernelBootID is /proc/sys/kernel/random/boot_id of this kernel; empty when it
	// could not be read.
	KernelBootID string
	// Dial opens the connections to the servers; nil means a plain net.Dialer.
	Dial DialFunc
	// Log may be nil.
	Log *slog.Logger
}

// A Probe measures the node's clock. Its methods are safe for concurrent use.
type Probe struct {
	clock        *hostclock.Clock
	kernelBootID string
	peer         Peer
	log          *slog.Logger
	pace         pace
	sources      []*source
	ptpDetail    string

	// kickVote and kickPair tell the loops that the clock was set.
	kickVote, kickPair chan struct{}

	mu      sync.Mutex
	running bool
	// generation counts what makes earlier measurements worthless: steps, suspends.
	generation uint64
	// genBoottime is when the present generation began; genStepped says that it
	// began with a step.
	genBoottime uint64
	genStepped  bool
	// cancelRound ends the exchanges that are under way.
	cancelRound context.CancelFunc
	vote        voteState
	drift       drift
	pair        pair
	history     history
	stepsErr    error
	adjustErr   error
	stepsRung   string
}

var (
	_ probe.Watcher = (*Probe)(nil)
	_ probe.Hooked  = (*Probe)(nil)
)

// New returns a probe that has measured nothing yet. It opens nothing that needs
// closing.
func New(cfg Config) (*Probe, error) {
	if cfg.Clock == nil {
		return nil, errors.New("set up the clock probe: no clock was given")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.PTPPath == "" {
		cfg.PTPPath = "/sys/class/ptp"
	}
	if cfg.DevPath == "" {
		cfg.DevPath = "/dev"
	}
	p := &Probe{
		clock:        cfg.Clock,
		kernelBootID: cfg.KernelBootID,
		peer:         cfg.Peer,
		log:          cfg.Log.With("component", "probe/"+name),
		pace:         defaultPace(),
		kickVote:     make(chan struct{}, 1),
		kickPair:     make(chan struct{}, 1),
		genBoottime:  cfg.Clock.Boottime(),
		stepsRung:    rungSteps,
	}
	seen := map[string]bool{}
	for _, s := range cfg.Servers {
		if s.Group == "" || s.Address == "" {
			return nil, fmt.Errorf("set up the clock probe: time server %+v lacks a group or an address", s)
		}
		if seen[s.key()] {
			continue
		}
		seen[s.key()] = true
		p.sources = append(p.sources, &source{
			server: s,
			client: &sntpClient{clock: cfg.Clock, dial: cfg.Dial, address: s.Address, timeout: p.pace.timeout},
		})
	}
	devices, refused, err := ptpDevices(cfg.PTPPath, cfg.DevPath)
	for _, d := range devices {
		p.sources = append(p.sources, &source{
			server: Server{Group: hostGroup, Address: d.path},
			client: &ptpClient{clock: cfg.Clock, reader: ioctlReader{}, device: d},
			local:  true,
		})
	}
	p.ptpDetail = ptpDetail(cfg.PTPPath, len(devices), refused, err)
	p.history.start(p.clock)
	p.stepsErr = p.clock.CheckSteps()
	_, p.adjustErr = p.clock.Adjust()
	if p.stepsErr != nil {
		p.stepsRung = rungPoll
	}
	return p, nil
}

func ptpDetail(path string, found int, refused []string, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case found > 0:
		return ""
	case len(refused) > 0:
		return fmt.Sprintf("only hardware clocks of network cards in %s, which may count TAI: %v", path, refused)
	default:
		return "no host clock in " + path + "; on KVM load ptp_kvm in the node's kernel"
	}
}

// Name implements probe.Probe.
func (p *Probe) Name() string { return name }

// MeasuredTime returns the offset of the node's clock, node minus true time, so
// that true time is Clock.Now() minus the offset, and the names of the sources
// that say so. ok is true only when at least two independent groups agree, they
// are a strict majority of those that answered, and the measurement is fresh. It
// does not depend on Sample; Watch must be running.
func (p *Probe) MeasuredTime() (offset time.Duration, sources []string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.vote.outcome
	age := time.Duration(p.clock.Boottime() - p.vote.boottime)
	if !p.vote.concluded || !out.majority || out.agreeing < 2 || age > freshness {
		return 0, nil, false
	}
	return out.span.middle(), append([]string(nil), out.agreeingSources...), true
}

// Watch implements probe.Watcher, and does all of the probe's network work: it
// asks the time servers and the aggregator, and watches for steps of the clock.
// It returns when ctx is done and everything that it started has ended. Only one
// call may run at a time.
func (p *Probe) Watch(ctx context.Context, wake func()) error {
	p.mu.Lock()
	if p.running {
		p.mu.Unlock()
		return errors.New("watch the clock: it is being watched already")
	}
	p.running = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.running = false
		p.mu.Unlock()
	}()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	loops := []func(context.Context, func()) error{p.watchSteps}
	if len(p.sources) > 0 {
		loops = append(loops, p.voteLoop)
	}
	if p.peer != nil {
		loops = append(loops, p.pairLoop)
	}
	errc := make(chan error, len(loops))
	for _, loop := range loops {
		go func() {
			defer cancel()
			errc <- guarded(func() error { return loop(ctx, wake) })
		}()
	}
	var errs []error
	for range loops {
		errs = append(errs, <-errc)
	}
	return errors.Join(errs...)
}

// guarded turns a panic into an error: it costs this probe's evidence and not
// the agent.
func guarded(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("watch the clock: panic: %v\n%s", v, debug.Stack())
		}
	}()
	return fn()
}

// watchSteps waits for steps by timerfd, or compares the clocks once a second
// where the kernel does not offer that.
func (p *Probe) watchSteps(ctx context.Context, wake func()) error {
	p.mu.Lock()
	rung := p.stepsRung
	p.mu.Unlock()
	if rung == rungSteps {
		err := p.clock.WatchSteps(ctx, func(s hostclock.Step) { p.noteStep(s, wake) })
		if ctx.Err() != nil {
			return nil
		}
		p.log.Warn("cannot be told of clock steps, polling instead", "error", err)
		p.mu.Lock()
		p.stepsErr, p.stepsRung = err, rungPoll
		p.mu.Unlock()
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := p.clock.Epoch()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			present := p.clock.Epoch()
			if step, ok := present.StepSince(last); ok && step.Size.Abs() >= leastStep {
				p.noteStep(step, wake)
			}
			last = present
		}
	}
}

// noteStep records a step; a real one makes everything measured before it
// worthless.
func (p *Probe) noteStep(s hostclock.Step, wake func()) {
	p.mu.Lock()
	p.history.step(s)
	p.drift.cut()
	matters := s.Size.Abs() >= leastStep
	if matters {
		p.renewLocked(s.Boottime, true)
	}
	p.mu.Unlock()
	p.log.Info("the clock was stepped", "seconds", s.Size.Seconds())
	if matters {
		wake()
	}
}

// renewLocked begins a new generation of measurements at once.
func (p *Probe) renewLocked(boottime uint64, stepped bool) {
	p.generation++
	p.genBoottime, p.genStepped = boottime, stepped
	p.vote.renew()
	p.drift.cut()
	p.pair.forget()
	if p.cancelRound != nil {
		p.cancelRound()
	}
	for _, kick := range []chan struct{}{p.kickVote, p.kickPair} {
		select {
		case kick <- struct{}{}:
		default:
		}
	}
}
