// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// patience is for answers that come, impatience for those that do not.
const patience, impatience = 5 * time.Second, 150 * time.Millisecond

func newServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := New(cfg)
	require.NoError(t, err)
	return s
}

// serve serves until the test ends, on a new port of an address.
func serve(t *testing.T, s *Server, host string) (udp, tcp string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
	require.NoError(t, err)
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, conn, listener) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-served)
	})
	return conn.LocalAddr().String(), listener.Addr().String()
}

// ask is a question; size is what EDNS says, 0 for none.
func ask(t testing.TB, name string, kind dnsmessage.Type, size int) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 0x1234, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	if size > 0 {
		var header dnsmessage.ResourceHeader
		require.NoError(t, header.SetEDNS0(size, 0, false))
		m.Additionals = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.OPTResource{}}}
	}
	raw, err := m.Pack()
	require.NoError(t, err)
	return raw
}

// overUDP returns the answer, nil for none.
func overUDP(t *testing.T, from, to string, message []byte, within time.Duration) []byte {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.DialContext(t.Context(), "udp", to)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(within)))
	_, err = conn.Write(message)
	require.NoError(t, err)
	buf := make([]byte, 1<<16)
	n, err := conn.Read(buf)
	if err != nil {
		return nil
	}
	return buf[:n]
}

// overTCP returns the answer, nil for a connection that was taken and is silent.
func overTCP(t *testing.T, from, to string, message []byte, within time.Duration) []byte {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.DialContext(t.Context(), "tcp", to)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(within)))
	_, err = conn.Write(framed(message))
	require.NoError(t, err)
	answer, err := readMessage(conn)
	if err != nil {
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout(), "the connection stays open: %v", err)
		return nil
	}
	return answer
}

func framed(message []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)
}

func unpack(t testing.TB, raw []byte) (m dnsmessage.Message) {
	t.Helper()
	require.NotNil(t, raw, "an answer")
	require.NoError(t, m.Unpack(raw))
	require.Equal(t, uint16(0x1234), m.ID)
	require.True(t, m.Response)
	require.True(t, m.RecursionDesired)
	return m
}

func texts(m dnsmessage.Message) (n int) {
	for _, a := range m.Answers {
		for _, s := range a.Body.(*dnsmessage.TXTResource).TXT {
			n += len(s)
		}
	}
	return n
}

func TestNewRefusesWhatDoesNotFit(t *testing.T) {
	for name, cfg := range map[string]Config{
		"a large answer of 512 bytes":  {LargeBytes: 512},
		"a large answer of 4097 bytes": {LargeBytes: 4097},
		"a huge answer of 4096 bytes":  {HugeBytes: 4096},
		"a huge answer of 65536 bytes": {HugeBytes: 65536},
		"is no name":                   {Names: map[string][]netip.Addr{strings.Repeat("x", 64): nil}},
		"the server's own":             {Names: map[string][]netip.Addr{"Large": nil}},
	} {
		_, err := New(cfg)
		require.ErrorContains(t, err, name)
	}
	_, err := New(Config{Zone: "a..b"})
	require.ErrorContains(t, err, "is no name")
}

func TestNamesAnswerWithTheirAddresses(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{Names: map[string][]netip.Addr{
		"api": {netip.MustParseAddr("10.9.3.2"), netip.MustParseAddr("10.9.4.2"), netip.MustParseAddr("fd00:9:3::2")},
	}})
	udp, tcp := serve(t, s, "127.0.0.1")
	for name, c := range map[string]struct {
		name  string
		kind  dnsmessage.Type
		code  dnsmessage.RCode
		found []string
		soa   bool
	}{
		"small":                 {"small.lab.plumb.test.", dnsmessage.TypeA, 0, []string{"192.0.2.1"}, false},
		"small over IPv6":       {"small.lab.plumb.test.", dnsmessage.TypeAAAA, 0, []string{"2001:db8::1"}, false},
		"in capitals":           {"SmaLL.Lab.plumb.TEST.", dnsmessage.TypeA, 0, []string{"192.0.2.1"}, false},
		"a service":             {"api.lab.plumb.test.", dnsmessage.TypeA, 0, []string{"10.9.3.2", "10.9.4.2"}, false},
		"a type it has not":     {"api.lab.plumb.test.", dnsmessage.TypeMX, 0, nil, true},
		"addresses of large":    {"large.lab.plumb.test.", dnsmessage.TypeA, 0, nil, true},
		"the zone itself":       {"lab.plumb.test.", dnsmessage.TypeA, 0, nil, true},
		"no such name":          {"nothing.lab.plumb.test.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil, true},
		"another zone":          {"example.org.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil, false},
		"a zone that ends like": {"notlab.plumb.test.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil, false},
		"the root":              {".", dnsmessage.TypeNS, dnsmessage.RCodeNameError, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{0, 1232} {
				message := ask(t, c.name, c.kind, size)
				over := overUDP(t, "127.0.0.1", udp, message, patience)
				require.Equal(t, over, overTCP(t, "127.0.0.1", tcp, message, patience))
				m := unpack(t, over)
				require.Equal(t, c.code, m.RCode)
				require.False(t, m.Truncated)
				require.Equal(t, c.name, m.Questions[0].Name.String(), "the letters stay as they were asked")
				var found []string
				for _, a := range m.Answers {
					require.Equal(t, c.name, a.Header.Name.String())
					switch body := a.Body.(type) {
					case *dnsmessage.AResource:
						found = append(found, netip.AddrFrom4(body.A).String())
					case *dnsmessage.AAAAResource:
						found = append(found, netip.AddrFrom16(body.AAAA).String())
					}
				}
				require.Equal(t, c.found, found)
				require.Len(t, m.Authorities, map[bool]int{true: 1, false: 0}[c.soa])
				require.Len(t, m.Additionals, map[bool]int{true: 1, false: 0}[size > 0], "EDNS is answered with EDNS")
			}
		})
	}
}

func TestLargeAnswersAreAsLongAsTheyWereSet(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ set, want int }{{0, 1372}, {513, 513}, {1200, 1200}, {1232, 1232}, {4096, 4096}} {
		s := newServer(t, Config{LargeBytes: c.set})
		udp, tcp := serve(t, s, "127.0.0.1")
		for _, name := range []string{"large.lab.plumb.test.", "LARGE.lab.plumb.test."} {
			message := ask(t, name, dnsmessage.TypeTXT, 4096)
			over := overUDP(t, "127.0.0.1", udp, message, patience)
			require.Len(t, over, c.want)
			m := unpack(t, over)
			require.False(t, m.Truncated)
			require.Positive(t, texts(m))
			require.Len(t, overTCP(t, "127.0.0.1", tcp, message, patience), c.want)
			require.Len(t, overTCP(t, "127.0.0.1", tcp, ask(t, name, dnsmessage.TypeTXT, 0), patience), c.want, "without EDNS")
		}
	}
}

func TestWhatDoesNotFitIsTruncated(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	udp, tcp := serve(t, s, "127.0.0.1")
	for name, c := range map[string]struct {
		name  string
		size  int
		whole bool
	}{
		"large, without EDNS":           {"large", 0, false},
		"large, EDNS of less than 512":  {"large", 100, false},
		"large, EDNS of one too little": {"large", 1371, false},
		"large, EDNS of just enough":    {"large", 1372, true},
		"huge, without EDNS":            {"huge", 0, false},
		"huge, EDNS of 4096":            {"huge", 4096, false},
		"huge, EDNS of 65535":           {"huge", 65535, false},
		"small, EDNS of less than 512":  {"small", 12, true},
	} {
		t.Run(name, func(t *testing.T) {
			kind := dnsmessage.TypeTXT
			if c.name == "small" {
				kind = dnsmessage.TypeA
			}
			message := ask(t, c.name+".lab.plumb.test.", kind, c.size)
			m := unpack(t, overUDP(t, "127.0.0.1", udp, message, patience))
			require.Equal(t, !c.whole, m.Truncated)
			require.Len(t, m.Answers, map[bool]int{true: 1, false: 0}[c.whole])
			whole := unpack(t, overTCP(t, "127.0.0.1", tcp, message, patience))
			require.False(t, whole.Truncated)
			require.Len(t, whole.Answers, 1)
		})
	}
	require.Len(t, overTCP(t, "127.0.0.1", tcp, ask(t, "huge.lab.plumb.test.", dnsmessage.TypeTXT, 0), patience), 8000)
}

func TestTheResolverOfGoUnderstandsIt(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	udp, tcp := serve(t, s, "127.0.0.1")
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		address := udp
		if strings.HasPrefix(network, "tcp") {
			address = tcp
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	addresses, err := r.LookupNetIP(t.Context(), "ip", "small.lab.plumb.test.")
	require.NoError(t, err)
	require.ElementsMatch(t, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, addresses)
	for _, name := range []string{"large", "huge"} {
		found, err := r.LookupTXT(t.Context(), name+".lab.plumb.test.")
		require.NoError(t, err)
		require.Greater(t, len(strings.Join(found, "")), 1200)
	}
	_, err = r.LookupHost(t.Context(), "nothing.lab.plumb.test.")
	var missing *net.DNSError
	require.ErrorAs(t, err, &missing)
	require.True(t, missing.IsNotFound)
}

func TestModesLoseWhatTheySay(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	udp, tcp := serve(t, s, "127.0.0.1")
	require.ErrorContains(t, s.SetMode("some"), `no mode "some"`)
	const one, two = "127.0.0.1", "127.0.0.2"
	small := ask(t, "small.lab.plumb.test.", dnsmessage.TypeA, 4096)
	large := ask(t, "large.lab.plumb.test.", dnsmessage.TypeTXT, 4096)
	plain := ask(t, "large.lab.plumb.test.", dnsmessage.TypeTXT, 0)
	answered := func(from string, message []byte, within time.Duration) (udpToo, tcpToo bool) {
		return overUDP(t, from, udp, message, within) != nil, overTCP(t, from, tcp, message, within) != nil
	}
	check := func(what, from string, message []byte, wantUDP, wantTCP bool) {
		t.Helper()
		within := impatience
		if wantUDP && wantTCP {
			within = patience
		}
		gotUDP, gotTCP := answered(from, message, within)
		require.Equal(t, [2]bool{wantUDP, wantTCP}, [2]bool{gotUDP, gotTCP}, what)
	}
	require.NoError(t, s.SetMode(Large, netip.MustParsePrefix("127.0.0.2/32")))
	check("large, a small answer", two, small, true, true)
	check("large, a large answer", two, large, false, false)
	check("large, a truncated answer passes, the whole does not", two, plain, true, false)
	check("large, of another client", one, large, true, true)
	require.NoError(t, s.SetMode(All))
	check("all, a small answer", one, small, false, false)
	check("all, a small answer", two, small, false, false)
	require.NoError(t, s.SetMode(Healthy, netip.MustParsePrefix("127.0.0.1/32")))
	check("taken back", one, large, true, true)
	check("not taken back from the other", two, small, false, false)
	require.NoError(t, s.SetMode(Healthy))
	check("taken back", two, large, true, true)
}
