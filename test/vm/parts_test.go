// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestConsole(t *testing.T) {
	tests := []struct {
		name, console, output string
		status                int
		err                   string
	}{
		{name: "output stands between the marks", console: "boot noise\r\nPLUMB-VM-BEGIN\r\nhello\r\n\r\nPLUMB-VM-END 3\r\n[ 1.0] reboot", output: "hello\n\n", status: 3},
		{name: "a guest that never started its program", console: "panic", err: "never started"},
		{name: "a program that did not end", console: "PLUMB-VM-BEGIN\nhalf", err: "did not end"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			output, status, err := parseConsole(tt.console)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.output, output)
			require.Equal(t, tt.status, status)
		})
	}
}

func TestOnlyTheEmulatorsFailuresAreTriedAgain(t *testing.T) {
	require.True(t, emulatorFailed("Kernel panic - not syncing"), "the program never began")
	require.True(t, emulatorFailed(markBegin+"\nwatchdog: BUG: soft lockup"))
	require.False(t, emulatorFailed(markBegin+"\nKernel panic - not syncing"), "a panic while the program runs may be its doing")
	require.False(t, emulatorFailed(markBegin+"\n"+markEnd+" 1"))
}

func TestNewerPackagesSortLater(t *testing.T) {
	require.True(t, older("linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64"))
	require.True(t, older("linux-image-6.12.9+deb12-cloud-amd64", "linux-image-6.12.117+deb12-cloud-amd64"))
	require.False(t, older("linux-image-6.12.117+deb12-cloud-amd64", "linux-image-6.12.117+deb12-cloud-amd64"))
}

func TestArchiveIsPaddedNewc(t *testing.T) {
	a := newArchive()
	a.add("/a/b", modeFile, []byte("12345"))
	var packed bytes.Buffer
	require.NoError(t, a.write(&packed))
	zr, err := gzip.NewReader(&packed)
	require.NoError(t, err)
	raw, err := io.ReadAll(zr)
	require.NoError(t, err)
	require.Zero(t, len(raw)%4)
	require.True(t, bytes.HasPrefix(raw, []byte("070701")))
	require.Contains(t, string(raw), "a/b\x00")
	require.Contains(t, string(raw), "TRAILER!!!")
	require.Equal(t, 3, bytes.Count(raw, []byte("070701")), "directory, file and trailer")
}
