// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"fmt"
	"strings"

	"github.com/plumb-dev/plumb/agent/probe"
)

// Hooks implements probe.Hooked. Before Watch has run for a second, the signals
// that need the network are not confirmed yet.
func (p *Probe) Hooks() []probe.Hook {
	p.mu.Lock()
	defer p.mu.Unlock()
	return []probe.Hook{
		p.stepsHookLocked(),
		p.sourcesHookLocked("clock.sntp", false),
		p.sourcesHookLocked("clock.ptp", true),
		p.pairHookLocked(),
		p.adjtimexHookLocked(),
	}
}

func (p *Probe) stepsHookLocked() probe.Hook {
	h := probe.Hook{Signal: "clock.steps", Rung: p.stepsRung, Confirmed: true}
	if p.stepsErr != nil {
		h.Detail = fmt.Sprintf("%s; steps are looked for once a second", p.stepsErr)
	}
	return h
}

// sourcesHookLocked covers the servers, or the host's devices (local).
func (p *Probe) sourcesHookLocked(signal string, local bool) probe.Hook {
	h := probe.Hook{Signal: signal}
	var troubles []string
	total, answering := 0, 0
	for _, s := range p.sources {
		if s.local != local {
			continue
		}
		total++
		if s.last != nil {
			answering++
			h.Rung, h.Confirmed = s.last.rung, true
		} else if s.detail != "" {
			troubles = append(troubles, s.server.key()+": "+oneLine(s.detail))
		}
	}
	switch {
	case total == 0 && local:
		h.Detail = p.ptpDetail
		return h
	case total == 0:
		h.Detail = "no time server is configured: name at least two independent ones with --time-server"
		return h
	case h.Rung == "" && local:
		h.Rung = rungPTP
	case h.Rung == "":
		h.Rung = rungSNTP
	}
	if answering < total {
		h.Detail = fmt.Sprintf("%d of %d answer", answering, total)
		if len(troubles) > 0 {
			h.Detail += "; " + strings.Join(troubles, "; ")
		}
	}
	return h
}

func (p *Probe) pairHookLocked() probe.Hook {
	h := probe.Hook{Signal: "clock.pairwise"}
	_, known := p.pair.best(p.clock.Boottime())
	if none := p.pairLackLocked(known); none != nil {
		h.Detail = none.detail
	}
	if p.peer != nil {
		h.Rung, h.Confirmed = rungPairwise, known
	}
	return h
}

func (p *Probe) adjtimexHookLocked() probe.Hook {
	if p.adjustErr != nil {
		return probe.Hook{Signal: "clock.adjtimex", Detail: p.adjustErr.Error() + "; allow adjtimex in the agent's seccomp profile"}
	}
	return probe.Hook{Signal: "clock.adjtimex", Rung: rungAdjtimex, Confirmed: true}
}
