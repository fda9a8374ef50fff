// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils/machine"
)

func TestMain(m *testing.M) { machine.Main(m, roles()) }

// bin is the path of a binary under test.
func bin(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("PLUMB_BIN")
	if dir == "" {
		dir = filepath.Join("..", "..", "bin")
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	require.NoError(t, err)
	_, err = os.Stat(path)
	require.NoError(t, err, "build the binaries first: make build")
	return path
}

// exitCode runs a command and returns its output and exit status.
func exitCode(cmd *exec.Cmd) (stdout, stderr string, status int, err error) {
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out.String(), errOut.String(), exit.ExitCode(), nil
	}
	return out.String(), errOut.String(), 0, err
}
