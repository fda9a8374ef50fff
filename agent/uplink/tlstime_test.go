// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

func TestTimeAtWhichACertificateIsVerified(t *testing.T) {
	const (
		day  = 24 * time.Hour
		year = 365 * day
	)
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	ca := newCA(t, period{now.Add(-30 * day), now.Add(10 * year)})
	valid := ca.issue(t, period{now.Add(-30 * day), now.Add(60 * day)})
	expired := ca.issue(t, period{now.Add(-30 * day), now.Add(-day)})
	renewed := ca.issue(t, period{now.Add(-day), now.Add(60 * day)})
	clientOnly := ca.issueFor(t, period{now.Add(-30 * day), now.Add(60 * day)}, x509.ExtKeyUsageClientAuth, "localhost")
	elsewhere := ca.issueFor(t, period{now.Add(-30 * day), now.Add(60 * day)}, x509.ExtKeyUsageServerAuth, "elsewhere")
	other := newCA(t, period{now.Add(-30 * day), now.Add(10 * year)})
	foreign := other.issue(t, period{now.Add(-30 * day), now.Add(60 * day)})
	shortCA := newCA(t, period{now.Add(-30 * day), now.Add(90 * day)})
	ofShort := shortCA.issue(t, period{now.Add(-30 * day), now.Add(20 * year)})

	off := func(d time.Duration) reading { return reading{node: now.Add(d), build: now.Add(-20 * day)} }
	measured := func(r reading) reading {
		r.measured, r.correction, r.sources = true, now.Sub(r.node), []string{"ntp-a", "ntp-b"}
		return r
	}
	type want struct {
		source evidencev1.TLSTime_Source
		at     time.Time
		detail string
		err    string
	}
	tests := []struct {
		name    string
		leaf    *x509.Certificate
		ca      *testCA
		host    string
		reading reading
		want    want
	}{
		{"right clock", valid.Leaf, ca, "localhost", off(0), want{source: evidencev1.TLSTime_NODE_CLOCK, at: now}},
		{"right clock, by address", valid.Leaf, ca, "127.0.0.1", off(0), want{source: evidencev1.TLSTime_NODE_CLOCK, at: now}},
		{"a measured time is not used when the node's will do", valid.Leaf, ca, "localhost", measured(off(day)), want{source: evidencev1.TLSTime_NODE_CLOCK, at: now.Add(day)}},
		{"two years ahead, measured", valid.Leaf, ca, "localhost", measured(off(2 * year)), want{source: evidencev1.TLSTime_MEASURED, at: now, detail: "ntp-a, ntp-b"}},
		{"two years behind, measured", valid.Leaf, ca, "localhost", measured(off(-2 * year)), want{source: evidencev1.TLSTime_MEASURED, at: now, detail: "ntp-a, ntp-b"}},
		{"clock at the epoch, measured", valid.Leaf, ca, "localhost", measured(reading{node: time.Unix(0, 0)}), want{source: evidencev1.TLSTime_MEASURED, at: now}},
		{"two years ahead, nothing measured", valid.Leaf, ca, "localhost", off(2 * year), want{source: evidencev1.TLSTime_FALLBACK, at: now.Add(-20 * day), detail: "no time was measured; used the build time"}},
		{"two years behind, nothing measured, no build time", valid.Leaf, ca, "localhost", reading{node: now.Add(-2 * year)}, want{source: evidencev1.TLSTime_FALLBACK, at: now.Add(-30 * day), detail: "used the CA's NotBefore"}},
		{"two years ahead, verified before", valid.Leaf, ca, "localhost", func() reading { r := off(2 * year); r.verified = now.Add(-2 * day); return r }(), want{source: evidencev1.TLSTime_FALLBACK, at: now.Add(-2 * day), detail: "used the last verified time"}},
		{"sources that do not agree are not used", valid.Leaf, ca, "localhost", func() reading { r := measured(off(2 * year)); r.measured = false; return r }(), want{source: evidencev1.TLSTime_FALLBACK, at: now.Add(-20 * day), detail: "no two source groups agree (ntp-a, ntp-b)"}},
		{"one source is not enough", valid.Leaf, ca, "localhost", func() reading { r := measured(off(2 * year)); r.sources = r.sources[:1]; return r }(), want{source: evidencev1.TLSTime_FALLBACK, at: now.Add(-20 * day), detail: "fewer than two sources agree"}},
		{"a measured time before the last verified one is not used", valid.Leaf, ca, "localhost", func() reading { r := measured(off(2 * year)); r.verified = now.Add(2 * day); return r }(), want{source: evidencev1.TLSTime_FALLBACK, at: now.Add(2 * day), detail: "is before the last verified one"}},
		{"a measured time that wobbles is held at the last verified one", valid.Leaf, ca, "localhost", func() reading { r := measured(off(2 * year)); r.verified = now.Add(time.Second); return r }(), want{source: evidencev1.TLSTime_MEASURED, at: now.Add(time.Second)}},
		{"renewed since: not valid at the fallback time", renewed.Leaf, ca, "localhost", off(2 * year), want{err: "at the fallback time"}},

		{"expired, the measured time agrees with the node's", expired.Leaf, ca, "localhost", measured(off(0)), want{err: "at the node's time and at the measured time"}},
		{"expired, right clock, nothing measured: the residue that is accepted", expired.Leaf, ca, "localhost", off(0), want{source: evidencev1.TLSTime_FALLBACK, at: now.Add(-20 * day)}},
		{"expired before the last verified time", expired.Leaf, ca, "localhost", func() reading { r := off(0); r.verified = now.Add(-time.Hour); return r }(), want{err: "at the fallback time"}},
		{"of another CA, right clock", foreign.Leaf, ca, "localhost", off(0), want{err: "unknown authority"}},
		{"of another CA, two years ahead, measured", foreign.Leaf, ca, "localhost", measured(off(2 * year)), want{err: "unknown authority"}},
		{"of another CA, two years ahead, fallback", foreign.Leaf, ca, "localhost", off(2 * year), want{err: "unknown authority"}},
		{"another name, right clock", elsewhere.Leaf, ca, "localhost", off(0), want{err: "valid for elsewhere, not localhost"}},
		{"another name, two years ahead, measured", elsewhere.Leaf, ca, "localhost", measured(off(2 * year)), want{err: "valid for elsewhere, not localhost"}},
		{"another name, two years ahead, fallback", elsewhere.Leaf, ca, "localhost", off(2 * year), want{err: "valid for elsewhere, not localhost"}},
		{"a client's certificate", clientOnly.Leaf, ca, "localhost", measured(off(2 * year)), want{err: "incompatible key usage"}},
		{"right clock, outside the CA's validity", ofShort.Leaf, shortCA, "localhost", reading{node: now.Add(year), build: now.Add(year)}, want{err: "outside the validity of the CA"}},
		{"measured time outside the CA's validity", ofShort.Leaf, shortCA, "localhost", reading{node: now.Add(3 * year), measured: true, correction: -year, sources: []string{"a", "b"}}, want{err: "outside the validity of the CA"}},
		{"last verified time outside the CA's validity", ofShort.Leaf, shortCA, "localhost", reading{node: now.Add(3 * year), verified: now.Add(year)}, want{err: "outside the validity of the CA"}},
		{"CA not valid at the node's time, measured", ofShort.Leaf, shortCA, "localhost", measured(off(year)), want{source: evidencev1.TLSTime_MEASURED, at: now}},
		{"no time at all", valid.Leaf, ca, "localhost", reading{}, want{err: "no time to verify it at"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := verifyServer(tt.host, []*x509.Certificate{tt.leaf}, []*x509.Certificate{tt.ca.cert}, tt.reading)
			if tt.want.err != "" {
				require.ErrorContains(t, err, tt.want.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want.source, got.status.GetSource())
			require.WithinDuration(t, tt.want.at, got.at, time.Second)
			require.Contains(t, got.status.GetDetail(), tt.want.detail)
			if tt.want.source == evidencev1.TLSTime_NODE_CLOCK {
				require.Zero(t, got.status.GetCorrectionSeconds())
			} else {
				require.InDelta(t, tt.want.at.Sub(tt.reading.node).Seconds(), got.status.GetCorrectionSeconds(), 1)
			}
			require.Equal(t, tt.want.source != evidencev1.TLSTime_FALLBACK, got.trusted())
		})
	}
}

func TestWithSeveralPinnedAuthoritiesTheFallbackIsOfTheOneThatSigned(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	former := newCA(t, period{now.Add(-1000 * time.Hour), now.Add(1000 * time.Hour)})
	present := newCA(t, period{now.Add(-10 * time.Hour), now.Add(1000 * time.Hour)})
	leaf := present.issue(t, period{now.Add(-10 * time.Hour), now.Add(time.Hour)})
	got, err := verifyServer("localhost", []*x509.Certificate{leaf.Leaf}, []*x509.Certificate{former.cert, present.cert}, reading{node: now.Add(9999 * time.Hour)})
	require.NoError(t, err)
	require.WithinDuration(t, now.Add(-10*time.Hour), got.at, time.Second)
}

func TestAuthoritiesThatCannotBeOnesAreRefused(t *testing.T) {
	ca := newCA(t, around(time.Now(), time.Hour))
	leaf := ca.issue(t, around(time.Now(), time.Hour))
	notCA := &testCA{cert: leaf.Leaf}
	tests := []struct {
		name string
		pem  []byte
		err  string
	}{
		{"nothing", nil, "no PEM block"},
		{"no PEM", []byte("hello"), "no PEM block"},
		{"a certificate that is no CA", notCA.pem(), "it is not a CA"},
		{"damaged DER", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "parse CA certificate 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseAuthorities(tt.pem)
			require.ErrorContains(t, err, tt.err)
		})
	}
	both, err := parseAuthorities(append(ca.pem(), newCA(t, around(time.Now(), time.Hour)).pem()...))
	require.NoError(t, err)
	require.Len(t, both, 2)
}
