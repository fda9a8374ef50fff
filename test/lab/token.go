// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"time"

	"github.com/plumb-dev/plumb/aggregator/identity"
)

// expiredToken mints a token as of yesterday that was good for an hour.
func (c *cluster) expiredToken(node string) ([]byte, error) {
	return c.mintToken(node, func() time.Time { return time.Now().Add(-24 * time.Hour) })
}

// mintToken mints a token for a node that is good for an hour from a time on.
func (c *cluster) mintToken(node string, from func() time.Time) ([]byte, error) {
	nodes, err := identity.New(identity.Config{Path: c.dir.File("keys", "nodes.yaml"), Now: from})
	if err != nil {
		return nil, fmt.Errorf("mint a token: %w", err)
	}
	token, err := nodes.Mint(node, time.Hour)
	if err != nil {
		return nil, err
	}
	return []byte(token + "\n"), nil
}
