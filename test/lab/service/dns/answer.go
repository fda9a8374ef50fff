// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// ttl is what the server lets others keep an answer for, in seconds: as long as
// CoreDNS does by default for a cluster's services (its plugin kubernetes, ttl).
const ttl = 5

// A zone holds what the names answer.
type zone struct {
	// name ends with a dot, in small letters.
	name string
	// addresses are by the full name, in small letters.
	addresses map[string][]netip.Addr
	// sized names answer TXT with a message of so many bytes.
	sized map[string]int
}

// answer returns the message that a query gets over TCP, and over UDP when that is
// shorter: without the answers and with TC when the whole one is longer than the
// client takes (RFC 2181 section 9).
func (z zone) answer(q query) (tcp, udp []byte, err error) {
	tcp, err = z.whole(q)
	if err != nil || len(tcp) <= q.udp {
		return tcp, tcp, err
	}
	udp, err = q.build(dnsmessage.RCodeSuccess, true, nil, false)
	return tcp, udp, err
}

// whole returns the complete answer.
func (z zone) whole(q query) ([]byte, error) {
	if q.wrong != 0 {
		return q.build(q.wrong, false, nil, false)
	}
	if q.question.Class != dnsmessage.ClassINET {
		return q.build(dnsmessage.RCodeRefused, false, nil, false)
	}
	name := strings.ToLower(q.question.Name.String())
	inside := name == z.name || strings.HasSuffix(name, "."+z.name)
	size, sized := z.sized[name]
	addresses, known := z.addresses[name]
	switch {
	case sized && q.question.Type == dnsmessage.TypeTXT:
		return z.padded(q, size)
	case sized || known || name == z.name:
		return z.records(q, addresses)
	}
	return q.build(dnsmessage.RCodeNameError, inside, z.authority(inside), false)
}

// records answers with the addresses of the family that was asked for; with none it
// says that the name is there but such a record is not (RFC 2308 section 2.2).
func (z zone) records(q query, addresses []netip.Addr) ([]byte, error) {
	var bodies []dnsmessage.ResourceBody
	for _, a := range addresses {
		switch {
		case q.question.Type == dnsmessage.TypeA && a.Is4():
			bodies = append(bodies, &dnsmessage.AResource{A: a.As4()})
		case q.question.Type == dnsmessage.TypeAAAA && a.Is6():
			bodies = append(bodies, &dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	if len(bodies) == 0 {
		return q.build(dnsmessage.RCodeSuccess, true, z.authority(true), false)
	}
	var resources []dnsmessage.Resource
	for _, body := range bodies {
		resources = append(resources, dnsmessage.Resource{Header: q.header(q.question.Name), Body: body})
	}
	return q.build(dnsmessage.RCodeSuccess, true, resources, true)
}

// padded answers with a TXT record that makes the whole message size bytes long,
// whatever the length of the name and whether EDNS is spoken.
func (z zone) padded(q query, size int) ([]byte, error) {
	message, err := q.text(1)
	if err != nil {
		return nil, err
	}
	if message, err = q.text(size - len(message) + 1); err != nil {
		return nil, err
	}
	if len(message) != size {
		return nil, fmt.Errorf("an answer of %d bytes came out as %d", size, len(message))
	}
	return message, nil
}

// text answers with a TXT record whose data is so many bytes (at least one).
func (q query) text(bytes int) ([]byte, error) {
	if bytes < 1 {
		return nil, errors.New("the answer is to be shorter than its own head")
	}
	// Each string has a byte before it that says its length, at most 255.
	var texts []string
	for bytes > 0 {
		n := min(bytes-1, 255)
		texts = append(texts, strings.Repeat("x", n))
		bytes -= n + 1
	}
	return q.build(dnsmessage.RCodeSuccess, true, []dnsmessage.Resource{
		{Header: q.header(q.question.Name), Body: &dnsmessage.TXTResource{TXT: texts}},
	}, true)
}

func (q query) header(name dnsmessage.Name) dnsmessage.ResourceHeader {
	return dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: ttl}
}

// authority is the SOA that tells others how long to remember that something is not
// there (RFC 2308 section 3); nil outside of the zone.
func (z zone) authority(inside bool) []dnsmessage.Resource {
	if !inside {
		return nil
	}
	name := dnsmessage.MustNewName(z.name)
	return []dnsmessage.Resource{{
		Header: query{}.header(name),
		Body: &dnsmessage.SOAResource{
			NS: name, MBox: name, Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, MinTTL: ttl,
		},
	}}
}

// build lays out a message: resources are answers, or else the authority. Without
// resources and with success it is a truncated one.
func (q query) build(rcode dnsmessage.RCode, authoritative bool, resources []dnsmessage.Resource, answers bool) ([]byte, error) {
	message := dnsmessage.Message{Header: dnsmessage.Header{
		ID: q.id, Response: true, OpCode: q.opcode, Authoritative: authoritative,
		Truncated:          rcode == dnsmessage.RCodeSuccess && len(resources) == 0,
		RecursionDesired:   q.recursed,
		RecursionAvailable: true,
		RCode:              rcode & 0xf,
	}}
	if q.asked {
		message.Questions = []dnsmessage.Question{q.question}
	}
	if answers {
		message.Answers = resources
	} else {
		message.Authorities = resources
	}
	if q.edns {
		var header dnsmessage.ResourceHeader
		if err := header.SetEDNS0(maxUDP, rcode, q.do); err != nil {
			return nil, err
		}
		message.Additionals = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.OPTResource{}}}
	}
	return message.Pack()
}

// newZone checks names and sizes.
func newZone(cfg Config) (zone, error) {
	z := zone{
		name:      strings.ToLower(strings.TrimSuffix(cfg.Zone, ".")) + ".",
		addresses: map[string][]netip.Addr{},
		sized:     map[string]int{},
	}
	for name, addresses := range cfg.Names {
		if lower := strings.ToLower(name); lower == largeName || lower == hugeName {
			return zone{}, fmt.Errorf("name server: the name %q is the server's own: choose another", name)
		}
		z.addresses[strings.ToLower(name)+"."+z.name] = slices.Clone(addresses)
	}
	z.sized[largeName+"."+z.name] = cfg.LargeBytes
	z.sized[hugeName+"."+z.name] = cfg.HugeBytes
	for name := range z.addresses {
		if err := packable(name); err != nil {
			return zone{}, err
		}
	}
	for name := range z.sized {
		if err := packable(name); err != nil {
			return zone{}, err
		}
	}
	return z, nil
}

// packable says whether a name can stand in a message: RFC 1035 section 2.3.4, 63
// bytes for a label and 255 for the whole.
func packable(name string) error {
	parsed, err := dnsmessage.NewName(name)
	if err == nil {
		message := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: parsed, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
		_, err = message.Pack()
	}
	if err != nil {
		return fmt.Errorf("name server: %q is no name: %w", name, err)
	}
	return nil
}
