// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/evidence"
	"github.com/plumb-dev/plumb/signatures"
)

func TestBuiltinSignaturesLoadAndPassTheirTests(t *testing.T) {
	list, err := signature.LoadBuiltin(signatures.FS, evidence.NewCatalog())
	require.NoError(t, err)
	var ids []string
	for _, s := range list {
		ids = append(ids, s.ID)
	}
	require.Equal(t, []string{"identity/clock-skew", "network/mtu-overlay-mismatch", "network/oversize-drop-local"}, ids)

	report := signature.RunTests(list)
	for _, f := range report.Failures {
		t.Error(f)
	}
	require.Equal(t, len(list), report.Signatures)
	require.Greater(t, report.Cases, 30)
	require.Greater(t, report.Generated, 150)
	t.Logf("%d cases, %d generated", report.Cases, report.Generated)
}

// The tutorial must work as it is printed.
func TestTheTutorialOfTheDocsPasses(t *testing.T) {
	page, err := os.ReadFile("../../docs/signatures.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(page), "```yaml\n")
	require.True(t, found)
	example, _, found := strings.Cut(rest, "```")
	require.True(t, found)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "veth-mismatch.yaml"), []byte(example), 0o600))

	require.Empty(t, signature.Check(filepath.Join(dir, "veth-mismatch.yaml"), evidence.NewCatalog()))
	report, err := signature.Test(dir, evidence.NewCatalog())
	require.NoError(t, err)
	require.Empty(t, report.Failures)
	require.Equal(t, 3, report.Cases)
	require.Equal(t, 10, report.Generated, "two cases that fire, five items each")
}
