// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func nodesAt(tb testing.TB, now *time.Time) *Nodes {
	n, err := New(Config{Path: write(tb, goodFile), Now: func() time.Time { return *now }})
	require.NoError(tb, err)
	return n
}

func TestMintedTokenSpeaksForItsNode(t *testing.T) {
	now := noon
	n := nodesAt(t, &now)
	token, err := n.Mint("n1.example", time.Hour)
	require.NoError(t, err)
	for _, tc := range []struct {
		name string
		at   time.Time
		is   error
	}{
		{"at once", noon, nil},
		{"at an aggregator a minute behind", noon.Add(-time.Minute), nil},
		{"at an aggregator further behind", noon.Add(-time.Minute - time.Second), ErrNotYetValid},
		{"in its last second", noon.Add(time.Hour - time.Second), nil},
		{"at its end, without leeway", noon.Add(time.Hour), ErrExpired},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now = tc.at
			node, err := n.Authenticate(context.Background(), token)
			if tc.is != nil {
				require.ErrorIs(t, err, tc.is)
				require.Zero(t, node)
				return
			}
			require.NoError(t, err)
			require.Equal(t, Node{Name: "n1.example", UID: "u1", Zone: "z1", Pool: "p", InstanceType: "m5.large", Kernel: "6.18.0", Image: "Debian 13"}, node)
		})
	}
	_, err = n.Mint("stranger", time.Hour)
	require.ErrorIs(t, err, ErrUnknownNode)
	_, err = n.Mint("n2", 0)
	require.ErrorContains(t, err, "between 1 s and ten years")
}

// forged signs any claims with any method; change may edit the usual claims.
func forged(t *testing.T, method jwt.SigningMethod, key any, change func(jwt.MapClaims)) string {
	t.Helper()
	c := jwt.MapClaims{
		"iss": "plumb", "aud": []string{"plumb"}, "sub": "node:n2",
		"exp": noon.Add(time.Hour).Unix(), "nbf": noon.Unix(), "iat": noon.Unix(),
		"kubernetes.io": map[string]any{"node": map[string]any{"name": "n2", "uid": "u2"}},
	}
	if change != nil {
		change(c)
	}
	token, err := jwt.NewWithClaims(method, c).SignedString(key)
	require.NoError(t, err)
	return token
}

func TestTokenThatIsRefused(t *testing.T) {
	now := noon
	n := nodesAt(t, &now)
	key, err := base64.StdEncoding.DecodeString(key1)
	require.NoError(t, err)
	other, err := base64.StdEncoding.DecodeString(key2)
	require.NoError(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	public, err := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	require.NoError(t, err)
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})

	good := forged(t, jwt.SigningMethodHS256, key, nil)
	_, err = n.Authenticate(context.Background(), good)
	require.NoError(t, err, "the forger's usual claims are good, so each case below fails for its own reason")
	parts := strings.Split(good, ".")
	claim := func(name string, value any) func(jwt.MapClaims) {
		return func(c jwt.MapClaims) {
			if value == nil {
				delete(c, name)
				return
			}
			c[name] = value
		}
	}
	node := func(name, uid string) map[string]any {
		return map[string]any{"node": map[string]any{"name": name, "uid": uid}}
	}
	hs := func(change func(jwt.MapClaims)) string { return forged(t, jwt.SigningMethodHS256, key, change) }

	for _, tc := range []struct {
		name, token string
		is          error
	}{
		{"empty", "", ErrMalformed},
		{"too long", good + strings.Repeat("A", MaxTokenBytes), ErrMalformed},
		{"not a token", "hello", ErrMalformed},
		{"two parts", parts[0] + "." + parts[1], ErrMalformed},
		{"four parts", good + ".x", ErrMalformed},
		{"no signature", parts[0] + "." + parts[1] + ".", ErrSignature},
		{"another key", forged(t, jwt.SigningMethodHS256, other, nil), ErrSignature},
		{"algorithm none", forged(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), ErrSignature},
		{"algorithm none in other letters", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"nOnE","typ":"JWT"}`)) + "." + parts[1] + ".", ErrSignature},
		{"HS512 with the right key", forged(t, jwt.SigningMethodHS512, key, nil), ErrSignature},
		{"HS384 with the right key", forged(t, jwt.SigningMethodHS384, key, nil), ErrSignature},
		{"RS256", forged(t, jwt.SigningMethodRS256, rsaKey, nil), ErrSignature},
		{"ES256", forged(t, jwt.SigningMethodES256, ecKey, nil), ErrSignature},
		{"HS256 with a public key as the secret", forged(t, jwt.SigningMethodHS256, publicPEM, nil), ErrSignature},
		{"an empty secret", forged(t, jwt.SigningMethodHS256, []byte{}, nil), ErrSignature},
		{"the claims of another token under this signature", parts[0] + "." + strings.Split(hs(claim("sub", "node:x")), ".")[1] + "." + parts[2], ErrSignature},
		{"expired", hs(claim("exp", noon.Unix())), ErrExpired},
		{"no expiry", hs(claim("exp", nil)), ErrMalformed},
		{"an expiry that is no number", hs(claim("exp", "soon")), ErrMalformed},
		{"not yet valid", hs(claim("nbf", noon.Add(time.Second).Unix())), ErrNotYetValid},
		{"another audience", hs(claim("aud", []string{"vault"})), ErrAudience},
		{"no audience", hs(claim("aud", nil)), ErrMalformed},
		{"another issuer", hs(claim("iss", "kubernetes")), ErrMalformed},
		{"no issuer", hs(claim("iss", nil)), ErrMalformed},
		{"no subject", hs(claim("sub", nil)), ErrMalformed},
		{"a subject of another node", hs(claim("sub", "node:n1.example")), ErrMalformed},
		{"no node", hs(claim("kubernetes.io", nil)), ErrMalformed},
		{"a node without uid", hs(claim("kubernetes.io", node("n2", ""))), ErrMalformed},
		{"a node that is not known", hs(func(c jwt.MapClaims) { c["sub"] = "node:n9"; c["kubernetes.io"] = node("n9", "u9") }), ErrUnknownNode},
		{"a node that was replaced", hs(claim("kubernetes.io", node("n2", "u1"))), ErrUnknownNode},
		{"the name of one node and the uid of another", hs(func(c jwt.MapClaims) { c["sub"] = "node:n1.example"; c["kubernetes.io"] = node("n1.example", "u2") }), ErrUnknownNode},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := n.Authenticate(context.Background(), tc.token)
			require.ErrorIs(t, err, tc.is)
			require.Zero(t, got)
			require.NotContains(t, err.Error(), "\n")
			if len(parts[2]) > 0 && tc.token != "" {
				require.NotContains(t, err.Error(), parts[2], "no part of a token in an error")
			}
		})
	}
}

func FuzzToken(f *testing.F) {
	now := noon
	n := nodesAt(f, &now)
	good, err := n.Mint("n2", time.Hour)
	require.NoError(f, err)
	f.Add(good)
	f.Add("")
	f.Add("a.b.c")
	f.Add(good[:len(good)-3])
	f.Add("eyJhbGciOiJub25lIn0." + strings.Split(good, ".")[1] + ".")
	f.Fuzz(func(t *testing.T, token string) {
		node, err := n.Authenticate(context.Background(), token)
		if err == nil {
			// Strict decoding leaves one spelling of a good token.
			require.Equal(t, good, token)
			require.Equal(t, "n2", node.Name)
			return
		}
		require.Zero(t, node)
		require.NotContains(t, err.Error(), "\n")
	})
}
