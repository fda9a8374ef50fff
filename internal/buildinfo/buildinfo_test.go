// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package buildinfo

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWhatTheLinkerSetWins(t *testing.T) {
	version, buildTime = "v1.2.3", "2026-01-02T03:04:05Z"
	t.Cleanup(func() { version, buildTime = "", "" })
	require.Equal(t, "v1.2.3", Version())
	require.Equal(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), BuildTime())
	require.True(t, strings.HasPrefix(String(), "v1.2.3 go"))
	require.True(t, strings.HasSuffix(String(), "2026-01-02T03:04:05Z"))
}

func TestWithoutTheLinker(t *testing.T) {
	require.NotEmpty(t, Version())
	require.False(t, BuildTime().After(time.Now().Add(time.Hour)))
}
