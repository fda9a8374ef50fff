// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/bpf"
)

const kernelSymbols = `ffffffff81000000 T _stext
ffffffff81010000 t ip_forward_options.cold
ffffffff81ffa210 T ip_forward
ffffffff81ffa210 T __pfx_same_address
ffffffff81ffac00 T ip_forward_finish
ffffffff81ffd830 t ip_fragment.constprop.0
ffffffff81ffd900 d ip_forward
ffffffff81ffd8f0 t ip_finish_output_gso.isra.0
ffffffff81000100 t ip_fragment.constprop.0.cold
ffffffff81000180 t next
ffffffffc0100000 t br_dev_queue_push_xmit	[bridge]
`

func TestSizeChecksAreFoundAmongTheSymbols(t *testing.T) {
	s, err := parseSymbols(strings.NewReader(kernelSymbols), sites())
	require.NoError(t, err)
	for _, tt := range []struct {
		name    string
		address uint64
		want    string
	}{
		{"first byte", 0xffffffff81ffa210, "ip_forward"},
		{"last byte", 0xffffffff81ffabff, "ip_forward"},
		{"the next function", 0xffffffff81ffac00, ""},
		{"a copy that the compiler specialised", 0xffffffff81ffd8ef, "ip_fragment"},
		{"its cold part", 0xffffffff81000110, "ip_fragment"},
		{"a function whose name only begins alike", 0xffffffff81010000, ""},
		{"a module, whose symbols come last", 0xffffffffc0100800, "br_dev_queue_push_xmit"},
		{"far behind the last symbol", 0xffffffffc0200000, ""},
		{"before everything", 1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name, ok := s.at(tt.address)
			require.Equal(t, tt.want, name)
			require.Equal(t, tt.want != "", ok)
		})
	}
	ranges := s.ranges(sites())
	for i, r := range ranges {
		require.Less(t, r.Start, r.End)
		require.NotZero(t, r.Class)
		require.True(t, i == 0 || ranges[i-1].End <= r.Start, "ascending, not overlapping")
	}
}

func TestSymbolsThatAreOfNoUse(t *testing.T) {
	_, err := parseSymbols(strings.NewReader("0000000000000000 T ip_forward\n0000000000000000 t x\n"), sites())
	require.ErrorIs(t, err, errHidden)
	_, err = parseSymbols(strings.NewReader("ffffffff81000000 T main\n"), sites())
	require.ErrorContains(t, err, "none of the known size checks")
	_, err = parseSymbols(strings.NewReader(""), sites())
	require.Error(t, err)
	_, err = readSymbols(filepath.Join(t.TempDir(), "kallsyms"), sites())
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestFunctionsOutsideOfTheTableHaveNamesToo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kallsyms")
	require.NoError(t, os.WriteFile(path, []byte(kernelSymbols), 0o600))
	name, err := nameOf(path, 0xffffffff81ffac10)
	require.NoError(t, err)
	require.Equal(t, "ip_forward_finish", name)
	_, err = nameOf(path, 5)
	require.Error(t, err)
}

func TestTheTableFitsTheProgram(t *testing.T) {
	require.Less(t, 3*len(sites()), bpf.MaxSites, "each function may come in three parts")
	for name, s := range sites() {
		require.NotContains(t, name, ".")
		require.NotEqual(t, bpf.ClassOther, s.class, name)
	}
}

func FuzzParseSymbols(f *testing.F) {
	f.Add(kernelSymbols)
	f.Add("ffffffff81ffa210 T ip_forward")
	f.Add("ffffffffffffffff T ip_forward\nfffffffffffffffe t ip_fragment\n")
	f.Add("0 T \n 1 T x\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseSymbols(strings.NewReader(text), sites())
		if err != nil {
			return
		}
		for i, fn := range s {
			if fn.start >= fn.end && fn.start < ^uint64(0)-maxFunction {
				t.Fatalf("%s ends where it begins", fn.name)
			}
			if i > 0 && s[i-1].start >= fn.start {
				t.Fatal("not ascending")
			}
		}
	})
}
