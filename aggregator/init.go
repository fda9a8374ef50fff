// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package aggregator

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/plumb-dev/plumb/aggregator/identity"
	"github.com/plumb-dev/plumb/internal/pki"
)

// InitConfig says what Init makes.
type InitConfig struct {
	Dir     string
	Cluster string
	// Nodes are "NAME=UID[,zone=Z][,pool=P][,instanceType=T][,kernel=K][,image=I]".
	Nodes []string
	// Hosts are the names and addresses by which agents reach the aggregator.
	Hosts []string
	// TokenTTL is how long the tokens hold.
	TokenTTL time.Duration
}

// InitFiles are the files that Init made.
type InitFiles struct {
	pki.Files
	Nodes string
	// Tokens are by node name.
	Tokens map[string]string
}

// keyBytes of the signing key: as many as HMAC-SHA-256 gives out (RFC 7518
// section 3.2 asks for no fewer).
const keyBytes = 32

// nodeName is what a node may be called here: its token is a file of that name.
var nodeName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)

// nodesFile is the part of the nodes file that Init writes.
type nodesFile struct {
	APIVersion string              `yaml:"apiVersion"`
	Kind       string              `yaml:"kind"`
	Cluster    string              `yaml:"cluster"`
	Audience   string              `yaml:"audience"`
	SigningKey string              `yaml:"signingKey"`
	Nodes      []map[string]string `yaml:"nodes"`
}

// Init makes what an aggregator outside Kubernetes needs, all of it to be thrown
// away: a private CA, a server certificate, a nodes file with a signing key, and
// one token per node. Every file has mode 0600.
func Init(cfg InitConfig) (InitFiles, error) {
	out := InitFiles{Tokens: map[string]string{}}
	switch {
	case cfg.Dir == "":
		return out, errors.New("make the aggregator's files: name a directory")
	case len(cfg.Nodes) == 0:
		return out, errors.New("make the aggregator's files: name at least one node with --node NAME=UID")
	case len(cfg.Hosts) == 0:
		return out, errors.New("make the aggregator's files: name with --host how agents reach the aggregator")
	}
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key) // never fails since Go 1.24
	file := nodesFile{APIVersion: "plumb.dev/v1alpha1", Kind: "Nodes", Cluster: cfg.Cluster, Audience: "plumb", SigningKey: base64.StdEncoding.EncodeToString(key)}
	var names []string
	for _, text := range cfg.Nodes {
		n, err := parseNode(text)
		if err != nil {
			return out, err
		}
		if slices.Contains(names, n["name"]) {
			return out, fmt.Errorf("--node %s: node %s is named twice", text, n["name"])
		}
		names = append(names, n["name"])
		file.Nodes = append(file.Nodes, n)
	}
	var err error
	if out.Files, err = pki.Create(cfg.Dir, pki.Options{Hosts: cfg.Hosts}); err != nil {
		return out, err
	}
	data, err := yaml.Marshal(file)
	if err != nil {
		return out, fmt.Errorf("write nodes file: %w", err)
	}
	out.Nodes = filepath.Join(cfg.Dir, "nodes.yaml")
	if err := writeSecret(out.Nodes, data); err != nil {
		return out, err
	}
	nodes, err := identity.LoadNodes(out.Nodes)
	if err != nil {
		return out, err
	}
	for _, name := range names {
		token, err := nodes.Mint(name, cfg.TokenTTL)
		if err != nil {
			return out, err
		}
		out.Tokens[name] = filepath.Join(cfg.Dir, name+".token")
		if err := writeSecret(out.Tokens[name], []byte(token+"\n")); err != nil {
			return out, err
		}
	}
	return out, nil
}

func parseNode(text string) (map[string]string, error) {
	head, rest, _ := strings.Cut(text, ",")
	name, uid, ok := strings.Cut(head, "=")
	if !ok || uid == "" || !nodeName.MatchString(name) {
		return nil, fmt.Errorf("--node %q: write NAME=UID[,zone=Z][,pool=P][,instanceType=T][,kernel=K][,image=I]; a name has letters, digits, dots, dashes and underscores", text)
	}
	n := map[string]string{"name": name, "uid": uid}
	if rest == "" {
		return n, nil
	}
	for _, pair := range strings.Split(rest, ",") {
		k, v, ok := strings.Cut(pair, "=")
		if !ok || v == "" || !slices.Contains([]string{"zone", "pool", "instanceType", "kernel", "image"}, k) {
			return nil, fmt.Errorf("--node %q: %q is none of zone=, pool=, instanceType=, kernel=, image= with a value", text, pair)
		}
		n[k] = v
	}
	return n, nil
}

// writeSecret replaces a file in one step.
func writeSecret(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
