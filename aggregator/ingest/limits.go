// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import "time"

// Limits bound what one node may send. A zero field gets its default.
type Limits struct {
	// BatchBytes bounds a message after decompression; 4 MiB. A full batch of a
	// node with 222 devices has about 300 KiB.
	BatchBytes int
	// BatchesPerSecond and BatchBurst bound the calls of a node; 5 and 60. An
	// agent sends one batch in 10 s, and one at once for what wakes it.
	BatchesPerSecond float64
	BatchBurst       int
	// BytesPerSecond and BytesBurst bound what a node sends, decompressed; 1 MiB
	// and 16 MiB.
	BytesPerSecond float64
	BytesBurst     int
	// CallsAtOnce bounds the calls of one node that are being served, besides its
	// stream; 8. More than one is normal: a retry over a new connection while the
	// old one hangs.
	CallsAtOnce int
	// Observations, Episodes, Probes and Removed bound the lists of a batch;
	// 20,000, 1,024, 64 and 20,000.
	Observations, Episodes, Probes, Removed int
	// EpisodeBytes bounds the journal's record of one episode; 16 KiB.
	EpisodeBytes int
	// Directives bounds the unacknowledged directives of one node; 32.
	Directives int
	// Heartbeat is the time between messages on an idle stream; 15 s.
	Heartbeat time.Duration
	// BodyTimeout bounds how long a request body may take; 30 s.
	BodyTimeout time.Duration
	// Nodes bounds the nodes that are remembered at once; 20,000.
	Nodes int
}

// Lengths of texts in bytes. An identifier over its length is refused; a detail
// is cut, because it is prose.
const (
	maxIdentifier = 128
	maxKey        = 512
	maxName       = 512
	maxText       = 4096
	maxDetail     = 1024
	// maxBoottime is a hundred years of nanoseconds: no machine is up longer, and
	// sums of two such stamps do not overflow.
	maxBoottime = uint64(100 * 366 * 24 * time.Hour)
)

func (l *Limits) complete() {
	setInt := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	setInt(&l.BatchBytes, 4<<20)
	setInt(&l.BatchBurst, 60)
	setInt(&l.BytesBurst, 16<<20)
	setInt(&l.CallsAtOnce, 8)
	setInt(&l.Observations, 20_000)
	setInt(&l.Episodes, 1024)
	setInt(&l.Probes, 64)
	setInt(&l.Removed, 20_000)
	setInt(&l.EpisodeBytes, 16<<10)
	setInt(&l.Directives, 32)
	setInt(&l.Nodes, 20_000)
	if l.BatchesPerSecond <= 0 {
		l.BatchesPerSecond = 5
	}
	if l.BytesPerSecond <= 0 {
		l.BytesPerSecond = 1 << 20
	}
	if l.Heartbeat <= 0 {
		l.Heartbeat = 15 * time.Second
	}
	if l.BodyTimeout <= 0 {
		l.BodyTimeout = 30 * time.Second
	}
}
