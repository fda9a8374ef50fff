// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/pki"
)

func certificate(t *testing.T, path string) *x509.Certificate {
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	block, rest := pem.Decode(data)
	require.NotNil(t, block)
	require.Empty(t, rest)
	c, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	return c
}

func verify(t *testing.T, files pki.Files, host string, at time.Time) error {
	roots := x509.NewCertPool()
	roots.AddCert(certificate(t, files.CA))
	_, err := certificate(t, files.Cert).Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: at})
	return err
}

func TestCertificatesAreGoodForTheirHostsAndTime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	noon := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	files, err := pki.Create(dir, pki.Options{Hosts: []string{"plumb.example", "127.0.0.1", "::1"}, Now: func() time.Time { return noon }})
	require.NoError(t, err)
	require.Equal(t, pki.FilesIn(dir), files)
	for _, path := range []string{files.CA, files.CAKey, files.Cert, files.Key} {
		st, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), st.Mode().Perm(), path)
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 4, "nothing else is left behind")
	_, err = tls.LoadX509KeyPair(files.Cert, files.Key)
	require.NoError(t, err)
	for _, host := range []string{"plumb.example", "127.0.0.1", "::1"} {
		require.NoError(t, verify(t, files, host, noon))
	}
	require.Error(t, verify(t, files, "other.example", noon))
	require.Error(t, verify(t, files, "plumb.example", noon.AddDate(1, 0, 0)))
	require.Error(t, verify(t, files, "plumb.example", noon.AddDate(-1, 0, 0)))
	require.Zero(t, certificate(t, files.Cert).IPAddresses[0].To4()[1], "IP addresses are not names")
}

func TestValidityOfServerAndAuthorityMayDiffer(t *testing.T) {
	noon := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	files, err := pki.Create(t.TempDir(), pki.Options{Hosts: []string{"a"}, NotBefore: noon, NotAfter: noon.AddDate(2, 0, 0), CANotBefore: noon.AddDate(-1, 0, 0), CANotAfter: noon.AddDate(1, 0, 0)})
	require.NoError(t, err)
	require.NoError(t, verify(t, files, "a", noon.AddDate(0, 6, 0)))
	require.ErrorContains(t, verify(t, files, "a", noon.AddDate(1, 6, 0)), "expired")
	require.Equal(t, noon.AddDate(-1, 0, 0), certificate(t, files.CA).NotBefore)
}

func TestIssueKeepsTheAuthority(t *testing.T) {
	dir := t.TempDir()
	files, err := pki.Create(dir, pki.Options{Hosts: []string{"a"}})
	require.NoError(t, err)
	ca, first := certificate(t, files.CA), certificate(t, files.Cert)
	_, err = pki.Issue(dir, pki.Options{Hosts: []string{"b"}})
	require.NoError(t, err)
	require.Equal(t, ca.Raw, certificate(t, files.CA).Raw)
	require.NotEqual(t, first.SerialNumber, certificate(t, files.Cert).SerialNumber)
	require.NoError(t, verify(t, files, "b", time.Now()))
	_, err = tls.LoadX509KeyPair(files.Cert, files.Key)
	require.NoError(t, err)
}

func TestOptionsThatAreRefused(t *testing.T) {
	now := time.Now()
	for name, opts := range map[string]pki.Options{
		"no host":         {},
		"an empty host":   {Hosts: []string{""}},
		"an end too soon": {Hosts: []string{"a"}, NotBefore: now, NotAfter: now},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pki.Create(t.TempDir(), opts)
			require.ErrorContains(t, err, "make certificates: ")
		})
	}
	_, err := pki.Issue(t.TempDir(), pki.Options{Hosts: []string{"a"}})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = pki.Create("/proc/none", pki.Options{Hosts: []string{"a"}})
	require.Error(t, err)
}
