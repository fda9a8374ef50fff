// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryFileIsAScenarioOfItsOwnName(t *testing.T) {
	t.Parallel()
	names := Names()
	require.True(t, slices.IsSorted(names))
	entries, err := FS.ReadDir(".")
	require.NoError(t, err)
	require.Len(t, names, len(entries), "every embedded file is one")
	for _, name := range names {
		s, err := Load(name)
		require.NoError(t, err)
		require.Equal(t, name, s.Name)
		require.Equal(t, name+".yaml", s.File)
		data, err := FS.ReadFile(name + ".yaml")
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(data), "# Copyright The Plumb Authors.\n# SPDX-License-Identifier: Apache-2.0\n"), "%s has the two lines of its header", name)
	}
}

func TestANameThatNoFileHasIsSaidToBeUnknown(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "no-such", "../scenarios/demo", "/demo", "demo.yaml", "embed.go"} {
		s, err := Load(name)
		require.Nil(t, s)
		var unknown *UnknownError
		require.ErrorAs(t, err, &unknown, "%q", name)
		require.Equal(t, name, unknown.Name)
		require.Contains(t, err.Error(), "plumb-lab list")
	}
}

func TestADescriptionSaysWhatIsWrongAndWhatTheProductMustSay(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, s := range library(t) {
		require.True(t, strings.HasSuffix(s.Description, "."), s.Name)
		require.Less(t, len(s.Description), 420, "%s: a few sentences", s.Name)
		require.Empty(t, seen[s.Description], "%s says the same", s.Name)
		seen[s.Description] = s.Name
	}
}
