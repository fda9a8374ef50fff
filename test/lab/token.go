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
	nodes, err := identity.New(identity.Config{
		Path: c.dir.File("keys", "nodes.yaml"),
		Now:  func() time.Time { return time.Now().Add(-24 * time.Hour) },
	})
	if err != nil {
		return nil, fmt.Errorf("mint an expired token: %w", err)
	}
	token, err := nodes.Mint(node, time.Hour)
	if err != nil {
		return nil, fmt.Errorf("mint an expired token: %w", err)
	}
	return []byte(token + "\n"), nil
}
