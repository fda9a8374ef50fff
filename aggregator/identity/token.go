// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Why a token was refused.
var (
	// ErrMalformed: it is no token of ours at all, or a claim is missing.
	ErrMalformed = errors.New("token is malformed")
	// ErrSignature: it was not signed with our key and HS256.
	ErrSignature = errors.New("token signature is not valid")
	// ErrExpired: its time is over.
	ErrExpired = errors.New("token has expired")
	// ErrNotYetValid: its time has not come; the clock of whoever minted it is
	// ahead of the aggregator's.
	ErrNotYetValid = errors.New("token is not valid yet")
	// ErrAudience: it was made for somebody else.
	ErrAudience = errors.New("token is for another audience")
	// ErrUnknownNode: it names a node that the aggregator does not know, or one
	// that was replaced since (another uid).
	ErrUnknownNode = errors.New("token is of an unknown node")
)

const (
	issuer = "plumb"
	// MaxTokenBytes bounds a token before anything of it is decoded. Tokens of
	// Kubernetes have about 1.2 KiB.
	MaxTokenBytes = 8 << 10
	// MaxTTL bounds what Mint signs.
	MaxTTL = 10 * 365 * 24 * time.Hour
	// backdate lets an aggregator whose clock is behind take a fresh token.
	backdate = time.Minute
)

// claims have the shape of a projected service-account token (KEP-4193).
type claims struct {
	jwt.RegisteredClaims
	Kubernetes kubernetesClaim `json:"kubernetes.io"`
}

type kubernetesClaim struct {
	Node nodeClaim `json:"node"`
}

type nodeClaim struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// Authenticate says for which node the bearer of a token speaks. It fails with
// one of the errors of this package, and never tells what is in the token. It
// does not block; ctx is there for authenticators that ask somebody.
func (n *Nodes) Authenticate(_ context.Context, token string) (Node, error) {
	f := n.current()
	if token == "" || len(token) > MaxTokenBytes {
		return Node{}, fmt.Errorf("authenticate: %w: it has %d bytes, 1 to %d are taken", ErrMalformed, len(token), MaxTokenBytes)
	}
	parser := jwt.NewParser(
		// One algorithm, named here and not by the token: neither "none" nor a
		// public key used as an HMAC secret gets past it.
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithIssuer(issuer),
		jwt.WithAudience(f.audience),
		jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(n.cfg.Now),
		jwt.WithLeeway(0),
		jwt.WithStrictDecoding(),
	)
	var c claims
	if _, err := parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return f.key, nil }); err != nil {
		return Node{}, fmt.Errorf("authenticate: %w", explain(err, f.audience))
	}
	name := c.Kubernetes.Node.Name
	if name == "" || c.Kubernetes.Node.UID == "" || c.Subject != "node:"+name {
		return Node{}, fmt.Errorf("authenticate: %w: subject and node do not name one node", ErrMalformed)
	}
	node, ok := f.byName[name]
	switch {
	case !ok:
		return Node{}, fmt.Errorf("authenticate: %w: %q is not in the nodes file", ErrUnknownNode, clip(name))
	case node.UID != c.Kubernetes.Node.UID:
		return Node{}, fmt.Errorf("authenticate: %w: %q has another uid in the nodes file: give the node a new token", ErrUnknownNode, clip(name))
	}
	return node, nil
}

// explain keeps of the library's error what tells the operator what to do.
func explain(err error, audience string) error {
	switch {
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return fmt.Errorf("%w: it was made with another key or algorithm: mint it from the aggregator's nodes file", ErrSignature)
	case errors.Is(err, jwt.ErrTokenMalformed):
		return fmt.Errorf("%w: it is not a signed JWT", ErrMalformed)
	case errors.Is(err, jwt.ErrTokenExpired):
		return fmt.Errorf("%w: give the node a new one", ErrExpired)
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return fmt.Errorf("%w: compare the clocks of the aggregator and of whoever minted it", ErrNotYetValid)
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return fmt.Errorf("%w: %q is wanted", ErrAudience, audience)
	default:
		return fmt.Errorf("%w: a claim is missing or of another issuer", ErrMalformed)
	}
}

// Mint signs a token for a node of the file.
func (n *Nodes) Mint(nodeName string, ttl time.Duration) (string, error) {
	f := n.current()
	node, ok := f.byName[nodeName]
	if !ok {
		return "", fmt.Errorf("mint a token: %w: %q is not in %s", ErrUnknownNode, clip(nodeName), n.cfg.Path)
	}
	if ttl < time.Second || ttl > MaxTTL {
		return "", fmt.Errorf("mint a token for %s: it must be valid between 1 s and ten years, not %s", nodeName, ttl)
	}
	now := n.cfg.Now()
	c := claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    issuer,
			Subject:   "node:" + node.Name,
			Audience:  jwt.ClaimStrings{f.audience},
			ExpiresAt: jwt.NewNumericDate(now.Add(ttl)),
			NotBefore: jwt.NewNumericDate(now.Add(-backdate)),
			IssuedAt:  jwt.NewNumericDate(now),
		},
		Kubernetes: kubernetesClaim{Node: nodeClaim{Name: node.Name, UID: node.UID}},
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString(f.key)
	if err != nil {
		return "", fmt.Errorf("mint a token for %s: %w", nodeName, err)
	}
	return token, nil
}
