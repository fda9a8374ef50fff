// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/plumb-dev/plumb/test/lab/judge"
	"github.com/plumb-dev/plumb/test/lab/scenario"
)

const (
	// quiet is how long nothing happens before the timeline says what is waited
	// for.
	quiet = 2 * time.Second
	// quietPipe is the same where a line cannot be wiped.
	quietPipe = 15 * time.Second
	// hang is where the text of a line begins, behind its time.
	hang = 10
	// maxProofs bounds the proofs of one verdict that are shown.
	maxProofs = 6
)

// A Timeline tells people what happens, one line for each happening, with the
// time since the end of settle. Safe for concurrent use. Every method takes the
// moment at which it happened; the timeline reads no clock.
type Timeline struct {
	mu        sync.Mutex
	p         printer
	settleEnd time.Time
	// spoke is the moment of the last line.
	spoke     time.Time
	transient bool // an unfinished line stands on the terminal
	waiting   string
	healed    time.Time
	// argued are the signatures and grades whose argument was told in full: of the
	// next verdict of the same only its sentence is, for a cluster has many nodes.
	argued map[string]bool
}

// NewTimeline writes to w; began is when the lab was started.
func NewTimeline(w io.Writer, t Terminal, began time.Time) *Timeline {
	return &Timeline{p: printer{w: w, term: t}, spoke: began, argued: map[string]bool{}}
}

// Err is the first error of writing.
func (t *Timeline) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.p.err
}

// say prints one line with its time. The caller holds the lock.
func (t *Timeline) say(at time.Time, spans ...span) {
	t.wipe()
	clock := "setup"
	if !t.settleEnd.IsZero() {
		clock = fmt.Sprintf("%+.1fs", at.Sub(t.settleEnd).Seconds())
	}
	t.p.para(span{fmt.Sprintf("%*s", hang-2, clock), faint}, hang, spans...)
	if at.After(t.spoke) {
		t.spoke = at
	}
	t.waiting = ""
}

// more prints a line that belongs to the one before.
func (t *Timeline) more(label string, st style, text string) {
	const indent = 11
	t.p.para(span{strings.Repeat(" ", hang) + fmt.Sprintf("%-*s", indent-1, label), st}, hang+indent, span{text, plain})
}

func (t *Timeline) wipe() {
	if t.transient {
		t.p.write("\r\x1b[K")
		t.transient = false
	}
}

// Begin says which scenario runs.
func (t *Timeline) Begin(at time.Time, s *scenario.Scenario) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wipe()
	head := s.Name
	if s.Pending {
		head += " (pending)"
	}
	t.p.para(span{head + ":", strong}, width(head)+2, span{sentence(s.Description), plain})
	t.spoke = at
}

// Note tells anything that has no method of its own: a node is up, a child ended
// as it should.
func (t *Timeline) Note(at time.Time, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.say(at, span{text, plain})
}

// Fail tells what fails the run besides verdicts.
func (t *Timeline) Fail(at time.Time, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.say(at, span{"failed:", bad}, span{text, plain})
}

// Settling begins the healthy time; from now on times count from its end.
func (t *Timeline) Settling(at time.Time, settle time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settleEnd = at.Add(settle)
	t.say(at, span{fmt.Sprintf("settling for %s: nothing is wrong, so nothing may be said", settle), plain})
}

// Settled ends the healthy time when it really ended.
func (t *Timeline) Settled(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settleEnd = at
	t.say(at, span{"settled", plain})
}

// Injected tells a fault.
func (t *Timeline) Injected(at time.Time, index int, f scenario.Fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.say(at, span{fmt.Sprintf("fault %d:", index), warning}, span{FaultWords(f), strong})
}

// Affected tells the first stall or failure that an application saw of a fault.
func (t *Timeline) Affected(at time.Time, index int, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.say(at, span{"application:", notice}, span{what, plain}, span{fmt.Sprintf("(fault %d)", index), faint})
}

// Evidence tells the first evidence that arrived of a fault.
func (t *Timeline) Evidence(at time.Time, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.say(at, span{"evidence:", notice}, span{what, plain})
}

// Healed tells the end of a fault.
func (t *Timeline) Healed(at time.Time, index int, f scenario.Fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.healed = at
	t.say(at, span{fmt.Sprintf("fault %d", index), warning}, span{"is healed:", good}, span{string(f.Kind), plain})
}

// Change tells what became of a verdict.
func (t *Timeline) Change(c judge.Change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := c.Verdict
	name := v.Signature + " " + where(v.Scope)
	tell := func(word string, st style, text string) {
		if text == "" {
			t.say(c.At, span{word + ":", st}, span{name, strong}, span{"(" + shortID(v.ID) + ")", faint})
			return
		}
		t.say(c.At, span{word + ":", st}, span{name + ":", strong}, span{text, plain}, span{"(" + shortID(v.ID) + ")", faint})
	}
	switch c.Kind {
	case judge.Graded:
		tell(c.Grade, gradeStyle(c.Grade), "")
		t.verdict(c)
	case judge.Rivals:
		t.say(c.At, span{name, strong}, span{"rules out more causes", plain}, span{"(" + shortID(v.ID) + ")", faint})
		t.rivals(c.Rivals)
	case judge.Refuted:
		tell("refuted", good, sentence(v.Reason))
	case judge.Stale:
		tell("stale", warning, sentence(v.Reason))
	case judge.Resolved:
		after := ""
		if !t.healed.IsZero() && !c.At.Before(t.healed) {
			after = seconds(c.At.Sub(t.healed).Seconds()) + " after the fault was healed"
		}
		tell("cleared", good, after)
	case judge.Gone:
		tell("gone", faint, "aggregator "+c.Aggregator+" does not know it any more")
	}
}

// verdict argues a verdict whose grade rose.
func (t *Timeline) verdict(c judge.Change) {
	v := c.Verdict
	if v.Summary != "" {
		t.more("", plain, sentence(v.Summary))
	}
	kind := v.Signature + " " + c.Grade
	if t.argued[kind] {
		return
	}
	t.argued[kind] = true
	if c.Grade != judge.Proven {
		if v.Reason != "" {
			t.more("so far", faint, sentence(v.Reason))
		}
		t.rivals(c.Rivals)
		return
	}
	shown := 0
	decisive := false
	for _, p := range v.Proof {
		decisive = decisive || p.Decisive
	}
	for _, p := range v.Proof {
		if decisive && !p.Decisive {
			continue
		}
		if shown++; shown > maxProofs {
			continue
		}
		how := p.Kind
		if p.Rung != "" {
			how = strings.TrimPrefix(how+", by "+p.Rung, ", ")
		}
		t.more("proof", good, fmt.Sprintf("%s: %s (%s)", p.Node, strings.TrimSuffix(strings.TrimSpace(p.Claim), "."), how))
	}
	if shown > maxProofs {
		t.more("", plain, fmt.Sprintf("and %d more", shown-maxProofs))
	}
	t.rivals(c.Rivals)
	for i, line := range strings.Split(strings.TrimSpace(v.Mitigation), "\n") {
		label := ""
		if i == 0 {
			label = "to do"
		}
		if strings.TrimSpace(line) != "" {
			t.more(label, notice, line)
		}
	}
}

func (t *Timeline) rivals(list []judge.Refutation) {
	for _, r := range list {
		t.more("it is not", faint, r.Signature+": "+sentence(r.Because))
	}
}

func gradeStyle(grade string) style {
	switch grade {
	case judge.Proven:
		return bad
	case judge.Likely:
		return warning
	default:
		return notice
	}
}

// Progress says what is waited for when nothing was said for two seconds: on a
// terminal as a line that the next one wipes, elsewhere as a line of its own
// every 15 seconds at most. Call it a few times a second.
func (t *Timeline) Progress(now time.Time, waiting string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	since := now.Sub(t.spoke)
	switch {
	case since < quiet:
	case t.p.term.Interactive:
		clock := "setup"
		if !t.settleEnd.IsZero() {
			clock = fmt.Sprintf("%+.0fs", now.Sub(t.settleEnd).Seconds())
		}
		line := t.p.clean(fmt.Sprintf("%*s  waiting for %s", hang-2, clock, waiting))
		if r := []rune(line); t.p.term.Width > 1 && len(r) >= t.p.term.Width {
			line = string(r[:t.p.term.Width-1]) // a second line could not be wiped
		}
		t.p.write("\r\x1b[K" + t.p.paint(line, faint))
		t.transient = true
	case waiting != t.waiting || since >= quietPipe:
		t.say(now, span{"waiting for " + waiting, faint})
		t.waiting = waiting
	}
}
