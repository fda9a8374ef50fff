// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"golang.org/x/net/dns/dnsmessage"
)

const (
	// minUDP is what every client takes, RFC 1035 section 4.2.1; a smaller size in
	// EDNS means this one (RFC 6891 section 6.2.3).
	minUDP = 512
	// maxUDP is the most that the server sends, the size that RFC 6891 section 6.2.5
	// suggests to start with.
	maxUDP = 4096
	// badVersion is the answer to an EDNS version above 0, RFC 6891 section 9.
	badVersion dnsmessage.RCode = 16
)

// A query is what an answer needs of a client's message.
type query struct {
	id       uint16
	opcode   dnsmessage.OpCode
	recursed bool // RD
	question dnsmessage.Question
	// asked says whether there is a question to be repeated.
	asked bool
	edns  bool
	// udp is the longest message that the client takes over UDP.
	udp int
	do  bool
	// wrong is an error that the message itself is answered with.
	wrong dnsmessage.RCode
}

// parse reads a client's message. It is false for what a server does not answer at
// all: a message without a whole header, and one that is itself an answer.
func parse(message []byte) (query, bool) {
	var p dnsmessage.Parser
	header, err := p.Start(message)
	if err != nil || header.Response {
		return query{}, false
	}
	q := query{id: header.ID, opcode: header.OpCode, recursed: header.RecursionDesired, udp: minUDP}
	if header.OpCode != 0 {
		q.wrong = dnsmessage.RCodeNotImplemented
		return q, true
	}
	// RFC 9619: exactly one question.
	questions, err := p.AllQuestions()
	if err != nil || len(questions) != 1 {
		q.wrong = dnsmessage.RCodeFormatError
		return q, true
	}
	q.question, q.asked = questions[0], true
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil || !q.options(&p) {
		q.wrong = dnsmessage.RCodeFormatError
	}
	return q, true
}

// options reads what EDNS says. It is false for a section that cannot be read and
// for more than one OPT (RFC 6891 section 6.1.1).
func (q *query) options(p *dnsmessage.Parser) bool {
	for {
		header, err := p.AdditionalHeader()
		if err == dnsmessage.ErrSectionDone {
			return true
		}
		if err != nil || p.SkipAdditional() != nil {
			return false
		}
		if header.Type != dnsmessage.TypeOPT {
			continue
		}
		if q.edns || header.Name.Length != 1 {
			return false
		}
		// The class holds the size, and the TTL holds the version in its second byte
		// (RFC 6891 section 6.1.3).
		q.edns, q.do = true, header.DNSSECAllowed()
		q.udp = min(max(int(header.Class), minUDP), maxUDP)
		if header.TTL>>16&0xff != 0 {
			q.wrong = badVersion
		}
	}
}
