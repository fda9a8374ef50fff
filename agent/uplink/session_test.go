// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/agent/hostclock"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// A wrongClock is the node's clock, off by some time.
type wrongClock struct {
	*hostclock.Clock
	off time.Duration
}

func (c wrongClock) Now() time.Time { return c.Clock.Now().Add(c.off) }

const twoYears = 2 * 365 * 24 * time.Hour

func TestEvidenceArrivesWithTheClockTwoYearsOff(t *testing.T) {
	for _, tt := range []struct {
		name     string
		off      time.Duration
		measured func(off time.Duration) (time.Duration, []string, bool)
		source   evidencev1.TLSTime_Source
		detail   string
	}{
		{"ahead and two groups agree", twoYears, func(off time.Duration) (time.Duration, []string, bool) { return -off, []string{"a", "b"}, true }, evidencev1.TLSTime_MEASURED, "measured by a, b"},
		{"behind and two groups agree", -twoYears, func(off time.Duration) (time.Duration, []string, bool) { return -off, []string{"a", "b"}, true }, evidencev1.TLSTime_MEASURED, "measured by a, b"},
		{"ahead and two sources contradict each other", twoYears, func(off time.Duration) (time.Duration, []string, bool) { return -off, []string{"a", "b"}, false }, evidencev1.TLSTime_FALLBACK, "no two source groups agree (a, b)"},
		{"ahead and nothing is measured", twoYears, nil, evidencev1.TLSTime_FALLBACK, "no time was measured"},
		{"behind and nothing is measured", -twoYears, nil, evidencev1.TLSTime_FALLBACK, "no time was measured"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			f.cfg.Clock = wrongClock{hostclock.New(), tt.off}
			f.cfg.BuildTime = time.Now().Add(-time.Minute)
			f.cfg.SpoolDir = t.TempDir()
			if tt.measured != nil {
				f.cfg.MeasuredTime = func() (time.Duration, []string, bool) { return tt.measured(tt.off) }
			}
			c, _ := f.run(t)
			c.Episode(episode("e1"))
			testutils.Eventually(t, 10*time.Second, "the episode", func() bool { return f.server.times("e1") == 1 })
			for _, r := range f.server.got() {
				// Said in every batch, the first included.
				got := r.GetBatch().GetAgent().GetTlsTime()
				require.Equal(t, tt.source, got.GetSource())
				require.Contains(t, got.GetDetail(), tt.detail)
				require.InDelta(t, -tt.off.Seconds(), got.GetCorrectionSeconds(), 90)
			}
			if tt.source == evidencev1.TLSTime_MEASURED {
				require.WithinDuration(t, time.Now(), c.memory.lastVerified(), time.Minute)
			} else {
				require.Zero(t, c.memory.lastVerified(), "a fallback is no time to build on")
			}
			require.Contains(t, f.logs.String(), "time at which the aggregator's certificate is verified changed")
		})
	}
}

func TestCertificatesThatTheUplinkRefuses(t *testing.T) {
	now := time.Now()
	mine := newCA(t, around(now, 24*time.Hour))
	other := newCA(t, around(now, 24*time.Hour))
	for _, tt := range []struct {
		name  string
		setup func(f *fixture)
		err   string
	}{
		{"of another CA, clock right", func(f *fixture) { f.server.cert = other.issue(t, around(now, time.Hour)) }, "unknown authority"},
		{"of another CA, clock off", func(f *fixture) {
			f.server.cert = other.issue(t, around(now, time.Hour))
			f.cfg.Clock = wrongClock{hostclock.New(), twoYears}
		}, "unknown authority"},
		{"of another name, clock off", func(f *fixture) {
			f.server.cert = mine.issueFor(t, around(now, time.Hour), x509.ExtKeyUsageServerAuth, "elsewhere")
			f.cfg.Clock = wrongClock{hostclock.New(), twoYears}
		}, "127.0.0.1"},
		{"outside the CA's validity at the measured time", func(f *fixture) {
			f.cfg.Clock = wrongClock{hostclock.New(), twoYears}
			f.cfg.MeasuredTime = func() (time.Duration, []string, bool) { return -twoYears / 2, []string{"a", "b"}, true }
		}, "outside the validity of the CA"},
		{"expired, and the measured time agrees with the clock", func(f *fixture) {
			f.server.cert = mine.issue(t, period{now.Add(-2 * time.Hour), now.Add(-time.Hour)})
			f.cfg.MeasuredTime = func() (time.Duration, []string, bool) { return 0, []string{"a", "b"}, true }
		}, "at the measured time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fixture{ca: mine, server: unstartedServer(t, mine.issue(t, around(now, time.Hour)))}
			f.config(t)
			tt.setup(f)
			f.server.start()
			f.cfg.Endpoints = []string{f.server.url()}
			c, stop := f.run(t)
			testutils.Eventually(t, 5*time.Second, "the refusal", func() bool { return c.Status().Endpoints[0].LastErrorReason == "tls" })
			require.Contains(t, c.Status().Endpoints[0].LastError, tt.err)
			stop()
			require.Empty(t, f.server.got())
		})
	}
}

func TestNoOtherConnectionIsVerifiedThatWay(t *testing.T) {
	f := newFixture(t)
	f.server.stop()
	now := time.Now()
	f.server.cert = f.ca.issue(t, period{now.Add(-24 * time.Hour), now.Add(-time.Hour)})
	f.server.start()
	f.cfg.BuildTime = time.Time{}
	_, stop := f.run(t)
	f.waitBatches(t, 1) // the uplink takes the expired certificate: nothing is measured
	stop()
	// What else the process connects with is as strict as ever, even if it trusts
	// the same CA.
	pool := x509.NewCertPool()
	pool.AddCert(f.ca.cert)
	other := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	_, err := (&http.Client{Transport: other}).Get(f.server.url())
	var invalid x509.CertificateInvalidError
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, x509.Expired, invalid.Reason)
	_, err = http.Get(f.server.url())
	var refused *tls.CertificateVerificationError
	require.ErrorAs(t, err, &refused)
}

func TestTheLastVerifiedTimeOutlivesTheRun(t *testing.T) {
	f := newFixture(t)
	f.cfg.SpoolDir = t.TempDir()
	_, stop := f.run(t)
	f.waitBatches(t, 1)
	stop()
	verified := newMemory(f.cfg.SpoolDir, f.cfg.Log).lastVerified()
	require.WithinDuration(t, time.Now(), verified, time.Minute)
	info, err := os.Stat(filepath.Join(f.cfg.SpoolDir, stateFile))
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())

	// A certificate that had expired by then is refused, whatever the clock says.
	f.server.stop()
	f.server.cert = f.ca.issue(t, period{time.Now().Add(-3 * time.Hour), verified.Add(-time.Second)})
	f.server.start()
	f.cfg.Clock = wrongClock{hostclock.New(), -twoYears}
	c, _ := f.run(t)
	testutils.Eventually(t, 5*time.Second, "the refusal", func() bool { return c.Status().Endpoints[0].LastErrorReason == "tls" })
	require.Contains(t, c.Status().Endpoints[0].LastError, "at the fallback time")
}

// A fakeResolver answers from a table that tests change.
type fakeResolver struct {
	mu    sync.Mutex
	table map[string][]netip.Addr
}

func (r *fakeResolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a, ok := r.table[host]; ok {
		return a, nil
	}
	return nil, &net.DNSError{Err: "server misbehaving", Name: host}
}

func (r *fakeResolver) set(host string, addresses ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.table, host)
	for _, a := range addresses {
		r.table[host] = append(r.table[host], netip.MustParseAddr(a))
	}
}

func TestDNSMayFailOnceTheAddressIsKnown(t *testing.T) {
	f := newFixture(t)
	resolver := &fakeResolver{table: map[string][]netip.Addr{}}
	_, port, err := net.SplitHostPort(f.server.address)
	require.NoError(t, err)
	f.cfg.Endpoints = []string{"https://localhost:" + port}
	f.cfg.Resolver = resolver
	f.cfg.SpoolDir = t.TempDir()

	c, stop := f.run(t)
	testutils.Eventually(t, 5*time.Second, "the failure", func() bool { return c.Status().Endpoints[0].LastErrorReason == "dns" })
	require.True(t, c.Status().Endpoints[0].DNSFailed)
	// 127.0.0.2 does not answer, 127.0.0.1 does: both are tried.
	resolver.set("localhost", "127.0.0.2", "127.0.0.1")
	require.False(t, f.waitBatches(t, 1)[0].GetBatch().GetAgent().GetDnsFailed())
	require.Equal(t, []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}, c.memory.addresses("localhost"))
	stop()

	// The next run finds DNS dead, and the one after that finds it lying.
	resolver.set("localhost")
	f.cfg.BootID = "kernel/2"
	_, stop = f.run(t)
	require.True(t, f.waitBatches(t, 2)[1].GetBatch().GetAgent().GetDnsFailed())
	stop()
	resolver.set("localhost", "127.0.0.3")
	f.cfg.BootID = "kernel/3"
	f.run(t)
	require.False(t, f.waitBatches(t, 3)[2].GetBatch().GetAgent().GetDnsFailed())
}

func TestExchangeGivesFourTimestamps(t *testing.T) {
	f := newFixture(t)
	f.cfg.Clock = wrongClock{hostclock.New(), -7 * time.Minute}
	c, stop := f.run(t)
	f.waitBatches(t, 1)
	x, err := c.Exchange(context.Background())
	require.NoError(t, err)
	require.Equal(t, "server-kernel", x.KernelBootID)
	require.False(t, x.T4.Before(x.T1))
	offset := (x.T1.Sub(x.T2) + x.T4.Sub(x.T3)) / 2 // node minus aggregator
	require.InDelta(t, -7*time.Minute, offset, float64(x.T4.Sub(x.T1))/2+1e6)
	stop()
	_, err = c.Exchange(context.Background())
	require.ErrorIs(t, err, ErrNotConnected)
}

// A steppedClock jumps between two readings.
type steppedClock struct {
	*hostclock.Clock
	mu   sync.Mutex
	step time.Duration
	off  time.Duration
}

func (c *steppedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += c.step
	return c.Clock.Now().Add(c.off)
}

func TestAnExchangeDuringWhichTheClockIsSteppedIsThrownAway(t *testing.T) {
	f := newFixture(t)
	clock := &steppedClock{Clock: hostclock.New()}
	f.cfg.Clock = clock
	c, _ := f.run(t)
	f.waitBatches(t, 1)
	clock.mu.Lock()
	clock.step = time.Second
	clock.mu.Unlock()
	_, err := c.Exchange(context.Background())
	require.ErrorContains(t, err, "was stepped by")
}
