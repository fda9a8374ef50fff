// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// spinEvery is the beat of the spinner.
const spinEvery = 120 * time.Millisecond

// steps shows progress: a spinner with what is waited for on a terminal, plain
// lines elsewhere. Safe for concurrent use.
type steps struct {
	mu      sync.Mutex
	w       io.Writer
	term    Terminal
	what    string
	waiting string
	began   time.Time
	stop    chan struct{}
	idle    chan struct{}
}

func newSteps(w io.Writer, t Terminal, noColor bool) *steps {
	t.Colour = t.Colour && !noColor
	return &steps{w: w, term: t}
}

// Step begins a step.
func (s *steps) Step(what string) {
	s.interrupt()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.what, s.waiting, s.began = what, "", time.Now()
	if !s.term.Interactive {
		fmt.Fprintf(s.w, "plumb: %s\n", s.term.clean(what))
		return
	}
	s.stop, s.idle = make(chan struct{}), make(chan struct{})
	go s.spin(s.stop, s.idle)
}

// Waiting says what is waited for. Elsewhere than on a terminal it is one line
// per change.
func (s *steps) Waiting(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == what {
		return
	}
	s.waiting = what
	if !s.term.Interactive {
		fmt.Fprintf(s.w, "plumb: waiting for %s\n", s.term.clean(what))
	}
}

// Done ends the current step with what came of it.
func (s *steps) Done(detail string) { s.end("done", good, detail) }

// interrupt ends the current step, if any, without saying that it is done.
func (s *steps) interrupt() { s.end("", plain, "") }

func (s *steps) end(word string, st style, detail string) {
	s.mu.Lock()
	what, stop, idle := s.what, s.stop, s.idle
	s.what, s.stop, s.idle = "", nil, nil
	s.mu.Unlock()
	if stop != nil {
		close(stop)
		<-idle
	}
	if what == "" || word == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := printer{w: s.w, term: s.term}
	if s.term.Interactive {
		p.line(span{"✓ ", st}, text(what), span{": " + detail, faint})
		return
	}
	p.line(text("plumb: " + what + ": " + word + ": " + detail))
}

func (s *steps) spin(stop, idle chan struct{}) {
	defer close(idle)
	frames := []string{"|", "/", "-", `\`}
	if s.term.Unicode {
		frames = []string{"⠋", "⠙", "⠸", "⠴", "⠦", "⠇"}
	}
	tick := time.NewTicker(spinEvery)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-stop:
			s.mu.Lock()
			fmt.Fprint(s.w, "\r\x1b[K")
			s.mu.Unlock()
			return
		case <-tick.C:
		}
		s.mu.Lock()
		line := frames[i%len(frames)] + " " + s.what
		if s.waiting != "" {
			line += ": waiting for " + s.waiting
		}
		line += fmt.Sprintf(" (%.0f s)", time.Since(s.began).Seconds())
		if r := []rune(s.term.clean(line)); s.term.Width > 1 && len(r) >= s.term.Width {
			line = string(r[:s.term.Width-1]) // a second line could not be wiped
		}
		fmt.Fprint(s.w, "\r\x1b[K"+s.term.clean(line))
		s.mu.Unlock()
	}
}
