// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"log/slog"
	"sync"
	"time"
)

const (
	// episodePatience is how long handing over an episode waits for the disk. A
	// healthy fsync takes a few milliseconds; a hung one must not stop the agent.
	episodePatience = 500 * time.Millisecond
	// readPatience is the same for reading episodes back.
	readPatience = time.Second
)

// An entry is one episode that some endpoint has not acknowledged.
type entry struct {
	// data is the wire form; nil when only the spool has it.
	data []byte
	size int
	// spooled says that loc is valid and the episode is durable.
	spooled bool
	loc     location
	// acked has the bit of every endpoint that needs it no more.
	acked uint64
	// gone entries are in no list any more.
	gone bool
}

// An episodeStore keeps episodes until every endpoint has acknowledged them:
// the newest in memory, all of them in the spool if there is one. Safe for
// concurrent use.
type episodeStore struct {
	ringMax  int
	spoolMax int64
	dir      string
	log      *slog.Logger
	disk     *background

	mu          sync.Mutex
	entries     []*entry // oldest first
	ringBytes   int
	everyone    uint64
	dropped     []uint64   // per endpoint
	done        []location // not marked in the spool yet
	spoolBytes  int64
	spoolErrors uint64
	damaged     uint64
	failing     bool
	// slow says that the disk did not answer in time and still has not.
	slow    bool
	reading bool

	// spool belongs to the disk job.
	spool *spool
}

func newEpisodeStore(dir string, ringMax int, spoolMax int64, endpoints int, log *slog.Logger) *episodeStore {
	s := &episodeStore{
		ringMax: ringMax, spoolMax: spoolMax, dir: dir, log: log,
		everyone: 1<<endpoints - 1, dropped: make([]uint64, endpoints),
	}
	s.disk = newBackground(s.writeOut)
	return s
}

// add takes one episode. The channel is closed when the spool has it or has
// failed; it is nil when there is no spool.
func (s *episodeStore) add(data []byte) <-chan struct{} {
	s.mu.Lock()
	s.entries = append(s.entries, &entry{data: data, size: len(data)})
	s.ringBytes += len(data)
	if s.dir == "" {
		s.trimLocked()
	}
	s.mu.Unlock()
	if s.dir == "" {
		return nil
	}
	return s.disk.kick()
}

// settle waits a moment for the disk and then holds the ring to its limit, so
// that a burst larger than the ring can reach the spool. A disk that did not
// answer in time is not waited for again until it does.
func (s *episodeStore) settle(over <-chan struct{}) {
	if over == nil {
		return
	}
	s.mu.Lock()
	slow := s.slow
	s.mu.Unlock()
	answered := !slow && within(over, episodePatience)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !answered && !slow {
		select {
		case <-over:
		default:
			s.slow = true
			s.log.Warn("spool is slow; episodes are in memory until it answers", "dir", s.dir, "waited", episodePatience)
		}
	}
	s.trimLocked()
}

// trimLocked holds the ring to its limit: what the spool has leaves memory,
// oldest first; what it has not is lost and counted.
func (s *episodeStore) trimLocked() {
	if s.ringBytes <= s.ringMax {
		return
	}
	for _, e := range s.entries {
		if s.ringBytes <= s.ringMax {
			break
		}
		if e.data != nil && e.spooled {
			s.ringBytes -= len(e.data)
			e.data = nil
		}
	}
	for _, e := range s.entries {
		if s.ringBytes <= s.ringMax {
			break
		}
		if e.data != nil {
			s.loseLocked(e)
		}
	}
	s.compactLocked()
}

// loseLocked drops an entry and counts it for every endpoint that had not
// acknowledged it.
func (s *episodeStore) loseLocked(e *entry) {
	for i := range s.dropped {
		if e.acked&(1<<i) == 0 {
			s.dropped[i]++
		}
	}
	s.leaveLocked(e)
}

// leaveLocked takes an entry out; compactLocked removes it from the list.
func (s *episodeStore) leaveLocked(e *entry) {
	if e.gone {
		return
	}
	e.gone = true
	s.ringBytes -= len(e.data)
	e.data = nil
	if e.spooled {
		s.done = append(s.done, e.loc)
	}
}

func (s *episodeStore) compactLocked() {
	kept := s.entries[:0]
	for _, e := range s.entries {
		if !e.gone {
			kept = append(kept, e)
		}
	}
	clear(s.entries[len(kept):])
	s.entries = kept
}

// waiting counts the episodes that an endpoint has not acknowledged.
func (s *episodeStore) waiting(endpoint int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, e := range s.entries {
		if e.acked&(1<<endpoint) == 0 {
			n++
		}
	}
	return n
}

// A loaded entry is one with its data at hand.
type loaded struct {
	entry *entry
	data  []byte
}

// next returns the oldest episodes that an endpoint has not acknowledged, at
// most limit of them (limit < 0: as many as a batch may have) and at most
// maxBytes in all. Those
// that only the disk has are left out as long as it does not answer in time.
func (s *episodeStore) next(endpoint, limit, maxBytes int) []loaded {
	if limit < 0 {
		limit = maxBatchEpisodeCount
	}
	s.mu.Lock()
	var out []loaded
	var absent []int
	sum := 0
	for _, e := range s.entries {
		if len(out) >= limit {
			break
		}
		if e.acked&(1<<endpoint) != 0 {
			continue
		}
		// The tag and length of a repeated field cost at most 6 bytes.
		if sum+e.size+6 > maxBytes && len(out) > 0 {
			break
		}
		sum += e.size + 6
		if e.data == nil {
			absent = append(absent, len(out))
		}
		out = append(out, loaded{e, e.data})
	}
	busy := s.reading
	s.reading = s.reading || len(absent) > 0
	s.mu.Unlock()
	if len(absent) == 0 {
		return out
	}
	if !busy {
		s.readBack(out, absent)
	}
	return withData(out)
}

// readBack fills in the data of the entries at the given places. If the disk
// hangs they stay without and the caller goes on.
func (s *episodeStore) readBack(out []loaded, places []int) {
	type result struct {
		data []byte
		err  error
	}
	results := make([]result, len(places))
	locations := make([]location, len(places))
	s.mu.Lock()
	for i, p := range places {
		locations[i] = out[p].entry.loc
	}
	s.mu.Unlock()
	over := make(chan struct{})
	go func() {
		for i, loc := range locations {
			results[i].data, results[i].err = loc.read()
		}
		s.mu.Lock()
		s.reading = false
		s.mu.Unlock()
		close(over)
	}()
	if !within(over, readPatience) {
		s.log.Warn("spool does not answer; sending without the episodes that only it has", "waited", readPatience)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, p := range places {
		if results[i].err == nil {
			out[p].data = results[i].data
			continue
		}
		if e := out[p].entry; !e.gone {
			s.log.Warn("lost a spooled episode", "error", results[i].err)
			s.damaged++
			s.loseLocked(e)
		}
	}
	s.compactLocked()
}

func withData(in []loaded) []loaded {
	out := in[:0]
	for _, l := range in {
		if l.data != nil {
			out = append(out, l)
		}
	}
	return out
}

// ack records that an endpoint has these episodes, durably.
func (s *episodeStore) ack(endpoint int, acked []loaded) {
	s.settleFor(endpoint, acked, false)
}

// refuse records that an endpoint will never take these episodes; for it they
// are dropped and counted.
func (s *episodeStore) refuse(endpoint int, refused []loaded) {
	s.settleFor(endpoint, refused, true)
}

func (s *episodeStore) settleFor(endpoint int, which []loaded, lost bool) {
	if len(which) == 0 {
		return
	}
	s.mu.Lock()
	left := false
	for _, l := range which {
		e := l.entry
		if e.acked&(1<<endpoint) == 0 && lost {
			s.dropped[endpoint]++
		}
		e.acked |= 1 << endpoint
		if e.acked == s.everyone {
			s.leaveLocked(e)
			left = true
		}
	}
	if left {
		s.compactLocked()
	}
	s.mu.Unlock()
	if left && s.dir != "" {
		s.disk.kick()
	}
}

// An episodeCount is a moment of the store for status and metrics.
type episodeCount struct {
	ringBytes   int
	spoolBytes  int64
	dropped     []uint64
	spoolErrors uint64
	damaged     uint64
}

func (s *episodeStore) count() episodeCount {
	s.mu.Lock()
	defer s.mu.Unlock()
	return episodeCount{s.ringBytes, s.spoolBytes, append([]uint64(nil), s.dropped...), s.spoolErrors, s.damaged}
}

// lost counts an episode that cannot be kept at all.
func (s *episodeStore) lost() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.dropped {
		s.dropped[i]++
	}
}

func (s *episodeStore) droppedFor(endpoint int) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped[endpoint]
}
