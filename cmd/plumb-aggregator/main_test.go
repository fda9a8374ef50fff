// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func command(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	status = run(args, &out, &err)
	return status, out.String(), err.String()
}

func TestHelpTeaches(t *testing.T) {
	status, out, _ := command(t, "--help")
	require.Equal(t, exitFine, status)
	for _, want := range []string{"plumb-aggregator init", "curl", "PLUMB_AGGREGATOR_NODES", "--check"} {
		require.Contains(t, out, want)
	}
	status, out, _ = command(t, "init", "--help")
	require.Equal(t, exitFine, status)
	require.Contains(t, out, "--node")
	status, out, _ = command(t, "--version")
	require.Equal(t, exitFine, status)
	require.True(t, strings.HasPrefix(out, "plumb-aggregator "))
}

func TestTroubleIsOneLineAndStatus2(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"unknown flag", []string{"--bogus"}, "unknown flag: --bogus; see plumb-aggregator --help"},
		{"unknown flag of init", []string{"init", "--bogus"}, "unknown flag: --bogus; see plumb-aggregator init --help"},
		{"an argument", []string{"serve"}, `unexpected argument "serve"`},
		{"a level that is none", []string{"--log-level", "loud"}, "debug, info, warn or error"},
		{"an interval that is none", []string{"--interval", "soon"}, "--interval"},
		{"no files", nil, "--nodes"},
		{"a missing file", []string{"--nodes", "/nonexistent/n.yaml", "--tls-cert", "c", "--tls-key", "k", "--data-dir", "d"}, "/nonexistent/n.yaml"},
		{"init without a directory", []string{"init", "--node", "n=u"}, "give one directory"},
		{"init without a node", []string{"init", filepath.Join(t.TempDir(), "x")}, "--node NAME=UID"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, out, errText := command(t, c.args...)
			require.Equal(t, exitTrouble, status)
			require.Empty(t, out)
			require.Contains(t, errText, c.want)
			require.Equal(t, 1, strings.Count(errText, "\n"), errText)
		})
	}
}

func TestFlagsFromTheEnvironment(t *testing.T) {
	t.Setenv("PLUMB_AGGREGATOR_NODES", "/nonexistent/from-environment.yaml")
	_, _, errText := command(t, "--tls-cert", "c", "--tls-key", "k", "--data-dir", "d")
	require.Contains(t, errText, "/nonexistent/from-environment.yaml")
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	status, out, errText := command(t, "init", dir, "--node", "n1=u1,zone=a")
	require.Equal(t, exitFine, status, errText)
	require.Contains(t, out, filepath.Join(dir, "n1.token"))
	args := []string{"--check", "--nodes", filepath.Join(dir, "nodes.yaml"), "--tls-cert", filepath.Join(dir, "server.crt"), "--tls-key", filepath.Join(dir, "server.key"), "--data-dir", filepath.Join(dir, "data")}
	status, out, errText = command(t, args...)
	require.Equal(t, exitFine, status, errText)
	require.Contains(t, out, "every file is well")
	require.NoDirExists(t, filepath.Join(dir, "data"), "checking makes nothing")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "server.key"), []byte("x"), 0o600))
	status, _, errText = command(t, args...)
	require.Equal(t, exitTrouble, status)
	require.Contains(t, errText, "server.key")
}
