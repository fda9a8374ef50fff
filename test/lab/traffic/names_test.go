// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// A nameserver answers as its mode says.
type nameserver struct {
	address netip.AddrPort
	mode    atomic.Value
	overTCP atomic.Int64
}

// serveNames serves in a namespace, or in this process's for nil.
func serveNames(t *testing.T, ns *testutils.NetNS, address string) *nameserver {
	t.Helper()
	s := &nameserver{}
	s.mode.Store("well")
	var packets net.PacketConn
	var listener net.Listener
	open := func() error {
		var err error
		if packets, err = net.ListenPacket("udp", address); err != nil {
			return err
		}
		listener, err = net.Listen("tcp", packets.LocalAddr().String())
		return err
	}
	if ns != nil {
		require.NoError(t, ns.Do(open))
	} else {
		require.NoError(t, open())
	}
	s.address = at(packets.LocalAddr().String())
	var all sync.WaitGroup
	t.Cleanup(func() {
		packets.Close()
		listener.Close()
		all.Wait()
	})
	all.Go(func() {
		buffer := make([]byte, 65536)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			for _, answer := range s.answers(buffer[:n], false) {
				_, _ = packets.WriteTo(answer, from)
			}
		}
	})
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			var length [2]byte
			if _, err := io.ReadFull(conn, length[:]); err == nil {
				request := make([]byte, binary.BigEndian.Uint16(length[:]))
				if _, err := io.ReadFull(conn, request); err == nil {
					s.overTCP.Add(1)
					answer := s.answers(request, true)[0]
					_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
				}
			}
			conn.Close()
		}
	})
	return s
}

func (s *nameserver) answers(request []byte, tcp bool) [][]byte {
	var m dnsmessage.Message
	if m.Unpack(request) != nil {
		return nil
	}
	mode, _ := s.mode.Load().(string)
	large := m.Questions[0].Type == dnsmessage.TypeTXT
	m.Response, m.Additionals = true, nil
	header := dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET}
	if large {
		var texts []string
		for range 8 {
			texts = append(texts, strings.Repeat("x", 250))
		}
		m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.TXTResource{TXT: texts}}}
	} else {
		m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: [4]byte{10, 0, 0, 2}}}}
	}
	switch {
	case mode == "silent", mode == "large silent" && large:
		return nil
	case mode == "servfail":
		m.RCode, m.Answers = dnsmessage.RCodeServerFailure, nil
	case mode == "nothing":
		m.Answers = nil
	case mode == "truncated" && large && !tcp:
		m.Truncated, m.Answers = true, nil
	}
	right, err := m.Pack()
	if err != nil {
		return nil
	}
	if mode == "forged first" {
		forged := append([]byte(nil), right...)
		forged[0] ^= 0xff // the ID
		forged[3] |= byte(dnsmessage.RCodeServerFailure)
		return [][]byte{forged, right}
	}
	return [][]byte{right}
}
