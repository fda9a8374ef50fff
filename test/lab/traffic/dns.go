// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// dnsMost is how many queries of a name are under way at once.
	dnsMost = 8
	// dnsPatience is how long a resolver waits for a server: RES_TIMEOUT, resolv.conf(5).
	dnsPatience = 5 * time.Second
	// ednsSize is the UDP payload that the large query offers to take.
	ednsSize = 4096
)

// The queries of a DNS flow, as events name them.
const (
	// SmallQuery asks for an A record, as most lookups do.
	SmallQuery = "small"
	// LargeQuery asks for a TXT record that fills several packets.
	LargeQuery = "large"
)

func (e *engine) dns(ctx context.Context, f Flow, run func(func())) {
	small, large := e.newLane(f, SmallQuery, dnsMost), e.newLane(f, LargeQuery, dnsMost)
	schedule(ctx, f.Every, func() {
		e.ask(ctx, small, f.Small, dnsmessage.TypeA, run)
		e.ask(ctx, large, f.Large, dnsmessage.TypeTXT, run)
	})
}

// ask asks once, from a port of its own as resolvers do.
func (e *engine) ask(ctx context.Context, l *lane, name string, kind dnsmessage.Type, run func(func())) {
	what := strings.TrimPrefix(kind.String(), "Type") + " " + name
	t, ctx := l.begin(ctx, dnsPatience, 0, stage{doing: "asking for " + what, missing: "no answer to " + what})
	if t == nil {
		return
	}
	run(func() {
		n, err := query(ctx, l.flow.Target.String(), name, kind, func() {
			t.reach(stage{doing: "asking over TCP for " + what, missing: "no answer over TCP to " + what})
		})
		if err != nil {
			t.fail(ctx, err)
			return
		}
		l.count(func(c *Counters) { c.Bytes += uint64(n) })
		t.done()
	})
}

// query asks over UDP, and over TCP when the answer was truncated (RFC 7766 section
// 5), which it tells first. It returns the length of the answer.
func query(ctx context.Context, server, name string, kind dnsmessage.Type, truncatedAnswer func()) (int, error) {
	id := uint16(rand.Uint32())
	request, err := question(id, name, kind)
	if err != nil {
		return 0, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", server)
	if err != nil {
		return 0, err
	}
	defer ends(ctx, conn)()
	if _, err := conn.Write(request); err != nil {
		return 0, err
	}
	buffer := make([]byte, ednsSize)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return 0, err
		}
		truncated, err := verdict(buffer[:n], id, name, kind)
		switch {
		case errors.Is(err, errOther):
			continue
		case err != nil:
			return 0, err
		case !truncated:
			return n, nil
		}
		truncatedAnswer()
		return queryTCP(ctx, server, request, id, name, kind)
	}
}

func queryTCP(ctx context.Context, server string, request []byte, id uint16, name string, kind dnsmessage.Type) (int, error) {
	conn, err := dialTCP(ctx, server)
	if err != nil {
		return 0, err
	}
	defer ends(ctx, conn)()
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(request))), request...)); err != nil {
		return 0, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return 0, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return 0, err
	}
	truncated, err := verdict(answer, id, name, kind)
	if err == nil && truncated {
		err = errors.New("the answer over TCP is truncated")
	}
	return len(answer), err
}

// question packs a query. The large one offers to take ednsSize (RFC 6891).
func question(id uint16, name string, kind dnsmessage.Type) ([]byte, error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: kind, Class: dnsmessage.ClassINET}},
	}
	if kind == dnsmessage.TypeTXT {
		opt := dnsmessage.Resource{Body: &dnsmessage.OPTResource{}}
		if err := opt.Header.SetEDNS0(ednsSize, dnsmessage.RCodeSuccess, false); err != nil {
			return nil, err
		}
		m.Additionals = append(m.Additionals, opt)
	}
	return m.Pack()
}

// errOther says that a message is no answer to the query.
var errOther = errors.New("not the answer to this query")

// verdict judges an answer: whether it is truncated, or what is wrong with it.
func verdict(message []byte, id uint16, name string, kind dnsmessage.Type) (truncated bool, err error) {
	var p dnsmessage.Parser
	header, err := p.Start(message)
	if err != nil || header.ID != id || !header.Response {
		return false, errOther
	}
	q, err := p.Question()
	if err != nil || q.Type != kind || !strings.EqualFold(q.Name.String(), name) {
		return false, errOther
	}
	if header.RCode != dnsmessage.RCodeSuccess {
		return false, fmt.Errorf("the server says %s", code(header.RCode))
	}
	if header.Truncated {
		return true, nil
	}
	if err := p.SkipAllQuestions(); err != nil {
		return false, fmt.Errorf("the answer cannot be read: %w", err)
	}
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			return false, errors.New("the answer has no such record")
		}
		if h.Type == kind {
			return false, nil
		}
		if err := p.SkipAnswer(); err != nil {
			return false, fmt.Errorf("the answer cannot be read: %w", err)
		}
	}
}

// code is a response code as tools print it (RFC 1035 section 4.1.1).
func code(c dnsmessage.RCode) string {
	switch c {
	case dnsmessage.RCodeServerFailure:
		return "SERVFAIL"
	case dnsmessage.RCodeNameError:
		return "NXDOMAIN"
	case dnsmessage.RCodeRefused:
		return "REFUSED"
	case dnsmessage.RCodeFormatError:
		return "FORMERR"
	case dnsmessage.RCodeNotImplemented:
		return "NOTIMP"
	}
	return fmt.Sprintf("RCODE %d", c)
}
