// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/probe"
)

func TestASignalHasOneActiveRung(t *testing.T) {
	m := newMetrics(nil)
	m.setHooks([]probe.Hook{{Signal: "oversize.drop", Rung: "tp_btf", Confirmed: true}})
	require.InDelta(t, 1, testutil.ToFloat64(m.hook.WithLabelValues("oversize.drop", "tp_btf")), 0)

	m.setHooks([]probe.Hook{{Signal: "oversize.drop", Rung: "tp_btf"}})
	require.Equal(t, 1, testutil.CollectAndCount(m.hook), "the rung that is no longer confirmed is not shown beside the loss")
	require.InDelta(t, 0, testutil.ToFloat64(m.hook.WithLabelValues("oversize.drop", "")), 0)
}
