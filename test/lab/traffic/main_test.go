// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// roleVariable has the test binary be a role, as a program of its own.
const roleVariable = "PLUMB_TRAFFIC_TEST_ROLE"

func TestMain(m *testing.M) {
	roles := map[string]func([]string) error{
		"sender":   Sender,
		"receiver": Receiver,
		"spin": func([]string) error {
			go func() {
				for i := 0; ; i++ {
				}
			}()
			_, err := io.Copy(io.Discard, os.Stdin)
			return err
		},
	}
	if run := roles[os.Getenv(roleVariable)]; run != nil {
		if err := run(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// A program is a running role and what it has said.
type program struct {
	in  io.WriteCloser
	cmd *exec.Cmd // nil in this process

	mu     sync.Mutex
	events []Event
	broken []string
	ended  chan error
	stderr bytes.Buffer
}

func (p *program) read(out io.Reader) {
	s := bufio.NewScanner(out)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		e, err := DecodeEvent(s.Bytes())
		p.mu.Lock()
		if err != nil {
			p.broken = append(p.broken, err.Error())
		}
		p.events = append(p.events, e)
		p.mu.Unlock()
	}
}

// here runs a role in this process over pipes.
func here(t *testing.T, run func(context.Context, io.Reader, io.Writer) error, config any) *program {
	t.Helper()
	in, stdin := io.Pipe()
	stdout, out := io.Pipe()
	p := &program{in: stdin, ended: make(chan error, 1)}
	var reader sync.WaitGroup
	reader.Go(func() { p.read(stdout) })
	go func() {
		err := run(context.Background(), in, out)
		in.Close()
		out.Close()
		reader.Wait()
		p.ended <- err
	}()
	t.Cleanup(func() { require.NoError(t, p.end()) })
	p.say(t, config)
	p.await(t, "it is ready", func(e Event) bool { return e.Type == Ready })
	return p
}

// inside runs a role as a process in a namespace.
func inside(t *testing.T, ns *testutils.NetNS, role string, config any) *program {
	t.Helper()
	p := &program{cmd: exec.Command("/proc/self/exe"), ended: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), roleVariable+"="+role)
	p.cmd.Stderr = &p.stderr
	var err error
	p.in, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, ns.Start(p.cmd))
	go func() {
		p.read(stdout)
		p.ended <- p.cmd.Wait()
	}()
	t.Cleanup(func() {
		require.NoError(t, p.end())
		require.Empty(t, p.stderr.String(), "a role is silent on standard error")
	})
	if config != nil {
		p.say(t, config)
		p.await(t, role+" is ready", func(e Event) bool { return e.Type == Ready })
	}
	return p
}

func (p *program) say(t *testing.T, v any) {
	t.Helper()
	line, err := json.Marshal(v)
	require.NoError(t, err)
	_, err = p.in.Write(append(line, '\n'))
	require.NoError(t, err)
}

// end ends the input, which must end the role.
func (p *program) end() error {
	p.in.Close()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	select {
	case err := <-p.ended:
		p.ended <- err
		if len(p.broken) > 0 {
			return fmt.Errorf("lines that are no events: %s", strings.Join(p.broken, "; "))
		}
		return err
	case <-limit.C:
		if p.cmd != nil {
			_ = p.cmd.Process.Kill()
		}
		return fmt.Errorf("the end of the input did not end it")
	}
}

func (p *program) seen() []Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.events)
}

func (p *program) find(match func(Event) bool) (Event, bool) {
	events := p.seen()
	at := slices.IndexFunc(events, match)
	if at < 0 {
		return Event{}, false
	}
	return events[at], true
}

// await waits for an event and returns the first that matches.
func (p *program) await(t *testing.T, what string, match func(Event) bool) Event {
	t.Helper()
	var found Event
	testutils.Eventually(t, 30*time.Second, what, func() bool {
		select {
		case err := <-p.ended:
			p.ended <- err
			require.NoError(t, err, "the role has ended")
		default:
		}
		var ok bool
		found, ok = p.find(match)
		return ok
	})
	return found
}

// command applies a command and waits until it is.
func (p *program) command(t *testing.T, c Command) {
	t.Helper()
	before := len(p.seen())
	p.say(t, c)
	testutils.Eventually(t, 10*time.Second, c.String()+" is applied", func() bool {
		return slices.ContainsFunc(p.seen()[before:], func(e Event) bool { return e.Type == Applied && e.Detail == c.String() })
	})
}

// observe is an observer of all that was said.
func (p *program) observe(flows ...Flow) *Observer {
	o := NewObserver(flows)
	for _, e := range p.seen() {
		o.Add(e)
	}
	return o
}

// troubles are what an application would have suffered from.
func (p *program) troubles() []string {
	var out []string
	for _, e := range p.seen() {
		if e.Type == Stalled || e.Type == Failed {
			out = append(out, fmt.Sprintf("%s %s %s: %s", e.Flow, e.Query, e.Type, e.Detail))
		}
	}
	return out
}

func of(t EventType, flow string) func(Event) bool {
	return func(e Event) bool { return e.Type == t && e.Flow == flow }
}

// completed waits until every flow has completed so many more transfers.
func (p *program) completed(t *testing.T, more uint64, flows ...Flow) {
	t.Helper()
	before := p.observe(flows...)
	testutils.Eventually(t, 30*time.Second, fmt.Sprintf("every flow completes %d more", more), func() bool {
		now := p.observe(flows...)
		for _, f := range flows {
			if now.Counters(f.ID).OK < before.Counters(f.ID).OK+more {
				return false
			}
		}
		return true
	})
}

func at(address string) netip.AddrPort { return netip.MustParseAddrPort(address) }

// pair is two namespaces with a wire between them: a has 10.0.0.1 and fd00::1, b
// 10.0.0.2 and fd00::2, on eth0.
func pair(t *testing.T) (a, b *testutils.NetNS) {
	t.Helper()
	a, b = testutils.NewNetNS(t), testutils.NewNetNS(t)
	testutils.Veth(a, "eth0", b, "eth0")
	for i, ns := range []*testutils.NetNS{a, b} {
		ns.Run("ip", "addr", "add", fmt.Sprintf("10.0.0.%d/24", i+1), "dev", "eth0")
		ns.Run("ip", "addr", "add", fmt.Sprintf("fd00::%d/64", i+1), "dev", "eth0", "nodad")
	}
	return a, b
}

const every = 100 * time.Millisecond

func tcpFlow(id, target string) Flow {
	return Flow{ID: id, Kind: TCP, From: "a", To: "b", Target: at(target), Bytes: 256 << 10, Every: every}
}

func httpFlow(id, target string) Flow {
	return Flow{ID: id, Kind: HTTP, From: "a", To: "b", Target: at(target), ResponseBytes: 64 << 10, Every: every}
}

func udpFlowTo(id, target string) Flow {
	return Flow{ID: id, Kind: UDP, From: "a", To: "b", Target: at(target), Bytes: 512, Every: every}
}

func dnsFlow(id string, target netip.AddrPort) Flow {
	return Flow{ID: id, Kind: DNS, From: "a", Target: target, Every: every, Small: "small.lab.plumb.test.", Large: "large.lab.plumb.test."}
}
