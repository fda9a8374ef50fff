// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// sharp is the round trip below which an answer about the time is good for what is
// asked of it here: half of it is the error.
const sharp = 40 * time.Millisecond

// askTime asks a time server and returns how far its clock is ahead. Answers that a
// busy machine has delayed are asked for again.
func (b *bed) askTime(t *testing.T, from string, server int, limit time.Duration) (offset time.Duration, err error) {
	t.Helper()
	for end := time.Now().Add(limit); ; {
		offset, took, err := b.askTimeOnce(t, from, server, time.Until(end))
		if err != nil || took < sharp || time.Now().After(end) {
			return offset, err
		}
	}
}

// askTimeOnce asks as RFC 5905 section 14 has a simple client do.
func (b *bed) askTimeOnce(t *testing.T, from string, server int, limit time.Duration) (offset, took time.Duration, err error) {
	t.Helper()
	s := b.at(t, from)
	conn, err := s.DialContext(s.netns)(t.Context(), "udp", b.timeServer(server).String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(limit)))
	packet := make([]byte, 48)
	packet[0] = 4<<3 | 3 // version 4, client
	sent := time.Now()
	binary.BigEndian.PutUint64(packet[40:], uint64(sent.UnixNano()))
	if _, err := conn.Write(packet); err != nil {
		return 0, 0, err
	}
	if _, err := io.ReadFull(conn, packet); err != nil {
		return 0, 0, err
	}
	took = time.Since(sent)
	return ntpTime(packet[40:]).Sub(sent.Add(took / 2)), took, nil
}

// ntpTime reads a timestamp: seconds since 1900 and a fraction (RFC 5905 section 6).
func ntpTime(b []byte) time.Time {
	const from1900 = 2208988800
	seconds, fraction := int64(binary.BigEndian.Uint32(b))-from1900, int64(binary.BigEndian.Uint32(b[4:]))
	return time.Unix(seconds, fraction*1e9>>32)
}

// An answer is what a resolver said.
type answer struct {
	bytes     int
	truncated bool
	rcode     dnsmessage.RCode
	records   int
}

// resolve asks the cluster's resolver, over UDP with the size of EDNS if it is not 0,
// or over TCP.
func (b *bed) resolve(t *testing.T, from, network, name string, kind dnsmessage.Type, edns int, limit time.Duration) (answer, error) {
	t.Helper()
	builder := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 7, RecursionDesired: true})
	require.NoError(t, builder.StartQuestions())
	require.NoError(t, builder.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}))
	if edns > 0 {
		require.NoError(t, builder.StartAdditionals())
		var header dnsmessage.ResourceHeader
		require.NoError(t, header.SetEDNS0(edns, dnsmessage.RCodeSuccess, false))
		require.NoError(t, builder.OPTResource(header, dnsmessage.OPTResource{}))
	}
	question, err := builder.Finish()
	require.NoError(t, err)
	s := b.at(t, from)
	conn, err := s.DialContext(s.netns)(t.Context(), network, b.resolver().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(limit)))
	message := make([]byte, 1<<16)
	if network == "tcp" {
		question = append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)
	}
	if _, err := conn.Write(question); err != nil {
		return answer{}, err
	}
	if network == "tcp" {
		if _, err := io.ReadFull(conn, message[:2]); err != nil {
			return answer{}, err
		}
		message = message[:binary.BigEndian.Uint16(message)]
		_, err = io.ReadFull(conn, message)
	} else {
		var n int
		n, err = conn.Read(message)
		message = message[:n]
	}
	if err != nil {
		return answer{}, err
	}
	var m dnsmessage.Message
	require.NoError(t, m.Unpack(message))
	return answer{bytes: len(message), truncated: m.Truncated, rcode: m.RCode, records: len(m.Answers)}, nil
}

// askAPI asks the API endpoint of a control-plane node for its health and returns
// how long that took.
func (b *bed) askAPI(t *testing.T, from, node string) time.Duration {
	t.Helper()
	s := b.at(t, from)
	transport := &http.Transport{DialContext: s.DialContext(s.netns), DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+netip.AddrPortFrom(b.node(node).address, apiserverPort).String()+"/livez", nil)
	require.NoError(t, err)
	began := time.Now()
	response, err := transport.RoundTrip(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, "ok", string(body))
	return time.Since(began)
}
