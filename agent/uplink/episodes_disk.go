// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import "slices"

// writeOut brings the spool up to date: it opens it if need be, appends what is
// new, makes that durable with one fsync, and marks what is done. It runs in the
// disk goroutine only and holds no lock while it touches the disk.
func (s *episodeStore) writeOut() {
	if s.spool == nil && !s.open() {
		return
	}
	s.mu.Lock()
	var fresh []*entry
	for _, e := range s.entries {
		if !e.spooled && e.data != nil {
			fresh = append(fresh, e)
		}
	}
	payloads := make([][]byte, len(fresh))
	for i, e := range fresh {
		payloads[i] = e.data
	}
	done := s.done
	s.done = nil
	s.mu.Unlock()

	var failure error
	// Done marks first: they may free the room that the new ones need.
	for _, loc := range done {
		if err := s.spool.done(loc); err != nil {
			failure = err
		}
	}
	locations := make([]location, 0, len(fresh))
	var evicted []*segment
	for _, payload := range payloads {
		loc, gone, err := s.spool.append(payload)
		evicted = append(evicted, gone...)
		if err != nil {
			failure = err
			break
		}
		locations = append(locations, loc)
	}
	durable := true
	if len(locations) > 0 {
		if err := s.spool.flush(); err != nil {
			failure, durable = err, false
		}
	}
	s.settleDisk(fresh, locations, evicted, durable, failure)
}

// open opens the spool and puts the episodes of earlier runs before those of
// this one. It says whether there is a spool now; if not it is tried again with
// the next episode or acknowledgement.
func (s *episodeStore) open() bool {
	sp, waiting, damaged, err := openSpool(s.dir, s.spoolMax)
	if err != nil {
		s.settleDisk(nil, nil, nil, true, err)
		return false
	}
	s.spool = sp
	old := make([]*entry, 0, len(waiting))
	for _, w := range waiting {
		old = append(old, &entry{size: len(w.payload), spooled: true, loc: w.location})
	}
	s.mu.Lock()
	s.entries = append(old, s.entries...)
	s.damaged += uint64(damaged)
	s.spoolBytes = sp.bytes()
	s.mu.Unlock()
	if len(waiting) > 0 || damaged > 0 {
		s.log.Info("found episodes of an earlier run in the spool", "episodes", len(waiting), "damaged_records", damaged)
	}
	return true
}

// settleDisk takes over what a round of the disk brought. The first n of fresh
// are at the n locations.
func (s *episodeStore) settleDisk(fresh []*entry, locations []location, evicted []*segment, durable bool, failure error) {
	s.mu.Lock()
	for i, loc := range locations {
		e := fresh[i]
		switch {
		case !durable || slices.Contains(evicted, loc.segment):
			// Stays in the ring; tried again with the next round.
		case e.gone:
			s.done = append(s.done, loc)
		default:
			e.spooled, e.loc = true, loc
		}
	}
	if len(evicted) > 0 {
		for _, e := range s.entries {
			if !e.spooled || !slices.Contains(evicted, e.loc.segment) {
				continue
			}
			e.spooled = false
			if e.data == nil {
				s.loseLocked(e)
			}
		}
		s.compactLocked()
	}
	if s.spool != nil {
		s.spoolBytes = s.spool.bytes()
	}
	s.slow = false
	was := s.failing
	s.failing = failure != nil
	if failure != nil {
		s.spoolErrors++
	}
	s.mu.Unlock()
	switch {
	case failure != nil && !was:
		s.log.Warn("spool fails; episodes are kept in memory only until it works again", "dir", s.dir, "error", failure)
	case failure == nil && was:
		s.log.Info("spool works again", "dir", s.dir)
	}
}

// close waits a moment for the disk and releases the spool.
func (s *episodeStore) close() {
	if s.dir == "" || !s.disk.close(readPatience) {
		return // a hung disk keeps its files until the process ends
	}
	s.mu.Lock()
	sp := s.spool
	s.spool = nil
	s.mu.Unlock()
	if sp != nil {
		sp.close()
	}
}
