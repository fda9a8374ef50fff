// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// entries are what a directory holds.
func entries(t *testing.T, directory string) []string {
	t.Helper()
	list, err := os.ReadDir(directory)
	require.NoError(t, err)
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

func TestLookingAtALoopDeviceLeavesNoFile(t *testing.T) {
	testutils.SkipUnlessRoot(t)
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(control)
	number, added, err := freeLoop(control)
	require.NoError(t, err)
	if added {
		defer func() { require.NoError(t, removeLoop(number)) }()
	}
	temp, empty := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", temp)
	before, err := mounts("self")
	require.NoError(t, err)
	is := func(fd int) {
		var st unix.Stat_t
		require.NoError(t, unix.Fstat(fd, &st))
		require.Equal(t, uint32(unix.S_IFBLK), st.Mode&unix.S_IFMT)
		require.Equal(t, loopDev(number), int(st.Rdev))
		require.Empty(t, entries(t, temp), "a kill now would leave this")
	}

	fd, err := openLoop(empty, number)
	require.NoError(t, err, "without a node in the directory of nodes")
	is(fd)
	require.Empty(t, entries(t, empty))
	after, err := mounts("self")
	require.NoError(t, err)
	require.Equal(t, before, after, "its tmpfs is mounted nowhere")
	require.NoError(t, unix.Close(fd))

	require.NoError(t, unix.Mknod(empty+"/"+loopName(number), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	fd, err = openLoop(empty, number)
	require.NoError(t, err, "what has the name but is another device")
	is(fd)
	require.NoError(t, unix.Close(fd))

	require.NoError(t, withLoop(number, func(fd int) error {
		is(fd)
		return nil
	}))
}
