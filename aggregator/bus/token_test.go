// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestToken(t *testing.T) {
	for in, want := range map[string]string{
		"":           "=",
		"node-1":     "node-1",
		"a.b":        "a=2Eb",
		"a_b":        "a=5Fb",
		"*":          "=2A",
		">":          "=3E",
		"=":          "=3D",
		"Knoten ä":   "Knoten=20=C3=A4",
		"a\r\nb\x00": "a=0D=0Ab=00",
	} {
		require.Equal(t, want, Token(in))
	}
	for _, bad := range []string{"", "a.b", "=2", "=zz", "=2e", "=61", "a=", "a*"} {
		_, err := FromToken(bad)
		require.Error(t, err, "%q", bad)
	}
}

func FuzzTokenIsASafeSubjectAndComesBack(f *testing.F) {
	for _, seed := range []string{"", "ip-10-0-0-1.ec2.internal", "a b", "*", ">", "=", "\x00", "ü"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		token := Token(name)
		if len(token) < 500 {
			require.NoError(t, checkSubject("episode."+token, false))
		}
		back, err := FromToken(token)
		require.NoError(t, err)
		require.Equal(t, name, back)
	})
}

func FuzzDecodedTokenIsCanonical(f *testing.F) {
	for _, seed := range []string{"=", "a=2Eb", "=61", "=2e", "a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if name, err := FromToken(token); err == nil {
			require.Equal(t, token, Token(name))
		}
	})
}
