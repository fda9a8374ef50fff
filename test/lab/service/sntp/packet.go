// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package sntp

import (
	"encoding/binary"
	"time"
)

const (
	// packetSize is the header without extensions, RFC 5905 figure 8.
	packetSize = 48
	// ntpToUnix is the number of seconds from 1900 to 1970, RFC 5905 figure 4.
	ntpToUnix = 2208988800
	// maxVersion is that of RFC 5905; a server drops what is newer (section 9.2), and
	// version 0 (RFC 4330 section 5).
	maxVersion = 4
)

// The modes of an association, RFC 5905 figure 10.
const (
	modeSymmetricActive  = 1
	modeSymmetricPassive = 2
	modeClient           = 3
	modeServer           = 4
)

// A request is what the answer needs of a client's packet.
type request struct {
	version, mode, poll byte
	// transmit goes back as it came, bits that are no time included.
	transmit [8]byte
}

// parse reads a client's packet. It is false for what a server does not answer: one
// that is too short, of another version, or of a mode that asks for nothing.
// Extension fields and the authenticator behind the header are not looked at, for
// this server has no keys (RFC 5905 section 7.3: an answer without them is one that
// is not authenticated).
func parse(packet []byte) (request, bool) {
	if len(packet) < packetSize {
		return request{}, false
	}
	r := request{version: packet[0] >> 3 & 7, mode: packet[0] & 7, poll: packet[2]}
	copy(r.transmit[:], packet[40:48])
	asks := r.mode == modeClient || r.mode == modeSymmetricActive
	return r, asks && r.version >= 1 && r.version <= maxVersion
}

// reply lays out the server's packet: RFC 4330 section 5, which fields a server
// copies and which it sets.
func reply(r request, cfg Config, received, sent time.Time) []byte {
	mode := byte(modeServer)
	if r.mode == modeSymmetricActive {
		mode = modeSymmetricPassive
	}
	p := make([]byte, packetSize)
	p[0] = cfg.Leap<<6 | r.version<<3 | mode
	p[1] = cfg.Stratum
	p[2] = r.poll
	p[3] = byte(cfg.Precision)
	binary.BigEndian.PutUint32(p[4:], short(cfg.RootDelay))
	binary.BigEndian.PutUint32(p[8:], short(cfg.RootDispersion))
	copy(p[12:16], cfg.ReferenceID[:])
	// The server heard from its own source not long ago.
	binary.BigEndian.PutUint64(p[16:], stamp(received.Add(-lastUpdate)))
	copy(p[24:32], r.transmit[:])
	binary.BigEndian.PutUint64(p[32:], stamp(received))
	binary.BigEndian.PutUint64(p[40:], stamp(sent))
	return p
}

// short is the 16.16 format of seconds, RFC 5905 section 6.
func short(d time.Duration) uint32 {
	return uint32(uint64(d) << 16 / uint64(time.Second))
}

// stamp is the 32.32 format of RFC 5905 section 6, in the era that the time is in.
func stamp(t time.Time) uint64 {
	seconds := uint64(t.Unix() + ntpToUnix)
	fraction := uint64(t.Nanosecond()) << 32 / uint64(time.Second)
	return seconds<<32 | fraction
}
