// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"encoding/base64"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/hostclock"
	"github.com/plumb-dev/plumb/agent/ledger"
)

var (
	_ Source = (*ledger.Ledger)(nil)
	_ Clock  = (*hostclock.Clock)(nil)
)

func TestConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(*Config)
		err   string
	}{
		{"no endpoint", func(c *Config) { c.Endpoints = nil }, "0 endpoints; give 1 to 16"},
		{"plain HTTP", func(c *Config) { c.Endpoints = []string{"http://a:1"} }, "it must be https://HOST:PORT"},
		{"no port", func(c *Config) { c.Endpoints = []string{"https://a"} }, "it must be https://HOST:PORT"},
		{"a path", func(c *Config) { c.Endpoints = []string{"https://a:1/x"} }, "it must be https://HOST:PORT"},
		{"a password", func(c *Config) { c.Endpoints = []string{"https://u:secret@a:1"} }, "https://u:xxxxx@a:1"},
		{"one endpoint twice", func(c *Config) { c.Endpoints = []string{"https://a:1", "https://a:1/"} }, "endpoint a:1 is given twice"},
		{"no token file", func(c *Config) { c.TokenFile = "" }, "no token file"},
		{"no CA", func(c *Config) { c.CAPEM = nil }, "the uplink trusts no public one"},
		{"a CA file that is not there", func(c *Config) { c.CAPEM, c.CAFile = nil, "/nonexistent/ca.pem" }, "read CA file"},
		{"a boot id without the start", func(c *Config) { c.BootID = "kernel" }, `boot id "kernel" is not KERNEL-BOOT-ID/START`},
		{"segments that are too small", func(c *Config) { c.MaxSegment = 40 }, "the kernel takes 88 to 32767"},
		{"a negative interval", func(c *Config) { c.Interval = -1 }, "must not be negative"},
		{"no clock", func(c *Config) { c.Clock = nil }, "Source, Clock and Log are needed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			tt.spoil(&f.cfg)
			_, err := New(f.cfg)
			require.ErrorContains(t, err, "configure uplink: ")
			require.ErrorContains(t, err, tt.err)
		})
	}
}

func TestTheNodeIsTakenFromTheToken(t *testing.T) {
	jwt := func(payload string) string {
		return "aGVhZA." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
	}
	good := jwt(`{"aud":["plumb"],"kubernetes.io":{"namespace":"plumb","node":{"name":"n1","uid":"u-1"},"pod":{"name":"p","uid":"p-1"}}}`)
	tests := []struct {
		name, content, uid, err string
	}{
		{"a projected token", good, "u-1", ""},
		{"with a line feed", good + "\n", "u-1", ""},
		{"empty", "  \n", "", "the file is empty"},
		{"no JWT", "s3cr3t", "", "1 parts instead of 3"},
		{"characters that end a header", jwt(`{}`) + "\r\nX: s3cr3t", "", "characters that may not be in one"},
		{"payload is not base64", "a.s3cr3t~~.b", "", "payload is not base64url"},
		{"payload is not JSON", jwt("s3cr3t"), "", "payload is not the JSON expected"},
		{"no node in it", jwt(`{"kubernetes.io":{"pod":{"uid":"s3cr3t"}}}`), "", "the token names no node"},
		{"a uid without end", jwt(`{"kubernetes.io":{"node":{"uid":"` + strings.Repeat("s3cr3t", 100) + `"}}}`), "", "at most 256 are taken"},
		{"too large", strings.Repeat("s3cr3t", maxTokenBytes), "", "larger than 8192 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "token")
			require.NoError(t, os.WriteFile(path, []byte(tt.content), 0o600))
			got, err := readToken(path)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				require.NotContains(t, err.Error(), "s3cr3t")
				require.NotContains(t, err.Error(), base64.RawURLEncoding.EncodeToString([]byte("s3cr3t")))
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.uid, got.nodeUID)
			require.Equal(t, strings.TrimSpace(tt.content), got.value)
		})
	}
	_, err := readToken(filepath.Join(t.TempDir(), "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestWordsOfAServerAreMadeFitForALog(t *testing.T) {
	tok := token{value: "head.payload.signature-part"}
	require.Equal(t, "bad [token] here", redact("bad head.payload.signature-part here", tok))
	require.Equal(t, "bad [token] here", redact("bad signature-part here", tok))
	require.Equal(t, "one  line", redact("one\r\nline"))
	require.LessOrEqual(t, len(redact(strings.Repeat("é", 1000))), 404)
}

func TestTheWaitBeforeAnotherTryGrowsAndIsSpread(t *testing.T) {
	longest := map[int]time.Duration{}
	for range 2000 {
		for _, attempt := range []int{0, 1, 2, 10, 1000} {
			d := spread(attempt, DefaultReconnectSpread)
			require.Positive(t, d)
			longest[attempt] = max(longest[attempt], d)
		}
	}
	require.LessOrEqual(t, longest[0], firstRetry+1)
	require.LessOrEqual(t, longest[1], 2*firstRetry+1)
	require.Greater(t, longest[1], firstRetry)
	for _, late := range []int{10, 1000} {
		require.LessOrEqual(t, longest[late], DefaultReconnectSpread+1)
		require.Greater(t, longest[late], DefaultReconnectSpread*9/10)
	}
}

func TestADamagedStateIsReportedAndReplaced(t *testing.T) {
	f := newFixture(t)
	f.cfg.SpoolDir = t.TempDir()
	path := filepath.Join(f.cfg.SpoolDir, stateFile)
	require.NoError(t, os.WriteFile(path, []byte(`{"verified":"tomorrow"`), 0o600))
	_, stop := f.run(t)
	f.waitBatches(t, 1)
	stop()
	require.Contains(t, f.logs.String(), "cannot read the saved uplink state")
	state, err := readState(path)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), state.Verified, time.Minute)
}

func TestTheLastVerifiedTimeNeverMovesBack(t *testing.T) {
	f := newFixture(t)
	m := newMemory(t.TempDir(), f.cfg.Log)
	defer m.close()
	now := time.Now()
	m.verified(now)
	m.verified(now.Add(-time.Hour))
	require.WithinDuration(t, now, m.lastVerified(), 0)
}

func FuzzParseToken(f *testing.F) {
	f.Add([]byte(makeToken("uid", "sig")))
	f.Add([]byte("a.e30.b"))
	f.Add([]byte(".."))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := parseToken(data)
		if err == nil {
			require.NotEmpty(t, got.nodeUID)
			require.NotContains(t, got.value, "\n")
			require.NotContains(t, got.value, " ")
		}
	})
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"verified":"2026-08-01T12:00:00Z","addresses":{"a":["10.0.0.1","fd00::1"]}}`))
	f.Add([]byte(`{"addresses":{"a":[""]}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := parseState(data)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(got.Addresses), maxStoredHosts)
		for _, list := range got.Addresses {
			require.LessOrEqual(t, len(list), maxStoredPerOne)
			require.NotContains(t, list, netip.Addr{})
		}
	})
}
