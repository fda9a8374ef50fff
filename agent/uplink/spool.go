// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	segmentSuffix = ".episodes"
	// segmentsPerSpool is how many files a full spool has. A full spool gives up
	// its oldest file, so this is also the share of it that is lost at once.
	segmentsPerSpool = 16
)

// errSpoolInUse means that another agent has the directory.
var errSpoolInUse = errors.New("another agent uses the spool directory")

// A segment is one file of the spool. Only the last one grows by episodes; done
// marks go to the segment of the episode they are about.
type segment struct {
	number uint64
	path   string
	file   *os.File
	size   int64
	// live counts the episodes that are not done. At 0 the file is removed,
	// unless it is the last.
	live int
}

// A location is where the spool has an episode.
type location struct {
	segment *segment
	offset  int64
	length  int
}

// A spool keeps episodes on disk. It is append-only: what is done is marked, a
// file without live episodes is removed, and at the limit the oldest file goes.
// Nothing is ever rewritten, so there is no moment at which a crash could lose
// what was there before. Not safe for concurrent use, except read.
type spool struct {
	dir      string
	max      int64
	lock     *os.File
	segments []*segment
	// roll makes the next append begin a new segment.
	roll bool
	// sync is fsync(2); tests replace it.
	sync func(*os.File) error
}

// A spooled episode is one that an earlier run left.
type spooled struct {
	location
	payload []byte
}

// openSpool opens the spool in dir, making the directory if need be, and returns
// the episodes that wait in it, oldest first, and how many records are damaged.
func openSpool(dir string, max int64) (_ *spool, waiting []spooled, damaged int, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, 0, fmt.Errorf("make spool directory: %w", err)
	}
	s := &spool{dir: dir, max: max, sync: (*os.File).Sync, roll: true}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	s.lock, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("open spool lock: %w", err)
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errSpoolInUse
		}
		return nil, nil, 0, fmt.Errorf("lock spool %s: %w", dir, err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("list spool: %w", err)
	}
	for _, name := range names {
		var number uint64
		if _, err := fmt.Sscanf(name.Name(), "%016x"+segmentSuffix, &number); err != nil || !name.Type().IsRegular() || !strings.HasSuffix(name.Name(), segmentSuffix) {
			continue
		}
		found, bad, err := s.load(number)
		if err != nil {
			return nil, nil, 0, err
		}
		waiting = append(waiting, found...)
		damaged += bad
	}
	slices.SortFunc(s.segments, func(a, b *segment) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	slices.SortStableFunc(waiting, func(a, b spooled) int {
		if a.segment.number < b.segment.number {
			return -1
		}
		if a.segment.number > b.segment.number {
			return 1
		}
		return 0
	})
	for _, g := range slices.Clone(s.segments) {
		if g.live == 0 {
			s.remove(g)
		}
	}
	return s, waiting, damaged, nil
}

func segmentPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x", number)+segmentSuffix)
}

// load reads one segment that an earlier run left and cuts off its torn tail.
func (s *spool) load(number uint64) ([]spooled, int, error) {
	path := segmentPath(s.dir, number)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("open spool segment: %w", err)
	}
	g := &segment{number: number, path: path, file: f}
	s.segments = append(s.segments, g)
	// No segment that this code wrote is larger than the spool.
	data, err := io.ReadAll(io.LimitReader(f, s.max+maxEpisodeBytes))
	if err != nil {
		return nil, 0, fmt.Errorf("read spool segment %s: %w", path, err)
	}
	live, valid, damaged := decodeSegment(data)
	if valid < len(data) {
		if err := f.Truncate(int64(valid)); err != nil {
			return nil, 0, fmt.Errorf("cut torn tail of spool segment %s: %w", path, err)
		}
	}
	g.size, g.live = int64(valid), len(live)
	var found []spooled
	for _, r := range live {
		found = append(found, spooled{location{g, r.offset, len(r.payload)}, r.payload})
	}
	return found, damaged, nil
}

// append writes one episode; it is durable after flush. It returns the segments
// that had to go to make room.
func (s *spool) append(payload []byte) (loc location, evicted []*segment, err error) {
	// The magic is counted whether or not a new segment begins.
	need := int64(len(segmentMagic) + recordOverhead + len(payload))
	if need > s.max {
		return location{}, nil, fmt.Errorf("spool episode of %d bytes: the spool is limited to %d", len(payload), s.max)
	}
	last := s.last()
	fresh := last == nil || s.roll || last.size+need > max(s.max/segmentsPerSpool, need)
	for s.bytes()+need > s.max && len(s.segments) > 0 {
		oldest := s.segments[0]
		fresh = fresh || len(s.segments) == 1
		evicted = append(evicted, oldest)
		s.remove(oldest)
	}
	if fresh {
		if last, err = s.begin(); err != nil {
			return location{}, evicted, err
		}
	}
	offset := last.size
	if err := last.write(appendRecord(nil, kindEpisode, payload)); err != nil {
		return location{}, evicted, err
	}
	last.live++
	return location{last, offset, len(payload)}, evicted, nil
}

// begin makes the next segment the last one and removes the one before if
// nothing in it is needed.
func (s *spool) begin() (*segment, error) {
	number := uint64(1)
	last := s.last()
	if last != nil {
		number = last.number + 1
	}
	path := segmentPath(s.dir, number)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make spool segment: %w", err)
	}
	g := &segment{number: number, path: path, file: f}
	if err := g.write([]byte(segmentMagic)); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	if err := syncDir(s.dir); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	s.segments = append(s.segments, g)
	s.roll = false
	if last != nil && last.live == 0 {
		s.remove(last)
	}
	return g, nil
}

// write appends to the segment; what a failed write left behind is cut off, so
// that a full disk does not damage what is there.
func (g *segment) write(b []byte) error {
	n, err := g.file.Write(b)
	if err != nil {
		err = fmt.Errorf("write spool segment: %w", err)
		if n > 0 {
			if cut := g.file.Truncate(g.size); cut != nil {
				err = errors.Join(err, fmt.Errorf("cut spool segment back: %w", cut))
			}
		}
		return err
	}
	g.size += int64(len(b))
	return nil
}

// flush makes everything that was appended durable. After an error the next
// append begins a new segment: what the kernel kept of this one is not known
// (fsync(2), EIO).
func (s *spool) flush() error {
	last := s.last()
	if last == nil {
		return nil
	}
	if err := s.sync(last.file); err != nil {
		s.roll = true
		return fmt.Errorf("fsync spool segment: %w", err)
	}
	return nil
}

// done marks an episode as not needed any more. The mark is not fsynced: if it
// is lost, the episode is sent once more, which does no harm.
func (s *spool) done(loc location) error {
	g := loc.segment
	if !slices.Contains(s.segments, g) {
		return nil
	}
	g.live--
	if g.live == 0 && (g != s.last() || g.size > s.max/segmentsPerSpool/4) {
		s.remove(g)
		return nil
	}
	return g.write(appendDone(nil, loc.offset))
}

// read returns an episode's payload. Safe to call beside other methods.
func (loc location) read() ([]byte, error) {
	buf := make([]byte, recordOverhead+loc.length)
	if _, err := loc.segment.file.ReadAt(buf, loc.offset); err != nil {
		return nil, fmt.Errorf("read spooled episode: %w", err)
	}
	live, _, _ := decodeSegment(append([]byte(segmentMagic), buf...))
	if len(live) != 1 {
		return nil, fmt.Errorf("read spooled episode at %d of %s: the record is damaged", loc.offset, loc.segment.path)
	}
	return live[0].payload, nil
}

// remove forgets a segment and its file.
func (s *spool) remove(g *segment) {
	s.segments = slices.DeleteFunc(s.segments, func(o *segment) bool { return o == g })
	// If the file stays its episodes are sent again after a restart.
	_ = os.Remove(g.path)
	_ = g.file.Close()
}

func (s *spool) last() *segment {
	if len(s.segments) == 0 {
		return nil
	}
	return s.segments[len(s.segments)-1]
}

// bytes is what the spool holds on disk.
func (s *spool) bytes() int64 {
	sum := int64(0)
	for _, g := range s.segments {
		sum += g.size
	}
	return sum
}

func (s *spool) close() {
	for _, g := range s.segments {
		_ = g.file.Close()
	}
	if s.lock != nil {
		_ = s.lock.Close()
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open spool directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("fsync spool directory: %w", err)
	}
	return nil
}
