// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

func TestLimits(t *testing.T) {
	t.Run("subjects of one node", func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.MaxSubjects = 2 })
		many := func(n int) *evidencev1.PushRequest {
			return f.batch(evidencev1.Batch_FULL, "k/1", uint64(n), func(b *evidencev1.Batch) {
				for i := range n {
					o := f.mtu(1500)
					o.Subject.Key = strconv.Itoa(i)
					b.Observations = append(b.Observations, o)
				}
			})
		}
		f.apply(many(2))
		_, err := f.state.Apply(node1, f.now, many(3))
		require.ErrorIs(t, err, ErrFull)
		require.ErrorContains(t, err, "3 subjects, the limit is 2")
		acked, duplicate := f.state.Seen("uid-1", "k/1", 3)
		require.Equal(t, uint64(2), acked)
		require.False(t, duplicate, "a refused batch is not acknowledged")
	})
	t.Run("bytes of all nodes", func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.MaxBytes = 600 })
		f.full("k/1", 1, f.mtu(1500))
		_, err := f.state.Apply(NodeInfo{Name: "n2", UID: "uid-2"}, f.now, f.batch(evidencev1.Batch_FULL, "k/1", 1, func(b *evidencev1.Batch) { b.Observations = append(b.Observations, f.mtu(1500)) }))
		require.ErrorIs(t, err, ErrFull)
		require.Equal(t, int64(1500), f.mtuFact().Value, "the other node keeps its evidence")
		f.full("k/1", 2)
		_, err = f.state.Apply(NodeInfo{Name: "n2", UID: "uid-2"}, f.now, f.batch(evidencev1.Batch_FULL, "k/1", 1, func(b *evidencev1.Batch) { b.Observations = append(b.Observations, f.mtu(1500)) }))
		require.NoError(t, err, "room that one gave up is another's")
	})
	t.Run("nodes", func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.MaxNodes = 1 })
		f.full("k/1", 1)
		_, err := f.state.Apply(NodeInfo{Name: "n2", UID: "uid-2"}, f.now, f.batch(evidencev1.Batch_FULL, "k/1", 1, nil))
		require.ErrorIs(t, err, ErrFull)
	})
}
