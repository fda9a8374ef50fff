// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/aggregator/identity"
	"github.com/plumb-dev/plumb/internal/pki"
)

// tokenTTL is longer than anybody watches; the key dies with the directory.
const tokenTTL = 30 * 24 * time.Hour

// nodesFile is the file that identity reads.
type nodesFile struct {
	APIVersion string          `yaml:"apiVersion"`
	Kind       string          `yaml:"kind"`
	Cluster    string          `yaml:"cluster"`
	Audience   string          `yaml:"audience"`
	SigningKey string          `yaml:"signingKey"`
	Nodes      []identity.Node `yaml:"nodes"`
}

// ThrowAwayKeys makes an authority, a certificate for 127.0.0.1, a nodes file
// with one node, and its token, in dir.
func ThrowAwayKeys(dir, node, uid string) (Credentials, error) {
	files, err := pki.Create(filepath.Join(dir, "tls"), pki.Options{Hosts: []string{"127.0.0.1", "localhost"}})
	if err != nil {
		return Credentials{}, err
	}
	var key [identity.MinKeyBytes]byte
	_, _ = rand.Read(key[:]) // never fails since Go 1.24
	raw, err := yaml.Marshal(nodesFile{
		APIVersion: identity.APIVersion, Kind: identity.Kind, Cluster: cluster, Audience: "plumb",
		SigningKey: base64.StdEncoding.EncodeToString(key[:]),
		Nodes:      []identity.Node{{Name: node, UID: uid, Kernel: kernelRelease()}},
	})
	if err != nil {
		return Credentials{}, fmt.Errorf("encode nodes file: %w", err)
	}
	c := Credentials{
		CA: files.CA, Cert: files.Cert, Key: files.Key,
		Nodes: filepath.Join(dir, "nodes.yaml"), Token: filepath.Join(dir, "token"),
	}
	if err := os.WriteFile(c.Nodes, raw, 0o600); err != nil {
		return Credentials{}, fmt.Errorf("write nodes file: %w", err)
	}
	nodes, err := identity.LoadNodes(c.Nodes)
	if err != nil {
		return Credentials{}, err
	}
	token, err := nodes.Mint(node, tokenTTL)
	if err != nil {
		return Credentials{}, err
	}
	if err := os.WriteFile(c.Token, []byte(token+"\n"), 0o600); err != nil {
		return Credentials{}, fmt.Errorf("write token: %w", err)
	}
	return c, nil
}

// kernelRelease is what uname -r says; empty when it says nothing.
func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
