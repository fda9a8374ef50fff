// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
)

// A Report is what running the test cases of signatures came to.
type Report struct {
	Signatures int
	// Cases that the files hold, and cases that were generated from them by
	// taking away one item each.
	Cases, Generated int
	Failures         []Failure
}

// Passed says whether all cases passed.
func (r Report) Passed() bool { return len(r.Failures) == 0 }

// A Failure is one test case that did not come out as expected.
type Failure struct {
	File         string
	Line, Column int
	Signature    string
	Case         string
	// What was expected and what came instead, on one line.
	What string
}

// String is one line.
func (f Failure) String() string {
	return fmt.Sprintf("%s:%d:%d: %s: case %q: %s", f.File, f.Line, f.Column, f.Signature, f.Case, f.What)
}

// Test loads the signatures of a directory or one file and runs their test
// cases, with those that are generated from them. The error is about loading
// (of type Problems) or a directory without signatures; what failed is in the
// report.
func Test(name string, catalog *evidence.Catalog) (Report, error) {
	info, err := os.Stat(name)
	if err != nil {
		return Report{}, Problems{unreadable(name, err)}
	}
	var list []*Signature
	if info.IsDir() {
		list, err = LoadDir(name, catalog)
	} else {
		var s *Signature
		s, err = LoadFile(name, catalog)
		list = append(list, s)
	}
	if err != nil {
		return Report{}, err
	}
	if len(list) == 0 {
		return Report{}, fmt.Errorf("test signatures in %s: %w: name a directory that holds *.yaml", filepath.Clean(name), errNoSignatures)
	}
	return RunTests(list), nil
}

var errNoSignatures = errors.Join(fs.ErrNotExist, errors.New("no signature found"))

// RunTests runs the test cases of loaded signatures.
func RunTests(list []*Signature) Report {
	var r Report
	for _, s := range list {
		r.Signatures++
		for i := range s.tests {
			c := &s.tests[i]
			r.Cases++
			fail := func(name, what string) {
				r.Failures = append(r.Failures, Failure{File: s.Origin, Line: c.expect.node.Line, Column: c.expect.node.Column, Signature: s.ID, Case: name, What: oneLine(what)})
			}
			result, err := s.runCase(c)
			if err != nil {
				fail(c.name, err.Error())
				continue
			}
			for _, what := range c.expect.compare(result) {
				fail(c.name, what)
			}
			if result.Grade < Suspected {
				continue
			}
			for item := range s.items {
				r.Generated++
				for _, what := range s.unset(c, result, item) {
					fail(c.name+", without "+s.items[item].info.Name, what)
				}
			}
		}
	}
	return r
}

func (c *testCase) view(facts map[evidence.Subject]map[uint32]state.Fact) *state.View {
	return state.NewView(state.NodeInfo{Name: "node-a", UID: "uid-a", Zone: "zone-a"}, caseTime, facts)
}

// runCase weighs the subject that the case names, or the only one that the
// signature is weighed on.
func (s *Signature) runCase(c *testCase) (Result, error) {
	view := c.view(c.facts)
	subjects := s.Subjects(view)
	if c.chosen {
		return s.Weigh(view, c.subject), nil
	}
	switch len(subjects) {
	case 0:
		return s.Absence(view), nil
	case 1:
		return s.Weigh(view, subjects[0]), nil
	}
	return Result{}, fmt.Errorf("the signature is weighed on %d subjects of this case: name one under subject", len(subjects))
}

// compare returns what differs from the expectation.
func (e *expectation) compare(r Result) []string {
	var out []string
	differ := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if r.Grade != e.grade {
		differ("grade is %s (%.2f bans, %s), expected %s", r.Grade, r.Bans, r.Reason, e.grade)
	}
	if e.proofSet != "" && r.ProofSet != e.proofSet {
		differ("proof set is %q, expected %q", r.ProofSet, e.proofSet)
	}
	if e.bans != nil && math.Abs(r.Bans-*e.bans) > bansTolerance {
		differ("bans are %.3f, expected %.3f", r.Bans, *e.bans)
	}
	truths := map[string]Truth{}
	for i := range r.Clauses {
		truths[r.Clauses[i].ID] = r.Clauses[i].Truth
	}
	for i := range r.Refuters {
		truths[r.Refuters[i].ID] = r.Refuters[i].Truth
	}
	if e.refuted != "" && truths[e.refuted] != True {
		differ("refuter %s is %s, expected true", e.refuted, truths[e.refuted])
	}
	for _, id := range e.unknown {
		if truths[id] != TruthUnknown {
			differ("%s is %s, expected unknown", id, truths[id])
		}
	}
	sentences := r.sentences()
	for _, say := range e.says {
		if !strings.Contains(sentences, oneLine(say)) {
			differ("no sentence says %q; they say: %s", say, sentences)
		}
	}
	return out
}

func (r Result) sentences() string {
	all := []string{r.Summary, oneLine(r.Mitigation), r.Reason}
	for i := range r.Clauses {
		all = append(all, r.Clauses[i].Claim)
	}
	for i := range r.Refuters {
		all = append(all, r.Refuters[i].Because, r.Refuters[i].Exonerates)
	}
	return strings.Join(all, " | ")
}

// unset takes one item away from a case that fires and returns what then is
// not as it must be: what was read of it counts for nothing, is unknown and not
// false, and the grade does not rise; a proof that rests on it is none.
func (s *Signature) unset(c *testCase, before Result, item int) []string {
	facts := make(map[evidence.Subject]map[uint32]state.Fact, len(c.facts))
	for subject, items := range c.facts {
		facts[subject] = items
	}
	id := s.items[item].info.ID
	for subject, items := range c.facts {
		if subject.Kind != s.items[item].info.Subject {
			continue
		}
		rest := make(map[uint32]state.Fact, len(items))
		for i, f := range items {
			if i != id {
				rest[i] = f
			}
		}
		rest[id] = state.Fact{Reason: evidence.Blind, Detail: "taken away by the generated test"}
		facts[subject] = rest
	}
	after := s.Weigh(c.view(facts), before.Subject)

	var out []string
	differ := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if after.Grade > before.Grade || after.Grade == Refuted {
		differ("the grade went from %s to %s", before.Grade, after.Grade)
	}
	proofGone, blocked := false, false
	if before.Grade == Proven {
		for _, p := range s.proofs {
			proofGone = proofGone || p.name == before.ProofSet && p.sources == item
		}
	}
	for i := range s.clauses {
		x, was, is := s.clauses[i].expr, before.Clauses[i], after.Clauses[i]
		needed := was.Truth == True && x.whenTrue[item] || was.Truth == False && x.whenFalse[item]
		if !needed {
			continue
		}
		proofGone = proofGone || was.Decisive
		if is.Truth != TruthUnknown || is.Bans != 0 {
			differ("clause %s reads it and is %s with %.2f bans, not unknown with none", is.ID, is.Truth, is.Bans)
		}
	}
	for i := range s.refuters {
		x, was, is := s.refuters[i].expr, before.Refuters[i], after.Refuters[i]
		needed := was.Truth == True && x.whenTrue[item] || was.Truth == False && x.whenFalse[item]
		if needed && is.Truth != TruthUnknown {
			differ("refuter %s reads it and is %s, not unknown", is.ID, is.Truth)
		}
		blocked = blocked || is.Truth == TruthUnknown
	}
	if after.Grade == Proven && (blocked || proofGone && after.ProofSet == before.ProofSet) {
		differ("it is proven still, by %q", after.ProofSet)
	}
	return out
}
