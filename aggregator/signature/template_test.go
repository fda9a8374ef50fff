// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"math"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/evidence"
	"github.com/plumb-dev/plumb/signatures"
)

func TestTemplatesAreSplit(t *testing.T) {
	for _, tc := range []struct {
		text string
		want []fragment
	}{
		{"plain", []fragment{{literal: "plain"}}},
		{"a {x} b", []fragment{{literal: "a "}, {code: "x", offset: 3}, {literal: " b"}}},
		{"{x}{y}", []fragment{{code: "x", offset: 1}, {code: "y", offset: 4}}},
		{"{{x}}", []fragment{{literal: "{x}"}}},
		{`{x ? "}" : '{'}`, []fragment{{code: `x ? "}" : '{'`, offset: 1}}},
		{`{x == "\"}"}`, []fragment{{code: `x == "\"}"`, offset: 1}}},
		{"{ {1: 2}[1] }", []fragment{{code: " {1: 2}[1] ", offset: 1}}},
		{"µ{x}", []fragment{{literal: "µ"}, {code: "x", offset: 2}}},
	} {
		got, err := splitTemplate(tc.text)
		require.NoError(t, err, tc.text)
		require.Equal(t, tc.want, got, tc.text)
	}
	for text, offset := range map[string]int{"a {x": 2, "a } b": 2, "{}": 0, "{ }": 0, `{"}`: 0} {
		_, err := splitTemplate(text)
		var te *templateError
		require.ErrorAs(t, err, &te, text)
		require.Equal(t, offset, te.offset, text)
	}
}

func TestValuesAreWrittenAsAPersonDoes(t *testing.T) {
	for _, tc := range []struct {
		value any
		unit  string
		want  string
	}{
		{int64(1500), "bytes", "1500"},
		{int64(1234567), "", "1234567"},
		{0.0, "seconds", "0 s"},
		{0.0000012, "seconds", "1.2 µs"},
		{-0.0032, "seconds", "-3.2 ms"},
		{0.7, "seconds", "700 ms"},
		{12.345, "seconds", "12.3 s"},
		{119.6, "seconds", "2 min"},
		{419.98, "seconds", "7 min"},
		{-425.0, "seconds", "-7 min 5 s"},
		{7380.0, "seconds", "2 h 3 min"},
		{86400.0 * 3, "seconds", "3 days"},
		{int64(90), "seconds", "90 s"},
		{12.5, "parts per million", "12.5 ppm"},
		{0.333333, "", "0.333"},
		{123456.0, "", "123456"},
		{true, "", "yes"},
		{false, "", "no"},
		{"a\tb", "", "a b"},
		{math.NaN(), "seconds", "NaN"},
		{strings.Repeat("x", 300), "", strings.Repeat("x", 255) + "…"},
	} {
		require.Equal(t, tc.want, formatValue(tc.value, tc.unit), "%v %s", tc.value, tc.unit)
	}
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"", "a {x} b", "{{x}}", `{x ? "}" : '{'}`, "{", "}", "{}", "{'", `{"\`, "µ{x}{{"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fragments, err := splitTemplate(s)
		if err != nil {
			te, ok := err.(*templateError)
			require.True(t, ok)
			require.GreaterOrEqual(t, te.offset, 0)
			require.LessOrEqual(t, te.offset, len([]rune(s)))
			return
		}
		runes := []rune(s)
		for _, fr := range fragments {
			if fr.code != "" {
				n := len([]rune(fr.code))
				require.Equal(t, fr.code, string(runes[fr.offset:fr.offset+n]), "the offset points at the code")
			}
		}
	})
}

func FuzzLoad(f *testing.F) {
	for _, name := range []string{"network/mtu-overlay-mismatch.yaml", "network/oversize-drop-local.yaml", "identity/clock-skew.yaml"} {
		data, err := signatures.FS.ReadFile(name)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("a: \"\r\r\u0085b\r\n\u2028"))
	f.Add([]byte("spec: {evidence: [{expr: '\\x00'}]}"))
	f.Add([]byte("apiVersion: plumb.dev/v1alpha1\nspec:\n  each: device\n  when: |\n    link.up &&\n\n    link.x\n"))
	catalog := evidence.NewCatalog()
	env, err := newEnvironment(catalog)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, data []byte) {
		s, problems := parse("fuzz.yaml", data, env, catalog, true)
		require.Equal(t, s == nil, len(problems) > 0, "a file loads or has problems")
		lines := len(newSource("", data).lines)
		for _, p := range problems {
			require.NotContains(t, p.Error(), "\n")
			require.True(t, p.Line >= 1 && p.Column >= 1, "%v", p)
			require.LessOrEqual(t, p.Line, lines, "%v", p)
		}
		if s != nil {
			RunTests([]*Signature{s})
		}
	})
}

// Every rule below holds for whatever is added to the library.
func TestBuiltinSignaturesFollowTheRules(t *testing.T) {
	list, err := LoadBuiltin(signatures.FS, evidence.NewCatalog())
	require.NoError(t, err)
	for _, s := range list {
		t.Run(s.ID, func(t *testing.T) {
			require.Equal(t, s.ID+".yaml", s.Origin, "a file is named by its id")
			for _, c := range s.clauses {
				require.NotNil(t, c.otherwise, "clause %s says what it means when it is false", c.id)
				digits := false
				for _, seg := range c.claim {
					digits = digits || seg.expr != nil
				}
				require.True(t, digits || c.id == "unsynchronised", "claim of %s carries a number", c.id)
			}
			require.NotEmpty(t, s.refuters)
		})
	}
}

// Load takes no file that a reader would have to guess about.
func TestLoadIgnoresWhatIsNoSignature(t *testing.T) {
	list, err := Load(fstest.MapFS{"README.md": {Data: []byte("x")}, "a.yml.txt": {Data: []byte("x")}}, evidence.NewCatalog())
	require.NoError(t, err)
	require.Empty(t, list)
}
