// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package check answers "what can this agent see on this machine?": for every
// probe and hook which rung is active, or precisely why not. It is what
// plumb-agent --check prints.
package check

import (
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"
	"text/tabwriter"

	"github.com/plumb-dev/plumb/agent/ledger"
	"github.com/plumb-dev/plumb/agent/probe"
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// A Report is the answer for one machine. Its JSON form is stable.
type Report struct {
	Version      string        `json:"version"`
	Kernel       string        `json:"kernel"`
	Architecture string        `json:"architecture"`
	User         int           `json:"uid"`
	Capabilities []Capability  `json:"capabilities"`
	Probes       []ProbeReport `json:"probes"`
	Signals      []Signal      `json:"signals"`
	// Blind counts the signals that have no active rung.
	Blind int `json:"blind"`
}

// A Capability is one that the agent uses, with what it is for.
type Capability struct {
	Name string `json:"name"`
	Held bool   `json:"held"`
	For  string `json:"for"`
}

// A Signal is one hook ladder.
type Signal struct {
	Signal string `json:"signal"`
	// Active is true when the rung was confirmed.
	Active bool   `json:"active"`
	Rung   string `json:"rung"`
	// Why says why no rung, or no better one, is active.
	Why string `json:"why,omitempty"`
}

// A ProbeReport is the outcome of one sample of one probe.
type ProbeReport struct {
	Name  string `json:"name"`
	State string `json:"state"`
	// Why is empty when State is ok.
	Why           string `json:"why,omitempty"`
	Subjects      int    `json:"subjects"`
	Values        int    `json:"values"`
	NotApplicable int    `json:"notApplicable"`
	// Unknown lists what could not be measured, one row per reason.
	Unknown []Unknown `json:"unknown,omitempty"`
}

// Unknown is a set of items that are unknown for one reason.
type Unknown struct {
	Reason string   `json:"reason"`
	Detail string   `json:"detail"`
	Items  []string `json:"items"`
	// Subjects is how many subjects it concerns.
	Subjects int `json:"subjects"`
}

// Fill completes a report with what the ledger and the hooks say.
func (r *Report) Fill(s ledger.Snapshot, hooks []probe.Hook, catalog *evidence.Catalog) {
	for _, h := range hooks {
		signal := Signal{Signal: h.Signal, Active: h.Confirmed && h.Rung != "", Rung: h.Rung, Why: h.Detail}
		if !signal.Active {
			r.Blind++
		}
		r.Signals = append(r.Signals, signal)
	}
	for _, p := range s.Probes {
		r.Probes = append(r.Probes, probeReport(p, s.Observations, catalog))
	}
}

func probeReport(p *evidencev1.ProbeStatus, observations []*evidencev1.Observation, catalog *evidence.Catalog) ProbeReport {
	out := ProbeReport{Name: p.GetName(), State: stateName(p.GetState()), Why: p.GetDetail()}
	type why struct{ reason, detail string }
	items := map[why]map[string]bool{}
	subjects := map[why]map[string]bool{}
	for _, o := range observations {
		if o.GetProbe() != p.GetName() {
			continue
		}
		out.Subjects++
		for _, it := range o.GetItems() {
			switch {
			case it.GetNotApplicable() != nil:
				out.NotApplicable++
			case it.GetUnknown() != nil:
				k := why{strings.ToLower(strings.ReplaceAll(it.GetUnknown().GetReason().String(), "_", " ")), it.GetUnknown().GetDetail()}
				if items[k] == nil {
					items[k], subjects[k] = map[string]bool{}, map[string]bool{}
				}
				info, _ := catalog.ByID(it.GetId())
				items[k][info.Name] = true
				subjects[k][o.GetSubject().GetKind()+o.GetSubject().GetKey()] = true
			default:
				out.Values++
			}
		}
	}
	for k, names := range items {
		u := Unknown{Reason: k.reason, Detail: k.detail, Subjects: len(subjects[k])}
		for n := range names {
			u.Items = append(u.Items, n)
		}
		sort.Strings(u.Items)
		out.Unknown = append(out.Unknown, u)
	}
	sort.Slice(out.Unknown, func(i, j int) bool {
		a, b := out.Unknown[i], out.Unknown[j]
		if a.Reason != b.Reason {
			return a.Reason < b.Reason
		}
		return a.Detail < b.Detail
	})
	return out
}

func stateName(s evidencev1.ProbeStatus_State) string {
	return strings.ToLower(strings.ReplaceAll(s.String(), "_", " "))
}

// WriteJSON writes the report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// WriteTable writes the report for a person: signals first, then probes with
// what they cannot measure and why.
func (r *Report) WriteTable(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "plumb-agent %s on Linux %s (%s), uid %d\n", r.Version, r.Kernel, r.Architecture, r.User)
	var missing []string
	for _, c := range r.Capabilities {
		if !c.Held {
			missing = append(missing, c.Name+" ("+c.For+")")
		}
	}
	if len(missing) > 0 {
		fmt.Fprintf(&b, "missing capabilities: %s\n", strings.Join(missing, ", "))
	}
	b.WriteString("\n")
	tw := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "SIGNAL\tSTATE\tRUNG\tWHY")
	for _, s := range r.Signals {
		state := "active"
		if !s.Active {
			state = "blind"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", s.Signal, state, orDash(s.Rung), s.Why)
	}
	fmt.Fprintln(tw, "\nPROBE\tSTATE\tEVIDENCE\tWHY")
	for _, p := range r.Probes {
		fmt.Fprintf(tw, "%s\t%s\t%d values, %d not applicable, %d subjects\t%s\n", p.Name, p.State, p.Values, p.NotApplicable, p.Subjects, p.Why)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, p := range r.Probes {
		for _, u := range p.Unknown {
			fmt.Fprintf(&b, "\n%s, unknown (%s, %d subjects): %s\n    %s\n", p.Name, u.Reason, u.Subjects, u.Detail, strings.Join(u.Items, " "))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}
