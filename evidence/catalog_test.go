// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package evidence

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCatalogIsConsistent(t *testing.T) {
	// Number ranges by probe; a number that moved would be read as another fact
	// by an aggregator of another version.
	ranges := map[string][2]uint32{"link": {100, 199}, "oversize": {200, 299}, "clock": {300, 399}}
	name := regexp.MustCompile(`^[a-z]+\.[a-z0-9_]+$`)
	kinds := map[string]bool{}
	for _, k := range kindTable {
		kinds[k] = true
	}
	subjects := map[string]bool{}
	for _, s := range subjectTable {
		require.True(t, s.Parent == "" || subjects[s.Parent], "subject %q stands before its parent", s.Name)
		subjects[s.Name] = true
	}
	ids, names := map[uint32]string{}, map[string]uint32{}
	for _, it := range itemTable {
		require.Empty(t, ids[it.ID], "number %d is used twice", it.ID)
		require.Zero(t, names[it.Name], "name %q is used twice", it.Name)
		ids[it.ID], names[it.Name] = it.Name, it.ID
		require.Regexp(t, name, it.Name)
		require.True(t, kinds[it.Kind], "item %q has the unknown kind %q", it.Name, it.Kind)
		require.True(t, subjects[it.Subject], "item %q has the unknown subject %q", it.Name, it.Subject)
		require.NotEmpty(t, it.Doc, "item %q says nothing", it.Name)
		within, known := ranges[it.Probe()]
		require.True(t, known, "probe %q has no range of numbers", it.Probe())
		require.True(t, within[0] <= it.ID && it.ID <= within[1], "item %q has number %d outside of its probe's range", it.Name, it.ID)
		if it.Unit != "" {
			require.True(t, strings.HasSuffix(it.Name, "_"+strings.ReplaceAll(it.Unit, " ", "_")), "item %q does not name its unit %q", it.Name, it.Unit)
		}
		if it.Sources {
			require.Equal(t, TypeInteger, it.Type, "item %q counts sources and must be an integer", it.Name)
		}
	}
	for _, k := range conditionTable {
		require.True(t, subjects[k.Subject], "condition %q has the unknown subject %q", k.Name, k.Subject)
	}
}

func TestCatalogAnswers(t *testing.T) {
	c := NewCatalog()
	it, ok := c.ByName("link.mtu_bytes")
	require.True(t, ok)
	require.Equal(t, uint32(LinkMTUBytes), it.ID)
	require.Equal(t, "link", it.Probe())
	require.Equal(t, "mtu_bytes", it.Field())
	again, ok := c.ByID(it.ID)
	require.True(t, ok)
	require.Equal(t, it, again)
	_, ok = c.ByName("link.nosuch")
	require.False(t, ok)
	_, ok = c.Condition(ConditionClockOffset)
	require.True(t, ok)
	for _, it := range c.ItemsOf("clock", SubjectNode) {
		require.Equal(t, "clock", it.Probe())
		require.Equal(t, SubjectNode, it.Subject)
	}
}

func TestEpisodeIDIsStableAndSeparatesItsParts(t *testing.T) {
	id := EpisodeID("uid", "boot", "clock.offset", "node", "node", 7)
	require.Equal(t, id, EpisodeID("uid", "boot", "clock.offset", "node", "node", 7))
	require.Len(t, id, 16)
	require.NotEqual(t, id, EpisodeID("uidb", "oot", "clock.offset", "node", "node", 7))
	require.NotEqual(t, id, EpisodeID("uid", "boot", "clock.offset", "node", "node", 8))
}

// The aggregator finds the onset of a verdict by it.
func TestAConditionIsNamedAsTheItemsThatItIsAbout(t *testing.T) {
	for _, c := range conditionTable {
		found := false
		for _, it := range itemTable {
			found = found || it.Subject == c.Subject && strings.HasPrefix(it.Name, c.Name)
		}
		require.True(t, found, "no item about a %s begins with %q", c.Subject, c.Name)
	}
}
