// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/plumb-dev/plumb/aggregator/identity"
)

func value(tb testing.TB, c prometheus.Collector) float64 {
	tb.Helper()
	return testutil.ToFloat64(c)
}

func node(i int) identity.Node {
	return identity.Node{Name: fmt.Sprint("x", i), UID: fmt.Sprint("ux", i)}
}
