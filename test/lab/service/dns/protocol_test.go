// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMalformedQuestionsGetTheirCode(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	good := ask(t, "small.lab.plumb.test.", dnsmessage.TypeA, 1232)
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	opt := good[len(good)-11:]
	for name, c := range map[string]struct {
		message  []byte
		code     dnsmessage.RCode
		answered bool
	}{
		"good":                  {good, 0, true},
		"empty":                 {nil, 0, false},
		"half a header":         {good[:11], 0, false},
		"an answer":             {change(func(b []byte) []byte { b[2] |= 0x80; return b }), 0, false},
		"another operation":     {change(func(b []byte) []byte { b[2] |= 0x28; return b }), dnsmessage.RCodeNotImplemented, true},
		"no question":           {good[:12], dnsmessage.RCodeFormatError, true},
		"half a question":       {good[:20], dnsmessage.RCodeFormatError, true},
		"half of the rest":      {good[:len(good)-3], dnsmessage.RCodeFormatError, true},
		"two questions":         {change(func(b []byte) []byte { b[5] = 2; return b }), dnsmessage.RCodeFormatError, true},
		"two OPT":               {change(func(b []byte) []byte { b[11] = 2; return append(b, opt...) }), dnsmessage.RCodeFormatError, true},
		"another class":         {change(func(b []byte) []byte { b[len(b)-12] = 3; return b }), dnsmessage.RCodeRefused, true},
		"a later EDNS":          {change(func(b []byte) []byte { b[len(b)-5] = 1; return b }), badVersion & 0xf, true},
		"bytes behind the last": {append(bytes.Clone(good), 0, 0), 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			answer := s.reply(&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, c.message, true)
			require.Equal(t, c.answered, answer != nil)
			if !c.answered {
				return
			}
			m := unpack(t, answer)
			require.Equal(t, c.code, m.RCode)
			require.False(t, m.Truncated)
			if name == "a later EDNS" {
				require.Equal(t, badVersion, m.Additionals[0].Header.ExtendedRCode(m.RCode))
			}
		})
	}
}

func TestOneConnectionCarriesManyQuestions(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	_, tcp := serve(t, s, "127.0.0.1")
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", tcp)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	message := framed(ask(t, "small.lab.plumb.test.", dnsmessage.TypeA, 0))
	// The first in pieces, then two at once.
	for _, piece := range [][]byte{message[:1], message[1:9], message[9:], append(bytes.Clone(message), message...)} {
		_, err := conn.Write(piece)
		require.NoError(t, err)
	}
	for range 3 {
		answer, err := readMessage(conn)
		require.NoError(t, err)
		require.Len(t, unpack(t, answer).Answers, 1)
	}
	_, err = conn.Write([]byte{0, 0})
	require.NoError(t, err)
	_, err = readMessage(conn)
	require.ErrorIs(t, err, io.EOF, "a message without a byte ends the connection")
}

func TestAFaultOnATCPConnectionEndsWithoutIt(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	_, tcp := serve(t, s, "127.0.0.1")
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", tcp)
	require.NoError(t, err)
	defer conn.Close()
	message := framed(ask(t, "small.lab.plumb.test.", dnsmessage.TypeA, 0))
	require.NoError(t, s.SetMode(All))
	_, err = conn.Write(message)
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(impatience)))
	_, err = readMessage(conn)
	require.Error(t, err)
	require.NoError(t, s.SetMode(Healthy))
	_, err = conn.Write(message)
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	_, err = readMessage(conn)
	require.NoError(t, err, "the same connection is answered again")
}

func TestServeEndsWithConnectionsOpen(t *testing.T) {
	s := newServer(t, Config{})
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, udp, tcp) }()
	conn, err := net.Dial("tcp", tcp.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write(framed(ask(t, "small.lab.plumb.test.", dnsmessage.TypeA, 0)))
	require.NoError(t, err)
	_, err = readMessage(conn)
	require.NoError(t, err)
	cancel()
	require.NoError(t, <-served)
	_, err = readMessage(conn)
	require.Error(t, err)
}

func TestServeSaysWhyItEnded(t *testing.T) {
	for _, closed := range []string{"udp", "tcp"} {
		udp, err := net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		if closed == "udp" {
			require.NoError(t, udp.Close())
		} else {
			require.NoError(t, tcp.Close())
		}
		require.ErrorContains(t, newServer(t, Config{}).Serve(t.Context(), udp, tcp), "on 127.0.0.1")
	}
}

func TestTheServerAnswersOverIPv6(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	require.NoError(t, s.SetMode(Large, netip.MustParsePrefix("::1/128")))
	udp, tcp := serve(t, s, "::1")
	small := ask(t, "small.lab.plumb.test.", dnsmessage.TypeAAAA, 0)
	require.NotNil(t, overUDP(t, "::1", udp, small, patience))
	require.NotNil(t, overTCP(t, "::1", tcp, small, patience))
	require.Nil(t, overUDP(t, "::1", udp, ask(t, "large.lab.plumb.test.", dnsmessage.TypeTXT, 4096), impatience))
}

func TestModesMayChangeWhileQuestionsCome(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{})
	udp, tcp := serve(t, s, "127.0.0.1")
	small := ask(t, "small.lab.plumb.test.", dnsmessage.TypeA, 0)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 25 {
				overUDP(t, "127.0.0.1", udp, small, patience)
				overTCP(t, "127.0.0.1", tcp, small, patience)
			}
		})
	}
	for range 500 {
		for _, mode := range []Mode{Large, Healthy} {
			require.NoError(t, s.SetMode(mode, netip.MustParsePrefix("127.0.0.0/8")))
		}
	}
	group.Wait()
}

func FuzzQuestion(f *testing.F) {
	f.Add(ask(f, "small.lab.plumb.test.", dnsmessage.TypeA, 0))
	f.Add(ask(f, "large.lab.plumb.test.", dnsmessage.TypeTXT, 1232))
	f.Add(ask(f, "huge.lab.plumb.test.", dnsmessage.TypeTXT, 65535))
	f.Add(ask(f, ".", dnsmessage.TypeALL, 1))
	f.Add([]byte{0x12, 0x34, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	s := newServer(f, Config{})
	from := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	f.Fuzz(func(t *testing.T, message []byte) {
		for _, udp := range []bool{true, false} {
			answer := s.reply(from, message, udp)
			if answer == nil {
				continue
			}
			q, ok := parse(message)
			require.True(t, ok)
			require.True(t, !udp || len(answer) <= q.udp, "%d bytes to a client that takes %d", len(answer), q.udp)
			var m dnsmessage.Message
			require.NoError(t, m.Unpack(answer))
			require.Equal(t, message[:2], answer[:2])
			require.True(t, m.Response)
			require.Nil(t, s.reply(from, answer, udp), "an answer is not answered")
		}
	})
}

func FuzzFraming(f *testing.F) {
	f.Add(framed(ask(f, "small.lab.plumb.test.", dnsmessage.TypeA, 0)))
	f.Add([]byte{0, 0})
	f.Add([]byte{0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bytes.NewReader(stream)
		var back []byte
		for {
			message, err := readMessage(r)
			if err != nil {
				break
			}
			require.NotEmpty(t, message)
			back = append(back, framed(message)...)
		}
		require.True(t, bytes.HasPrefix(stream, back))
	})
}
