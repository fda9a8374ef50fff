// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
)

func one(addresses ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range addresses {
		out = append(out, at(a))
	}
	return out
}

// free is an address on which nobody listens. Every test has a host of its own, for
// others look for free ports as well.
func free(t *testing.T, network string) string {
	t.Helper()
	h := fnv.New32()
	_, _ = io.WriteString(h, t.Name())
	host := fmt.Sprintf("127.%d.%d.1:0", h.Sum32()%200+1, h.Sum32()/200%250)
	if network == "udp" {
		c, err := net.ListenPacket("udp", host)
		require.NoError(t, err)
		defer c.Close()
		return c.LocalAddr().String()
	}
	l, err := net.Listen("tcp", host)
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func TestBothRolesOverPipesOnOneThread(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var stop atomic.Bool
	go func() {
		for !stop.Load() { // a busy loop
		}
	}()
	defer stop.Store(true)
	dns := serveNames(t, nil, "127.0.0.1:0")
	tcp, web, udp := free(t, "tcp"), free(t, "tcp"), free(t, "udp")
	receiver := here(t, receive, ReceiverConfig{TCP: one(tcp), HTTP: one(web), UDP: one(udp)})
	flows := []Flow{tcpFlow("tcp", tcp), httpFlow("http", web), udpFlowTo("udp", udp), dnsFlow("dns", dns.address)}
	empty, tiny := httpFlow("empty", web), udpFlowTo("tiny", udp)
	empty.ResponseBytes, tiny.Bytes = 0, 1
	flows = append(flows, empty, tiny)
	sender := here(t, send, SenderConfig{Flows: flows})
	<-time.After(3 * time.Second)
	require.NoError(t, sender.end())
	o := sender.observe(flows...)
	for _, f := range flows {
		c := o.Counters(f.ID)
		require.GreaterOrEqual(t, c.OK, uint64(10), f.ID)
		if f.Kind == TCP {
			require.GreaterOrEqual(t, c.Bytes, c.OK*uint64(f.Bytes))
		}
		if f.Kind == HTTP {
			require.GreaterOrEqual(t, c.Bytes, c.OK*uint64(f.ResponseBytes))
		}
	}
	require.Empty(t, sender.troubles())
	require.NoError(t, receiver.end())
	got := map[Kind]Counters{}
	for _, e := range receiver.seen() {
		if e.Type == Progress {
			got[e.Kind] = got[e.Kind].plus(*e.Counters)
		}
	}
	require.GreaterOrEqual(t, got[TCP].OK, o.Counters("tcp").OK)
	require.GreaterOrEqual(t, got[TCP].Bytes, o.Counters("tcp").OK*(256<<10))
	require.GreaterOrEqual(t, got[HTTP].OK, o.Counters("http").OK)
	require.GreaterOrEqual(t, got[UDP].OK, o.Counters("udp").OK)
}

func TestARefusedPortIsAnErrorAtOnce(t *testing.T) {
	t.Parallel()
	flows := []Flow{tcpFlow("tcp", free(t, "tcp")), httpFlow("http", free(t, "tcp")), udpFlowTo("udp", free(t, "udp")), dnsFlow("dns", at(free(t, "udp")))}
	begin := time.Now()
	sender := here(t, send, SenderConfig{Flows: flows})
	for _, f := range flows {
		e := sender.await(t, f.ID+" fails", of(Failed, f.ID))
		require.Contains(t, e.Detail, "connection refused")
		require.Less(t, e.For, 500*time.Millisecond, "%s", f.ID)
		require.Less(t, e.At.Sub(begin), time.Second)
		require.Equal(t, e.AffectedAt, e.At.Add(-e.For))
	}
	_, stalled := sender.find(func(e Event) bool { return e.Type == Stalled })
	require.False(t, stalled)
}

func TestWhoListensAgainIsARecovery(t *testing.T) {
	t.Parallel()
	address := free(t, "tcp")
	f := tcpFlow("tcp", address)
	sender := here(t, send, SenderConfig{Flows: []Flow{f}})
	failed := sender.await(t, "it fails", of(Failed, "tcp"))
	here(t, receive, ReceiverConfig{TCP: one(address)})
	e := sender.await(t, "it recovers", of(Recovered, "tcp"))
	require.Equal(t, "the first transfer since that completed", e.Detail)
	require.InDelta(t, e.AffectedAt.Sub(failed.AffectedAt).Seconds(), e.For.Seconds(), 0.05)
	sender.completed(t, 3, f)
	count := 0
	for _, e := range sender.seen() {
		if e.Type == Recovered {
			count++
		}
	}
	require.Equal(t, 1, count, "a recovery is told once")
}

func TestAReceiverThatGotLessOrEndsEarlyIsAnError(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		serve func(net.Conn)
		words string
	}{
		"it answers another number": {func(c net.Conn) {
			_, _ = io.Copy(io.Discard, c)
			_, _ = c.Write([]byte{0, 0, 0, 0, 0, 0, 0, 1})
		}, "the receiver got 1 bytes"},
		"it answers nothing":         {func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, "EOF"},
		"it resets the connection":   {func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }, "reset"},
		"it reads some, then resets": {func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 1000)); _ = c.(*net.TCPConn).SetLinger(0) }, "after"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					test.serve(c)
					c.Close()
				}
			}()
			defer func() { l.Close(); <-done }()
			sender := here(t, send, SenderConfig{Flows: []Flow{tcpFlow("tcp", l.Addr().String())}})
			e := sender.await(t, "it fails", of(Failed, "tcp"))
			require.Contains(t, e.Detail, test.words)
			require.NoError(t, sender.end())
		})
	}
}

// An answer that trickles never stalls, and its application gives up all the same.
func TestATransferThatMovesTooSlowlyIsAffectedFromItsBeginOn(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "65536")
		tick := time.NewTicker(every)
		defer tick.Stop()
		for r.Context().Err() == nil {
			_, _ = w.Write(make([]byte, 100))
			_ = http.NewResponseController(w).Flush()
			<-tick.C
		}
	}))
	defer server.Close()
	f := httpFlow("http", server.Listener.Addr().String())
	f.Every = time.Second
	sender := here(t, send, SenderConfig{Flows: []Flow{f}})
	e := sender.await(t, "it is given up", of(Failed, "http"))
	require.Regexp(t, `^given up after 10s although it moved: \d+ of 65536 bytes$`, e.Detail)
	require.GreaterOrEqual(t, e.For, httpPatience)
	_, stalled := sender.find(of(Stalled, "http"))
	require.False(t, stalled)
	require.NoError(t, sender.end())
}

func TestAnHTTPStatusIsAnError(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	sender := here(t, send, SenderConfig{Flows: []Flow{httpFlow("http", server.Listener.Addr().String())}})
	e := sender.await(t, "it fails", of(Failed, "http"))
	require.Contains(t, e.Detail, "the answer: status 404 Not Found")
	require.NoError(t, sender.end())
}

func TestAnHTTPReceiverRefusesNonsense(t *testing.T) {
	t.Parallel()
	address := free(t, "tcp")
	here(t, receive, ReceiverConfig{HTTP: one(address)})
	response, err := (&net.Dialer{}).Dial("tcp", address)
	require.NoError(t, err)
	defer response.Close()
	_, err = io.WriteString(response, "GET /nonsense HTTP/1.0\r\n\r\n")
	require.NoError(t, err)
	raw, err := io.ReadAll(response)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(raw), "HTTP/1.0 400"), string(raw))
}

func TestEventsAreBoundedAndCountersComplete(t *testing.T) {
	t.Parallel()
	f := tcpFlow("tcp", free(t, "tcp"))
	f.Every = minEvery
	begin := time.Now()
	sender := here(t, send, SenderConfig{Flows: []Flow{f}})
	testutils.Eventually(t, 20*time.Second, "500 errors", func() bool { return sender.observe(f).Counters("tcp").Failed > 500 })
	require.NoError(t, sender.end())
	c := sender.observe(f).Counters("tcp")
	told := uint64(len(sender.troubles()))
	require.LessOrEqual(t, float64(told), eventBurst+eventRate*time.Since(begin).Seconds()+1)
	require.Equal(t, c.Failed, told+c.Suppressed)
}

func TestDNSSaysWhichQueryFailed(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		mode  string
		kind  EventType
		query string // "": none may
		words string
	}{
		"large answers are lost":        {"large silent", Stalled, LargeQuery, "no answer to TXT large.lab.plumb.test. for 1."},
		"nothing is answered":           {"silent", Stalled, SmallQuery, "no answer to A small.lab.plumb.test. for 1."},
		"and is given up":               {"silent", Failed, SmallQuery, "given up after 5s: no answer to A small.lab.plumb.test. for "},
		"the server fails":              {"servfail", Failed, SmallQuery, "asking for A small.lab.plumb.test.: the server says SERVFAIL"},
		"no record":                     {"nothing", Failed, LargeQuery, "no such record"},
		"truncated answers go over TCP": {"truncated", Progress, "", ""},
		"forged answers are passed by":  {"forged first", Progress, "", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serveNames(t, nil, "127.0.0.1:0")
			s.mode.Store(test.mode)
			f := dnsFlow("dns", s.address)
			sender := here(t, send, SenderConfig{Flows: []Flow{f}})
			if test.query == "" {
				sender.completed(t, 8, f)
				require.Empty(t, sender.troubles())
				require.Equal(t, test.mode == "truncated", s.overTCP.Load() > 0)
				return
			}
			e := sender.await(t, test.words, func(e Event) bool { return e.Type == test.kind && e.Query == test.query })
			require.Contains(t, e.Detail, test.words)
			if test.mode == "large silent" {
				_, small := sender.find(func(e Event) bool { return e.Query == SmallQuery && e.Type != Progress })
				require.False(t, small, "the small query is well")
			}
			s.mode.Store("well")
			e = sender.await(t, "it recovers", func(e Event) bool { return e.Type == Recovered && e.Query == test.query })
			require.Equal(t, DNS, e.Kind)
		})
	}
}

func TestARoleEndsWithABadConfigurationAndLivesThroughBadCommands(t *testing.T) {
	t.Parallel()
	bad := map[string]string{
		"":                               "read the configuration: EOF",
		"{":                              "read the configuration",
		`{"flow":[]}`:                    `unknown field "flow"`,
		`{"flows":[]} {}`:                "more on the line",
		`{"flows":[{"id":"x"}]}`:         "unknown kind",
		`{"flows":[{"kind":"tcp"}]}`:     "no id",
		`{"stallAfterNanoseconds":-1}`:   "makes no sense",
		flowLine(`"every": 1`):           "unknown field",
		flowLine(`"everyNanoseconds":1`): "too often",
		flowLine(`"everyNanoseconds":1000000,"bytes":0`):                                                                            "0 bytes",
		flowLine(`"everyNanoseconds":1000000,"bytes":1,"target":"10.0.0.1:0"`):                                                      "no address and port",
		flowLine(`"everyNanoseconds":1000000,"kind":"udp","bytes":65508`):                                                           "65508 bytes",
		flowLine(`"everyNanoseconds":1000000,"kind":"http","responseBytes":-1`):                                                     "-1 response bytes",
		flowLine(`"everyNanoseconds":1000000,"kind":"dns","small":"x.","large":"no-dot"`):                                           "ends with a dot",
		flowLine(`"everyNanoseconds":1000000,"kind":"dns","large":"x."`):                                                            "ends with a dot",
		strings.Replace(flowLine(`"everyNanoseconds":1000000,"bytes":1`), "]", "", 1):                                               "read the configuration",
		`{"flows":[` + flowOf(`"everyNanoseconds":1000000,"bytes":1`) + `,` + flowOf(`"everyNanoseconds":1000000,"bytes":1`) + `]}`: "twice",
	}
	for line, words := range bad {
		err := send(context.Background(), strings.NewReader(line+"\n"), io.Discard)
		require.ErrorContains(t, err, words, line)
	}
	require.ErrorContains(t, receive(context.Background(), strings.NewReader(`{"tcp":["192.0.2.1:1"]}`), io.Discard), "listen on 192.0.2.1:1")

	sender, receiver := here(t, send, SenderConfig{}), here(t, receive, ReceiverConfig{})
	for line, words := range map[string]string{
		`{}`:                             "has 0 of",
		`{"receiver":"slow","stop":"x"}`: "has 2 of",
		`{"receiver":"lazy"}`:            "unknown receiver mode",
		`{"receiver":"slow"}`:            "is for a receiver",
		`{"stop":"x"}`:                   "unknown confounder",
		`nonsense`:                       "invalid character",
		`{"quicProbes":{}}`:              "needs targets",
		`{"quicProbes":{"targets":["10.0.0.1:1"],"sizes":[100]}}`:      "100 bytes",
		`{"quicProbes":{"targets":["10.0.0.1:0"],"sizes":[1500]}}`:     "no address and port",
		`{"tcpTeardownStorm":{}}`:                                      "no address and port",
		`{"tcpTeardownStorm":{"target":"10.0.0.1:1","perSecond":501}}`: "501 connections",
	} {
		_, err := fmt.Fprintln(sender.in, line)
		require.NoError(t, err)
		sender.await(t, words, func(e Event) bool { return e.Type == Rejected && strings.Contains(e.Detail, words) })
	}
	sender.command(t, Command{Stop: QUIC})
	receiver.say(t, Command{Stop: QUIC})
	receiver.await(t, "it is rejected", func(e Event) bool { return e.Type == Rejected && strings.Contains(e.Detail, "is for a sender") })
	receiver.command(t, Command{Receiver: Slow})
}

func flowOf(fields string) string {
	return `{"id":"x","kind":"tcp","target":"10.0.0.1:1",` + fields + `}`
}

func flowLine(fields string) string { return `{"flows":[` + flowOf(fields) + `]}` }
