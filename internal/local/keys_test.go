// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/aggregator/identity"
)

func TestThrowAwayKeysFitTogether(t *testing.T) {
	dir := t.TempDir()
	c, err := ThrowAwayKeys(dir, "here", newUID())
	require.NoError(t, err)

	nodes, err := identity.LoadNodes(c.Nodes)
	require.NoError(t, err)
	token, err := os.ReadFile(c.Token)
	require.NoError(t, err)
	node, err := nodes.Authenticate(t.Context(), strings.TrimSpace(string(token)))
	require.NoError(t, err)
	require.Equal(t, "here", node.Name)

	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	require.NoError(t, err)
	ca, err := os.ReadFile(c.CA)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(ca))
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	require.NoError(t, err)
	_, err = leaf.Verify(x509.VerifyOptions{DNSName: "127.0.0.1", Roots: roots})
	require.NoError(t, err)

	require.NoError(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && path != dir {
			require.Zero(t, info.Mode().Perm()&0o077, "%s is open to others", path)
		}
		return err
	}))
}
