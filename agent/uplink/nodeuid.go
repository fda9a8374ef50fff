// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

// NodeUID returns the node uid that the token in a file speaks for, unverified:
// the aggregator decides. No part of the token gets into an error.
func NodeUID(tokenFile string) (string, error) {
	t, err := readToken(tokenFile)
	if err != nil {
		return "", err
	}
	return t.nodeUID, nil
}
