// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"encoding/binary"
	"hash/crc32"
)

// The spool is a row of segment files. A segment is the magic and then records:
//
//	4 bytes  length of the body, big endian
//	4 bytes  CRC32C of the length and the body, big endian
//	body     1 byte kind, then the payload
//
// An episode's payload is its wire form. A done mark's payload is the offset in
// the same segment of the episode that every endpoint has acknowledged.
const (
	segmentMagic   = "PLUMBSP1"
	recordOverhead = 8 + 1

	kindEpisode = 1
	kindDone    = 2

	// maxEpisodeBytes bounds one episode, as the aggregator does. Those of the
	// catalogue have at most a few kilobytes; a length beyond it in a spool is
	// damage.
	maxEpisodeBytes = 16 << 10
)

// A record is what one append wrote.
type record struct {
	kind    byte
	offset  int64
	payload []byte
}

// castagnoli is CRC32C, which has a machine instruction on amd64 and arm64.
func castagnoli(parts ...[]byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := uint32(0)
	for _, p := range parts {
		sum = crc32.Update(sum, table, p)
	}
	return sum
}

// appendRecord appends the encoding of one record to dst.
func appendRecord(dst []byte, kind byte, payload []byte) []byte {
	var head [8]byte
	binary.BigEndian.PutUint32(head[:4], uint32(1+len(payload)))
	binary.BigEndian.PutUint32(head[4:], castagnoli(head[:4], []byte{kind}, payload))
	dst = append(dst, head[:]...)
	dst = append(dst, kind)
	return append(dst, payload...)
}

// appendDone appends the done mark of the episode at an offset.
func appendDone(dst []byte, offset int64) []byte {
	return appendRecord(dst, kindDone, binary.BigEndian.AppendUint64(nil, uint64(offset)))
}

// decodeSegment returns the episodes of a segment that are not marked as done,
// how many of its first bytes are in order, and how many records are damaged.
//
// A record whose sum is wrong is passed over. Where the length makes no sense
// or the data ends within a record, the rest is one damaged record: the torn
// tail of an append that was cut off by a crash, which had not been promised to
// anybody. The payloads share memory with data.
func decodeSegment(data []byte) (live []record, valid int, damaged int) {
	if len(data) < len(segmentMagic) || string(data[:len(segmentMagic)]) != segmentMagic {
		if len(data) == 0 {
			return nil, 0, 0
		}
		return nil, 0, 1
	}
	done := map[int64]bool{}
	at := len(segmentMagic)
	for at < len(data) {
		rest := data[at:]
		if len(rest) < recordOverhead {
			damaged++
			break
		}
		length := int64(binary.BigEndian.Uint32(rest))
		if length < 1 || length > 1+maxEpisodeBytes || 8+length > int64(len(rest)) {
			damaged++
			break
		}
		body := rest[8 : 8+length]
		offset := int64(at)
		at += 8 + int(length)
		if binary.BigEndian.Uint32(rest[4:8]) != castagnoli(rest[:4], body) {
			damaged++
			continue
		}
		switch payload := body[1:]; {
		case body[0] == kindEpisode:
			live = append(live, record{kindEpisode, offset, payload})
		case body[0] == kindDone && len(payload) == 8:
			done[int64(binary.BigEndian.Uint64(payload))] = true
		default:
			damaged++
		}
	}
	kept := live[:0]
	for _, r := range live {
		if !done[r.offset] {
			kept = append(kept, r)
		}
	}
	return kept, at, damaged
}
