// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils"
)

func newStore(t *testing.T, dir string, ring int, max int64, endpoints int) (*episodeStore, *lockedBuffer) {
	t.Helper()
	logs := &lockedBuffer{}
	s := newEpisodeStore(dir, ring, max, endpoints, slog.New(slog.NewJSONHandler(io.MultiWriter(logs), nil)))
	t.Cleanup(s.close)
	return s, logs
}

func put(s *episodeStore, payload string) { s.settle(s.add([]byte(payload))) }

func payloads(list []loaded) []string {
	var out []string
	for _, l := range list {
		out = append(out, string(l.data))
	}
	return out
}

func TestTheRingDropsTheOldestAndCounts(t *testing.T) {
	s, _ := newStore(t, "", 100, 0, 2)
	for i := range 20 {
		s.add(fmt.Appendf(nil, "%010d", i))
	}
	require.Equal(t, 100, s.count().ringBytes)
	require.Equal(t, []uint64{10, 10}, s.count().dropped)
	require.Equal(t, "0000000010", payloads(s.next(0, unlimited, 1<<20))[0])

	// What one endpoint has is lost for the other only.
	s.ack(0, s.next(0, unlimited, 1<<20))
	require.Equal(t, 100, s.count().ringBytes, "the other still needs it")
	s.add([]byte("0123456789"))
	require.Equal(t, []uint64{10, 11}, s.count().dropped)
	s.ack(1, s.next(1, unlimited, 1<<20))
	s.ack(0, s.next(0, unlimited, 1<<20))
	require.Zero(t, s.count().ringBytes)
	require.Zero(t, s.waiting(0)+s.waiting(1))
}

func TestABatchTakesTheOldestThatFit(t *testing.T) {
	s, _ := newStore(t, "", 1<<20, 0, 1)
	for i := range 10 {
		s.add(fmt.Appendf(nil, "%010d", i))
	}
	require.Len(t, s.next(0, unlimited, 50), 3)
	require.Len(t, s.next(0, 2, 1<<20), 2)
	require.Len(t, s.next(0, 0, 1<<20), 0)
	require.Len(t, s.next(0, unlimited, 1), 1, "one always fits")
}

func TestWhatTheSpoolHasNeedNotBeInMemory(t *testing.T) {
	dir := t.TempDir()
	s, _ := newStore(t, dir, 100, 1<<20, 1)
	for i := range 50 {
		put(s, fmt.Sprintf("%010d", i))
	}
	require.LessOrEqual(t, s.count().ringBytes, 100)
	require.Zero(t, s.count().dropped[0])
	list := s.next(0, unlimited, 1<<20)
	require.Len(t, list, 50)
	require.Equal(t, "0000000000", string(list[0].data), "read back from the disk")
	s.ack(0, list[:20])
	s.close()

	s, logs := newStore(t, dir, 100, 1<<20, 1)
	put(s, "of the second run")
	list = s.next(0, unlimited, 1<<20)
	require.Len(t, list, 31)
	require.Equal(t, "0000000020", string(list[0].data))
	require.Equal(t, "of the second run", string(list[30].data))
	require.Contains(t, logs.String(), `"episodes":30`)
}

func TestAFullSpoolCountsWhatItLoses(t *testing.T) {
	const total = 400
	s, _ := newStore(t, t.TempDir(), 1<<10, 32<<10, 1)
	for i := range total {
		put(s, fmt.Sprintf("%03d%s", i, strings.Repeat("x", 197)))
	}
	require.LessOrEqual(t, s.count().spoolBytes, int64(32<<10))
	require.NotZero(t, s.count().dropped[0])
	// Nothing is lost without being counted.
	require.EqualValues(t, total, int(s.count().dropped[0])+s.waiting(0))
	require.Len(t, s.next(0, unlimited, 1<<20), s.waiting(0))
}

func TestADiskThatRefusesLeavesTheRing(t *testing.T) {
	dir := t.TempDir()
	s, logs := newStore(t, dir, 100, 1<<20, 1)
	put(s, "spooled ok")
	// fsync fails from now on; so may write, which looks the same from here.
	s.spool.sync = func(*os.File) error { return fmt.Errorf("no space left on device") }
	for i := range 20 {
		put(s, fmt.Sprintf("%010d", i))
	}
	require.Equal(t, 1, strings.Count(logs.String(), "spool fails"), "said once")
	require.NotZero(t, s.count().spoolErrors)
	require.LessOrEqual(t, s.count().ringBytes, 100)
	require.EqualValues(t, 21, int(s.count().dropped[0])+s.waiting(0))
	require.NotZero(t, s.count().dropped[0])
	s.mu.Lock()
	s.spool.sync = (*os.File).Sync
	s.mu.Unlock()
	put(s, "works once more")
	require.Equal(t, 1, strings.Count(logs.String(), "spool works again"))
	require.EqualValues(t, 22, int(s.count().dropped[0])+s.waiting(0))
}

func TestADiskThatHangsDoesNotStopTheAgent(t *testing.T) {
	s, logs := newStore(t, t.TempDir(), 100, 1<<20, 1)
	put(s, "spooled ok")
	release := make(chan struct{})
	s.spool.sync = func(f *os.File) error { <-release; return f.Sync() }
	began := time.Now()
	for i := range 30 {
		put(s, fmt.Sprintf("%010d", i))
	}
	require.Less(t, time.Since(began), 3*episodePatience, "only the first one waits")
	require.Contains(t, logs.String(), "spool is slow")
	require.Equal(t, "0000000029", string(s.next(0, unlimited, 1<<20)[s.waiting(0)-1].data), "the newest can be sent meanwhile")
	require.EqualValues(t, 31, int(s.count().dropped[0])+s.waiting(0))
	close(release)
	testutils.Eventually(t, 5*time.Second, "the disk to answer", func() bool {
		put(s, "x")
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.slow && s.entries[len(s.entries)-1].spooled
	})
}

func TestADirectoryThatCannotBeUsedIsTriedAgain(t *testing.T) {
	dir := t.TempDir() + "/spool"
	require.NoError(t, os.WriteFile(dir, []byte("a file is in the way"), 0o600))
	s, logs := newStore(t, dir, 1<<20, 1<<20, 1)
	put(s, "one")
	put(s, "two")
	require.Equal(t, 1, strings.Count(logs.String(), "spool fails"))
	require.NoError(t, os.Remove(dir))
	put(s, "three")
	require.Contains(t, logs.String(), "spool works again")
	s.close()
	s, _ = newStore(t, dir, 1<<20, 1<<20, 1)
	put(s, "four")
	require.Equal(t, []string{"one", "two", "three", "four"}, payloads(s.next(0, unlimited, 1<<20)))
}

func TestABadEpisodeIsFoundAndTheOthersGetThrough(t *testing.T) {
	for bad := range 9 {
		var q quarantine
		q.limit = unlimited
		waiting := []int{0, 1, 2, 3, 4, 5, 6, 7, 8}
		var delivered, dropped []int
		for rounds := 0; len(waiting) > 0; rounds++ {
			require.Less(t, rounds, 100)
			n := len(waiting)
			if q.limit != unlimited {
				n = min(n, q.limit)
			}
			refused := false
			for _, e := range waiting[:n] {
				refused = refused || e == bad
			}
			if refused {
				q.refused(n)
				continue
			}
			delivered = append(delivered, waiting[:n]...)
			waiting = waiting[n:]
			if q.accepted(n) {
				dropped = append(dropped, waiting[0])
				waiting = waiting[1:]
			}
		}
		require.Equal(t, []int{bad}, dropped)
		require.Len(t, delivered, 8)
	}
}

func TestNoEpisodeIsBlamedWhileTheEvidenceItselfIsRefused(t *testing.T) {
	var q quarantine
	q.limit = unlimited
	q.refused(1)
	q.refused(0)
	q.refused(0)
	require.Zero(t, q.limit)
	require.False(t, q.accepted(0), "it may have been the evidence all along")
	require.Equal(t, unlimited, q.limit)
	q.refused(1)
	require.True(t, q.accepted(0), "the same evidence was taken without it, so it is the episode")
}

func TestAFullDiskLeavesTheRingAndWhatWasSpooled(t *testing.T) {
	testutils.SkipUnlessRoot(t)
	dir := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	s, logs := newStore(t, dir, 4<<10, 1<<20, 1)
	const total = 500
	for i := range total {
		put(s, fmt.Sprintf("%03d%s", i, strings.Repeat("x", 197)))
	}
	require.Equal(t, 1, strings.Count(logs.String(), "spool fails"), logs.String())
	require.Contains(t, logs.String(), "no space left on device")
	require.EqualValues(t, total, int(s.count().dropped[0])+s.waiting(0))
	require.NotZero(t, s.count().dropped[0])
	list := s.next(0, unlimited, 1<<20)
	require.Equal(t, "000", string(list[0].data[:3]), "what was spooled before is still there")
	require.Equal(t, "499", string(list[len(list)-1].data[:3]), "and the newest is in memory")
	waiting := s.waiting(0)
	s.close()
	s, _ = newStore(t, dir, 4<<10, 1<<20, 1)
	put(s, "x")
	require.Zero(t, s.count().damaged)
	require.Greater(t, s.waiting(0), waiting/2)
}
