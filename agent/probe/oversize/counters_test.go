// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const second = uint64(1e9)

func TestGrowthWithinTheWindow(t *testing.T) {
	type step struct{ at, value, want uint64 }
	for _, tt := range []struct {
		name  string
		from  uint64
		steps []step
	}{
		{"a row that is new counts whole", 0, []step{{100, 5, 5}}},
		{"a counter older than us counts from its first reading", 7, []step{{100, 7, 0}, {110, 9, 2}}},
		{"growth leaves after 30 s", 0, []step{{100, 5, 5}, {110, 5, 5}, {129, 5, 5}, {130, 5, 0}}},
		{"the base moves on", 0, []step{{100, 5, 5}, {120, 8, 8}, {140, 9, 4}, {151, 9, 1}, {171, 9, 0}}},
		{"a gap longer than the window", 0, []step{{100, 5, 5}, {200, 7, 2}}},
		{"a counter that fell (moved away) shows nothing", 0, []step{{100, 9, 9}, {131, 3, 0}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s series
			for _, st := range tt.steps {
				require.Equal(t, st.want, s.add(st.at*second, st.value, tt.from), "at %d s", st.at)
			}
		})
	}
	var s series
	for i := uint64(0); i < 1000; i++ {
		s.add(i*second, i, 0)
	}
	require.Less(t, len(s.points), 33, "what is older than needed is forgotten")
}

func TestFragmentCounters(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "net"), 0o755))
	write := func(name, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "net", name), []byte(content), 0o600))
	}
	_, err := readFragments(dir)
	require.ErrorIs(t, err, os.ErrNotExist)

	write("snmp", "Ip: Forwarding FragOKs FragFails FragCreates OutTransmits\nIp: 1 175745 4 350740 9\nIcmp: InMsgs\nIcmp: 1\n")
	got, err := readFragments(dir)
	require.NoError(t, err, "IPv6 may be compiled out")
	require.Equal(t, fragments{creates: 350740, fails: 4}, got)

	write("snmp6", "Ip6InReceives 5\nIp6FragOKs 1\nIp6FragFails 2\nIp6FragCreates \t3\n")
	got, err = readFragments(dir)
	require.NoError(t, err)
	require.Equal(t, fragments{creates: 350743, fails: 6}, got)

	for name, content := range map[string]string{
		"no such column": "Ip: Forwarding\nIp: 1\n",
		"no values":      "Ip: FragCreates FragFails\n",
		"no number":      "Ip: FragCreates FragFails\nIp: x 1\n",
		"too short":      "Ip: FragCreates FragFails\nIp: 1\n",
	} {
		_, err := parseSNMP(strings.NewReader(content))
		require.Error(t, err, name)
	}
}

func FuzzParseSNMP(f *testing.F) {
	f.Add("Ip: FragCreates FragFails\nIp: 1 2\n")
	f.Add("Ip: FragCreates\nIp: 18446744073709551616 2\n")
	f.Add("Ip6FragCreates 1\nIp6FragFails 2\n")
	f.Fuzz(func(_ *testing.T, text string) {
		_, _ = parseSNMP(strings.NewReader(text))
		_, _ = parseSNMP6(strings.NewReader(text))
	})
}
