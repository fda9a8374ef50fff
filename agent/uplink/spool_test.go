// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func open(t *testing.T, dir string, max int64) (*spool, []string, int) {
	t.Helper()
	s, waiting, damaged, err := openSpool(dir, max)
	require.NoError(t, err)
	t.Cleanup(s.close)
	var payloads []string
	for _, w := range waiting {
		payloads = append(payloads, string(w.payload))
	}
	return s, payloads, damaged
}

func appendAll(t *testing.T, s *spool, payloads ...string) []location {
	t.Helper()
	var out []location
	for _, p := range payloads {
		loc, evicted, err := s.append([]byte(p))
		require.NoError(t, err)
		require.Empty(t, evicted)
		out = append(out, loc)
	}
	require.NoError(t, s.flush())
	return out
}

func segmentFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	require.NoError(t, err)
	return files
}

func TestTheSpoolGivesBackWhatIsNotDone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "for it")
	s, waiting, _ := open(t, dir, 1<<20)
	require.Empty(t, waiting)
	locs := appendAll(t, s, "a", "b", "c")
	read, err := locs[1].read()
	require.NoError(t, err)
	require.Equal(t, "b", string(read))
	require.NoError(t, s.done(locs[1]))
	for _, f := range segmentFiles(t, dir) {
		info, err := os.Stat(f)
		require.NoError(t, err)
		require.EqualValues(t, 0o600, info.Mode().Perm())
	}
	s.close()

	s, waiting, damaged := open(t, dir, 1<<20)
	require.Equal(t, []string{"a", "c"}, waiting)
	require.Zero(t, damaged)
	// New ones come after old ones, also over a third run.
	appendAll(t, s, "d")
	s.close()
	_, waiting, _ = open(t, dir, 1<<20)
	require.Equal(t, []string{"a", "c", "d"}, waiting)
}

func TestTheSpoolIsForOneAgentAtATime(t *testing.T) {
	dir := t.TempDir()
	s, _, _ := open(t, dir, 1<<20)
	_, _, _, err := openSpool(dir, 1<<20)
	require.ErrorIs(t, err, errSpoolInUse)
	s.close()
	open(t, dir, 1<<20)
}

func TestAFullSpoolGivesUpItsOldest(t *testing.T) {
	dir := t.TempDir()
	const max = 16 << 10
	s, _, _ := open(t, dir, max)
	var evicted []*segment
	live := map[*segment][]string{}
	for i := range 200 {
		payload := fmt.Sprintf("%03d %s", i, bytes.Repeat([]byte("x"), 200))
		loc, gone, err := s.append([]byte(payload))
		require.NoError(t, err)
		evicted = append(evicted, gone...)
		live[loc.segment] = append(live[loc.segment], payload)
		require.LessOrEqual(t, s.bytes(), int64(max))
	}
	require.NotEmpty(t, evicted)
	for _, g := range evicted {
		delete(live, g)
	}
	s.close()
	_, waiting, _ := open(t, dir, max)
	kept := 0
	for _, payloads := range live {
		kept += len(payloads)
		for _, p := range payloads {
			require.Contains(t, waiting, p)
		}
	}
	require.Len(t, waiting, kept)
	require.GreaterOrEqual(t, kept, 60, "no more than a sixteenth goes at once")
	require.Equal(t, "199", waiting[len(waiting)-1][:3])
}

func TestFilesWithoutLiveEpisodesGo(t *testing.T) {
	dir := t.TempDir()
	s, _, _ := open(t, dir, 16<<10)
	var locs []location
	for range 40 {
		locs = append(locs, appendAll(t, s, string(bytes.Repeat([]byte("x"), 200)))...)
	}
	require.Greater(t, len(segmentFiles(t, dir)), 5)
	for _, loc := range locs {
		require.NoError(t, s.done(loc))
	}
	require.LessOrEqual(t, s.bytes(), int64(1<<10))
	s.close()
	_, waiting, _ := open(t, dir, 16<<10)
	require.Empty(t, waiting)
	require.Empty(t, segmentFiles(t, dir))
}

func TestDamageCostsOnlyWhatItHits(t *testing.T) {
	whole := []byte(segmentMagic)
	var ends []int
	for _, p := range []string{"first", "second", "third"} {
		whole = appendRecord(whole, kindEpisode, []byte(p))
		ends = append(ends, len(whole))
	}
	tests := []struct {
		name    string
		data    []byte
		live    []string
		damaged int
	}{
		{"whole", whole, []string{"first", "second", "third"}, 0},
		{"empty", nil, nil, 0},
		{"only the magic", whole[:len(segmentMagic)], nil, 0},
		{"half a magic", whole[:4], nil, 1},
		{"another file", []byte("#!/bin/sh\necho hello\n"), nil, 1},
		{"torn in the payload", whole[:ends[2]-1], []string{"first", "second"}, 1},
		{"torn in the head", whole[:ends[1]+3], []string{"first", "second"}, 1},
		{"zeros at the end", append(bytes.Clone(whole), make([]byte, 100)...), []string{"first", "second", "third"}, 1},
		{"a flipped bit in a payload", flip(whole, ends[0]+10), []string{"first", "third"}, 1},
		{"a flipped bit in a sum", flip(whole, ends[0]+5), []string{"first", "third"}, 1},
		{"a length beyond the end", flip(whole, ends[0]+1), []string{"first"}, 1},
		{"the second is done", appendDone(bytes.Clone(whole), int64(ends[0])), []string{"first", "third"}, 0},
		{"a kind that is not known", appendRecord(bytes.Clone(whole), 77, []byte("?")), []string{"first", "second", "third"}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			live, valid, damaged := decodeSegment(tt.data)
			var got []string
			for _, r := range live {
				got = append(got, string(r.payload))
			}
			require.Equal(t, tt.live, got)
			require.Equal(t, tt.damaged, damaged)
			require.LessOrEqual(t, valid, len(tt.data))

			// The same through a file; what was cut off stays cut off.
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(segmentPath(dir, 7), tt.data, 0o600))
			s, waiting, damaged := open(t, dir, 1<<20)
			require.Equal(t, tt.live, waiting)
			require.Equal(t, tt.damaged, damaged)
			appendAll(t, s, "more")
			s.close()
			_, waiting, _ = open(t, dir, 1<<20)
			require.Equal(t, append(append([]string(nil), tt.live...), "more"), waiting)
		})
	}
}

func flip(data []byte, at int) []byte {
	out := bytes.Clone(data)
	out[at] ^= 0x10
	return out
}

func TestAnEpisodeIsReadBackOnlyIfItIsWhole(t *testing.T) {
	dir := t.TempDir()
	s, _, _ := open(t, dir, 1<<20)
	locs := appendAll(t, s, "first", "second")
	f, err := os.OpenFile(segmentFiles(t, dir)[0], os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("X"), locs[0].offset+recordOverhead)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, err = locs[0].read()
	require.ErrorContains(t, err, "damaged")
	_, err = locs[1].read()
	require.NoError(t, err)
}

func FuzzDecodeSegment(f *testing.F) {
	seed := []byte(segmentMagic)
	for _, p := range []string{"first", "", "third"} {
		seed = appendRecord(seed, kindEpisode, []byte(p))
	}
	f.Add(seed, []byte("more"))
	f.Add(appendDone(bytes.Clone(seed), int64(len(segmentMagic))), []byte{})
	f.Add(seed[:len(seed)-3], []byte("x"))
	f.Add(append([]byte(segmentMagic), 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0), []byte("x"))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, data, payload []byte) {
		live, valid, damaged := decodeSegment(data)
		require.LessOrEqual(t, valid, len(data))
		require.False(t, valid < len(data) && damaged == 0, "what is cut off is counted")
		again, validAgain, _ := decodeSegment(data[:valid])
		require.Equal(t, valid, validAgain)
		require.Equal(t, len(live), len(again))
		if len(payload) > maxEpisodeBytes || valid < len(segmentMagic) {
			return
		}
		// Whatever is there, what is appended after it is read back, unless an
		// earlier mark happens to name its place.
		grown := appendRecord(bytes.Clone(data[:valid]), kindEpisode, payload)
		after, end, _ := decodeSegment(grown)
		require.Equal(t, len(grown), end)
		if !bytes.Contains(data[:valid], binary.BigEndian.AppendUint64(nil, uint64(valid))) {
			require.Len(t, after, len(live)+1)
			require.Equal(t, payload, append([]byte{}, after[len(after)-1].payload...))
		}
	})
}
