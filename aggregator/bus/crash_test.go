// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// childDir tells a re-executed test binary to publish without end.
const childDir = "PLUMB_BUS_TEST_DIR"

// TestMain lets the binary be its own child process.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		publishForever(dir, os.Getenv(childDir+"_RUN"))
	}
	os.Exit(m.Run())
}

// publishForever prints each id after its acknowledgement; it ends by a kill.
func publishForever(dir, run string) {
	b, err := Open(context.Background(), testConfig(dir))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		id := fmt.Sprintf("%s-%d", run, i)
		// Sizes vary, so that a kill hits records at different places of a page.
		body := append([]byte(id+" "), bytes.Repeat([]byte{'x'}, rand.IntN(3000))...)
		if err := b.Publish(context.Background(), "episode.n", id, body); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(id)
	}
}

// killedRun starts a publisher and kills it soon after it has acknowledged some
// messages; it returns the ids that were acknowledged.
func killedRun(t *testing.T, dir, run string) []string {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childDir+"_RUN="+run)
	stderr := &bytes.Buffer{}
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var acked []string
	lines := bufio.NewScanner(out)
	after := 1 + rand.IntN(40)
	for lines.Scan() {
		acked = append(acked, lines.Text())
		if len(acked) == after {
			// The publisher goes on meanwhile; what it still prints before it dies is
			// acknowledged, too.
			time.AfterFunc(time.Duration(rand.IntN(8000))*time.Microsecond, func() { cmd.Process.Kill() })
		}
	}
	err = cmd.Wait()
	require.ErrorContains(t, err, "killed", stderr.String())
	return acked
}

func TestEveryAcknowledgedMessageSurvivesKill9(t *testing.T) {
	dir := t.TempDir()
	var acked []string
	for run := range 6 {
		acked = append(acked, killedRun(t, dir, fmt.Sprint("run", run))...)
	}
	b := open(t, testConfig(dir))
	have := map[string]bool{}
	for _, line := range replayed(t, b, ">") {
		have[strings.Fields(line)[1]] = true
	}
	for _, id := range acked {
		require.True(t, have[id], "%s was acknowledged and is lost", id)
	}
	t.Logf("%d messages were acknowledged before six kills, %d are there", len(acked), len(have))
}

// filled makes a store of n messages in several blocks of the server's files
// and ends it by a kill, so that no index lies beside them, or properly.
func filled(t *testing.T, n int) string {
	dir := t.TempDir()
	b, err := Open(context.Background(), testConfig(dir))
	require.NoError(t, err)
	for i := range n {
		require.NoError(t, b.Publish(context.Background(), "episode.n", fmt.Sprint(i), fmt.Appendf(nil, "%d %s", i, strings.Repeat("y", 1000))))
	}
	require.NoError(t, b.Close())
	return dir
}

func files(t *testing.T, dir, pattern string) []string {
	var out []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if ok, _ := filepath.Match(pattern, filepath.Base(path)); ok && err == nil {
			out = append(out, path)
		}
		return err
	}))
	sort.Strings(out)
	require.NotEmpty(t, out, pattern)
	return out
}

func TestDamagedStoreIsReportedAndNotUsed(t *testing.T) {
	flip := func(t *testing.T, path string, at float64) {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		data[int(float64(len(data))*at)] ^= 0xff
		require.NoError(t, os.WriteFile(path, data, 0o600))
	}
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		says   string
	}{
		{"the stream's description is garbage", func(t *testing.T, dir string) {
			for _, f := range files(t, dir, "meta.inf") {
				require.NoError(t, os.WriteFile(f, []byte("{garbage"), 0o600))
			}
		}, "cannot read stream"},
		{"the stream's description is gone", func(t *testing.T, dir string) {
			for _, f := range files(t, dir, "meta.inf") {
				require.NoError(t, os.Remove(f))
			}
		}, "cannot read stream"},
		{"a byte of a message changed", func(t *testing.T, dir string) {
			flip(t, files(t, dir, "1.blk")[0], 0.5)
		}, "were acknowledged"},
		{"the file of messages was cut", func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(files(t, dir, "1.blk")[0], 20_000))
		}, "were acknowledged"},
		{"the file of messages is gone", func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(files(t, dir, "1.blk")[0]))
		}, "were acknowledged"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := filled(t, 60)
			tc.damage(t, dir)
			_, err := Open(context.Background(), testConfig(dir))
			require.ErrorIs(t, err, ErrCorrupt)
			require.ErrorContains(t, err, dir)
			require.ErrorContains(t, err, tc.says)
			require.NotContains(t, err.Error(), "\n")
		})
	}

	t.Run("a file of messages in the middle is gone", func(t *testing.T) {
		dir := t.TempDir()
		cfg := testConfig(dir)
		cfg.MaxBytes = 13 << 20
		b, err := Open(context.Background(), cfg)
		require.NoError(t, err)
		for i := range 120 {
			require.NoError(t, b.Publish(context.Background(), "episode.n", fmt.Sprint(i), make([]byte, 100<<10)))
		}
		require.NoError(t, b.Close())
		blocks := files(t, dir, "*.blk")
		require.Greater(t, len(blocks), 2)
		require.NoError(t, os.Remove(blocks[1]))
		_, err = Open(context.Background(), cfg)
		require.ErrorIs(t, err, ErrCorrupt)
		require.ErrorContains(t, err, "messages are missing in the middle")
	})

	t.Run("the operator accepts the loss by removing the mark", func(t *testing.T) {
		dir := filled(t, 60)
		require.NoError(t, os.Truncate(files(t, dir, "1.blk")[0], 20_000))
		require.NoError(t, os.Remove(filepath.Join(dir, "acknowledged")))
		b := open(t, testConfig(dir))
		require.NotEmpty(t, replayed(t, b, ">"))
		require.NoError(t, b.Publish(context.Background(), "episode.n", "after", nil))
	})

	t.Run("everything aged out is no damage", func(t *testing.T) {
		dir := filled(t, 20)
		b := open(t, testConfig(dir))
		ctx := context.Background()
		cfg := b.streamConfig()
		cfg.MaxAge, cfg.Duplicates = 100*time.Millisecond, 100*time.Millisecond
		_, err := b.session.js.UpdateStream(ctx, cfg)
		require.NoError(t, err)
		testutils.Eventually(t, 10*time.Second, "the stream is empty", func() bool {
			info, err := b.session.stream.Info(ctx)
			return err == nil && info.State.Msgs == 0
		})
		require.NoError(t, b.Close())
		again := open(t, testConfig(dir))
		require.Empty(t, replayed(t, again, ">"))
		require.NoError(t, again.Publish(ctx, "episode.n", "after", nil))
	})

	t.Run("a message that was never acknowledged is torn off in silence", func(t *testing.T) {
		dir := filled(t, 60)
		mark := filepath.Join(dir, "acknowledged")
		data, err := os.ReadFile(mark)
		require.NoError(t, err)
		require.Equal(t, uint64(60), binary.LittleEndian.Uint64(data))
		require.NoError(t, os.WriteFile(mark, binary.LittleEndian.AppendUint64(nil, 59), 0o600))
		blk := files(t, dir, "1.blk")[0]
		st, err := os.Stat(blk)
		require.NoError(t, err)
		require.NoError(t, os.Truncate(blk, st.Size()-100))
		require.Len(t, replayed(t, open(t, testConfig(dir)), ">"), 59)
	})
}
