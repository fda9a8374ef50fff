// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"strings"
	"time"
)

// Result tells what the run came to. It is the timeline's last word.
func (t *Timeline) Result(at time.Time, r Result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.say(at, verdictOf(r)...)
	for _, e := range r.Expectations {
		sign, st := t.sign("✗", "failed"), bad
		switch {
		case e.Held:
			sign, st = t.sign("✓", "held"), good
		case r.undecided(e.Index):
			sign, st = t.sign("?", "open"), warning
		}
		t.more(sign, st, e.words())
	}
	for _, u := range r.Unexpected {
		t.more(t.sign("✗", "false"), bad, fmt.Sprintf("false alarm: %s %s %s (%s): %s", u.Grade, u.Signature, where(u.Scope), shortID(u.ID), sentence(u.Because)))
	}
	for _, f := range r.Failures {
		t.more(t.sign("✗", "failed"), bad, sentence(f))
	}
	if r.Error != "" {
		t.more(t.sign("✗", "failed"), bad, sentence(r.Error))
	}
	if u := usageOf(r); u.agents > 0 {
		t.more("cost", faint, fmt.Sprintf("agents %.1f %% of a core on average, %s at most; aggregator %.1f %%, %s",
			u.agentCPU, mebibytes(u.agentRSS), u.aggregatorCPU, mebibytes(u.aggregatorRSS)))
	}
}

// sign is a sign where the locale has it, else a word.
func (t *Timeline) sign(sign, word string) string {
	if t.p.term.Unicode {
		return sign + " " + word
	}
	return word
}

// verdictOf says a result in one sentence.
func verdictOf(r Result) []span {
	held := 0
	for _, e := range r.Expectations {
		if e.Held {
			held++
		}
	}
	var parts []string
	if n := len(r.Expectations); n > 0 {
		parts = append(parts, fmt.Sprintf("%d of %s held", held, plural(n, "expectation", "expectations")))
	}
	if n := len(r.Unexpected); n > 0 {
		parts = append(parts, plural(n, "false alarm", "false alarms"))
	} else {
		parts = append(parts, "no false alarm")
	}
	if n := len(r.Failures); n > 0 {
		parts = append(parts, plural(n, "failure", "failures")+" of the lab's processes")
	}
	switch {
	case r.Ended == endedTimeout:
		parts = append(parts, "--timeout ended the run")
	case r.Ended != endedComplete:
		parts = append(parts, "the run was "+r.Ended)
	}
	state := stateOf(r)
	word, text := string(state), sentence(strings.Join(parts, ", "))
	if state == Unmark {
		word = "pending, but it holds"
		text += " Take the mark \"pending: true\" away."
	}
	return []span{{"result: " + word + ":", state.style()}, {text, plain}}
}

func (r Result) undecided(index int) bool {
	for _, i := range r.Undecided {
		if i == index {
			return true
		}
	}
	return false
}

// words says an expectation and what became of it.
func (e Expectation) words() string {
	var b strings.Builder
	switch {
	case e.Refuted != "":
		b.WriteString(e.Refuted + " refuted")
	case e.Grade != "":
		b.WriteString(e.Signature + " " + e.Grade)
	default:
		b.WriteString(e.Signature)
	}
	if e.Within != "" {
		b.WriteString(" within " + e.Within)
	}
	if e.ClearsWithin != "" {
		b.WriteString(", cleared within " + e.ClearsWithin)
	}
	var what []string
	if e.AfterSeconds != nil {
		what = append(what, "after "+seconds(*e.AfterSeconds))
	}
	if e.ClearedAfterSeconds != nil {
		what = append(what, "cleared after "+seconds(*e.ClearedAfterSeconds))
	}
	if e.Because != "" {
		what = append(what, e.Because)
	}
	if len(what) > 0 {
		b.WriteString(": " + strings.Join(what, ", "))
	}
	return sentence(b.String())
}
