// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	apiv1 "github.com/plumb-dev/plumb/aggregator/api/v1"
)

func lay(term Terminal, draw func(*printer)) string {
	var b bytes.Buffer
	draw(&printer{w: &b, term: term, now: func() time.Time { return now }, loc: time.UTC})
	return b.String()
}

func TestNumbersAndCommandsStayWhole(t *testing.T) {
	long := "kubectl-" + strings.Repeat("x", 120)
	out := lay(Terminal{Width: 40}, func(p *printer) {
		p.para(text("- "), 2, text("run "+long+" now"))
		p.table(0, []column{{head: "A", wrap: true}, {head: "B"}}, [][]cell{{text("some words that wrap in their column"), text("123456789012345678901234567890")}})
	})
	require.Contains(t, out, long)
	require.Contains(t, out, "123456789012345678901234567890")
}

func TestTableTooNarrowBecomesRecords(t *testing.T) {
	out := lay(Terminal{Width: 20}, func(p *printer) {
		p.table(0, []column{{head: "NODE"}, {head: "STATE"}}, [][]cell{{text("a-very-long-node-name"), text("reporting")}, {text("b"), text("")}})
	})
	require.Equal(t, "NODE   a-very-long-node-name\nSTATE  reporting\n\nNODE   b\n", out)
}

func TestStyledWordsStickTogether(t *testing.T) {
	out := lay(Terminal{Width: 30, Colour: true}, func(p *printer) {
		p.para(text(""), 0, span{"proven", bad}, text(": two words"))
	})
	require.Equal(t, "\x1b[1;31mproven\x1b[0m: two words\n", out)
}

func TestDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		300 * time.Millisecond: "0.3s", 9940 * time.Millisecond: "9.9s", 9960 * time.Millisecond: "10s", 59 * time.Second: "59s",
		59600 * time.Millisecond: "1m 00s", 90 * time.Second: "1m 30s", 3*time.Hour + 5*time.Minute: "3h 05m", 50 * time.Hour: "2d 02h",
		-2 * time.Second: "-2.0s",
	} {
		require.Equal(t, want, unglue(duration(d)), d.String())
	}
}

func TestNumbersAreReadable(t *testing.T) {
	for f, want := range map[float64]string{
		0: "0", 1500: "1500", 123456789012: "123456789012", -0.0012345678: "-0.00123457", 0.5: "0.5", 0.00001234: "0.00001234", 1e30: "1e+30",
	} {
		require.Equal(t, want, number(f))
	}
}

func TestOdds(t *testing.T) {
	for bans, want := range map[float64]string{
		1: "1 ban, that is 10 to 1 for this cause", 0.3: "0.3 ban, that is 2 to 1 for this cause",
		3.2: "3.2 bans, that is 1600 to 1 for this cause", -1: "-1 bans",
	} {
		require.Equal(t, want, odds(bans))
	}
}

func TestWhere(t *testing.T) {
	for want, scope := range map[string]*apiv1.Scope{
		"between zones a and b (nodes n1, n2 and n3)": {Kind: "ZonePair", Zones: []string{"a", "b"}, Nodes: []string{"n1", "n2", "n3"}},
		"zone a (nodes n1 and n2)":                    {Kind: "Zone", Zones: []string{"a"}, Nodes: []string{"n1", "n2"}},
		"between nodes n1 and n2 (zones a and b)":     {Kind: "NodePair", Zones: []string{"a", "b"}, Nodes: []string{"n1", "n2"}},
		"eth0 of pod p on n1":                         {Kind: "Pod", Nodes: []string{"n1"}, Pod: "p", Device: "eth0"},
		"node n1":                                     {Kind: "Node", Nodes: []string{"n1"}},
		"Object on unknown":                           {Kind: "Object"},
	} {
		require.Equal(t, want, where(scope))
	}
}

func TestConsequencesThatPointAtEachOtherAppearOnce(t *testing.T) {
	a := &apiv1.Verdict{Id: "a", State: "firing", Grade: "likely", Consequences: []string{"b", "a", "gone"}}
	b := &apiv1.Verdict{Id: "b", State: "firing", Grade: "likely", Consequences: []string{"a"}}
	rows := underCause([]*apiv1.Verdict{b, a})
	require.Len(t, rows, 2)
}

func TestAssessmentsOfManyDevicesAreOneLine(t *testing.T) {
	var all []*apiv1.Assessment
	for _, d := range []string{"eth0", "eth1", "eth2", "eth3", "eth4"} {
		all = append(all, &apiv1.Assessment{Signature: "network/x", Result: "none", Subject: "device " + d, Because: "no drops"})
	}
	out := lay(Terminal{Width: 100}, func(p *printer) { p.assessments("Exonerated", text("  +"), weigh(all).exonerated) })
	require.Contains(t, out, "network/x (device eth0, device eth1 and 3 more): no drops.")
}

func TestCompactSaysOnceWhatIsTheSame(t *testing.T) {
	require.Equal(t, "cannot be decided: clock.a and clock.b are unknown (blind): no source: name two; link.c is unknown (failed): x",
		compact("cannot be decided: clock.a is unknown (blind): no source: name two; clock.b is unknown (blind): no source: name two; link.c is unknown (failed): x; clock.a is unknown (blind): no source: name two."))
	for _, same := range []string{"", "the clock is right", "clock.a is unknown (blind): no source"} {
		require.Equal(t, same, compact(same))
	}
}

func TestDetect(t *testing.T) {
	env := func(pairs ...string) func(string) (string, bool) {
		return func(name string) (string, bool) {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1], true
				}
			}
			return "", false
		}
	}
	require.Equal(t, Terminal{}, Detect(&bytes.Buffer{}, env("LANG", "C")))
	require.Equal(t, Terminal{Unicode: true, Width: 132}, Detect(&bytes.Buffer{}, env("LANG", "C", "LC_ALL", "de_DE.UTF-8", "COLUMNS", "132")))
	require.Equal(t, Terminal{}, Detect(&bytes.Buffer{}, env("LC_ALL", "POSIX", "LANG", "en_US.UTF-8", "COLUMNS", "-3")))

	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo terminal here: %v", err)
	}
	defer master.Close()
	got := Detect(master, env("TERM", "xterm"))
	require.True(t, got.Interactive)
	require.True(t, got.Colour)
	require.Positive(t, got.Width)
	require.False(t, Detect(master, env("TERM", "xterm", "NO_COLOR", "1")).Colour)
	require.False(t, Detect(master, env("TERM", "dumb")).Colour)
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestAnswerThatCannotBeWrittenIsTrouble(t *testing.T) {
	server := sick(t).serve(t)
	for _, args := range [][]string{{"nodes"}, {"verdicts"}, {"why", "n1"}, {"why", "3f9a2c"}, {"evidence", "n1"}, {"episodes"}, {"signatures", "list"}, {"nodes", "--json"}} {
		var errs bytes.Buffer
		require.Equal(t, StatusTrouble, Run(t.Context(), config(callOptions{}, failing{}, &errs, append(args, "--server", server)...)), args)
		require.Contains(t, errs.String(), "disk full")
	}
}

func TestReaderThatHasSeenEnoughIsNoTrouble(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, r.Close())
	defer w.Close()
	var errs bytes.Buffer
	require.Zero(t, Run(t.Context(), config(callOptions{}, w, &errs, "version")))
	require.Empty(t, errs.String())
}

// FuzzWrap holds that no text is lost, whatever comes.
func FuzzWrap(f *testing.F) {
	f.Add("some words — and\ttabs\x1b[1m", "more", uint8(20))
	f.Add("", " ", uint8(0))
	f.Add("a\u00a0b ·", "·", uint8(3))
	f.Fuzz(func(t *testing.T, a, b string, w uint8) {
		p := &printer{term: Terminal{Unicode: true}}
		joined := strings.Join(p.wrap([]span{text(a), {b, bad}}, int(w)), "\n")
		strip := func(s string) string {
			return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\n' }), "")
		}
		require.Equal(t, strip(p.term.clean(a)+p.term.clean(b)), strip(joined))
		lines := p.cellLines(text(a), max(1, int(w)))
		require.Equal(t, strip(p.term.clean(a)), strip(strings.Join(lines, "\n")))
		for _, line := range lines {
			require.LessOrEqual(t, len([]rune(line)), max(1, int(w)))
		}
	})
}
