// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// inMountNamespace runs the calling test again in a process with a mount
// namespace of its own; it returns true in that process.
func inMountNamespace(t *testing.T) bool {
	testutils.SkipUnlessRoot(t)
	const mounted = "PLUMB_BUS_TEST_MOUNTED"
	if os.Getenv(mounted) != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), mounted+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	t.Logf("%s", out)
	return false
}

// tinyDisk mounts a tmpfs of this size; it goes with the mount namespace.
func tinyDisk(t *testing.T, bytes int) string {
	dir := t.TempDir()
	require.NoError(t, unix.Mount("plumb-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fill takes space on the file system until less than keep is left.
func fill(t *testing.T, dir string, keep int64) string {
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	for {
		free, _, err := freeSpace(dir)
		require.NoError(t, err)
		if free <= keep {
			return path
		}
		_, err = f.Write(make([]byte, min(64<<10, free-keep)))
		if errors.Is(err, unix.ENOSPC) {
			return path
		}
		require.NoError(t, err)
	}
}

func TestDiskFullUnderTheBus(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	disk := tinyDisk(t, 8<<20)
	log := &lines{}
	cfg := testConfig(filepath.Join(disk, "bus"))
	cfg.MaxBytes = 64 << 20
	cfg.ReserveBytes = 1 << 20
	cfg.Log = log.logger()
	b := open(t, cfg)
	acked := publishUntil(t, b, "a", ErrFull)
	require.Greater(t, acked, 10)

	err := b.Publish(context.Background(), "episode.n", "again", nil)
	require.ErrorIs(t, err, ErrFull)
	require.ErrorContains(t, err, "on the file system of "+cfg.Dir+", 1024 KiB are kept in reserve: free some space")
	require.NotContains(t, err.Error(), "\n")
	require.ErrorIs(t, b.Healthy(), ErrFull)
	require.Equal(t, 1, strings.Count(log.String(), "level=ERROR"), "one clear line: %s", log)
	require.Len(t, replayed(t, b, ">"), acked, "nothing acknowledged is lost, and it can be read")

	t.Run("opening on a full disk fails with the same words", func(t *testing.T) {
		other := cfg
		other.Dir = filepath.Join(disk, "second")
		_, err := Open(context.Background(), other)
		require.ErrorIs(t, err, ErrFull)
	})

	require.NoError(t, unix.Mount("", disk, "", unix.MS_REMOUNT, fmt.Sprintf("size=%d", 32<<20)))
	require.NoError(t, b.Healthy())
	require.NoError(t, b.Publish(context.Background(), "episode.n", "after", []byte("after")))
	require.Contains(t, log.String(), "takes messages again")
	require.Len(t, replayed(t, b, ">"), acked+1)
}

// The reserve is a courtesy: another process may take the last block between
// the look and the write. The store itself must then come through.
func TestWriteThatFailsForWantOfSpace(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	disk := tinyDisk(t, 8<<20)
	log := &lines{}
	cfg := testConfig(filepath.Join(disk, "bus"))
	cfg.MaxBytes = 64 << 20
	cfg.ReserveBytes = 1 // as good as none
	cfg.Log = log.logger()
	b := open(t, cfg)
	ballast := fill(t, disk, 512<<10)
	acked := publishUntil(t, b, "a", ErrFull)
	require.Greater(t, acked, 2)
	require.Error(t, b.Healthy())
	require.ErrorIs(t, b.Publish(context.Background(), "episode.n", "again", nil), ErrFull)

	require.NoError(t, os.Remove(ballast))
	testutils.Eventually(t, 20*time.Second, "the bus is healthy again", func() bool { return b.Healthy() == nil })
	require.Len(t, replayed(t, b, ">"), acked, "what was acknowledged is there, what was not is not")
	require.NoError(t, b.Publish(context.Background(), "episode.n", "after", []byte("after")))
	require.NoError(t, b.Close())
	require.Len(t, replayed(t, open(t, cfg), ">"), acked+1)
	t.Logf("%s", log)
}

func publishUntil(t *testing.T, b *Bus, prefix string, want error) int {
	t.Helper()
	for i := 0; ; i++ {
		err := b.Publish(context.Background(), "episode.n", fmt.Sprint(prefix, i), make([]byte, 100<<10))
		if err != nil {
			require.ErrorIs(t, err, want)
			return i
		}
		require.Less(t, i, 1000)
	}
}
