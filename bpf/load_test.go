// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
)

func TestProgramsLoadAndAttachOnTheRunningKernel(t *testing.T) {
	testutils.SkipUnlessRoot(t)
	o, err := LoadOversize(OversizeOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, o.Close()) })
	require.GreaterOrEqual(t, o.Arguments(), 2)
	require.NoError(t, o.AttachAdapt())
	require.NoError(t, o.AttachAdapt(), "a second call changes nothing")
	require.NoError(t, o.DetachAdapt())
}
