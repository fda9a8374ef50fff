// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// What a nodes file says it is.
const (
	APIVersion = "plumb.dev/v1alpha1"
	Kind       = "Nodes"
)

// MinKeyBytes is the least length of the signing key: the output of SHA-256, as
// RFC 7518 section 3.2 demands of HS256.
const MinKeyBytes = 32

const (
	maxNodes = 20_000
	maxField = 253 // the longest name of a node in Kubernetes (RFC 1123 subdomain)
)

// file is a nodes file that was found good.
type file struct {
	cluster, audience string
	key               []byte
	nodes             []Node
	byName            map[string]Node
}

// document is the file as written.
type document struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Cluster    string `yaml:"cluster"`
	Audience   string `yaml:"audience"`
	SigningKey string `yaml:"signingKey"`
	Nodes      []Node `yaml:"nodes"`
}

func parse(data []byte) (*file, error) {
	if len(data) > MaxFileBytes {
		return nil, errTooLarge
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	var doc document
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("it is empty")
		}
		return nil, oneLine(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("it has more than one YAML document: keep one")
	}
	// The tree tells the line of each node; the structure above does not.
	var tree yaml.Node
	if err := yaml.Unmarshal(data, &tree); err != nil {
		return nil, oneLine(err)
	}
	return doc.check(lines(&tree))
}

func (d *document) check(line func(field string, index int) int) (*file, error) {
	at := func(field string, index int, format string, args ...any) error {
		return fmt.Errorf("line %d: %s", line(field, index), fmt.Sprintf(format, args...))
	}
	switch {
	case d.APIVersion != APIVersion:
		return nil, at("apiVersion", -1, "apiVersion is %q, must be %q", d.APIVersion, APIVersion)
	case d.Kind != Kind:
		return nil, at("kind", -1, "kind is %q, must be %q", d.Kind, Kind)
	case len(d.Nodes) == 0:
		return nil, at("nodes", -1, "nodes is empty: list at least one node")
	case len(d.Nodes) > maxNodes:
		return nil, at("nodes", -1, "nodes has %d entries, at most %d are taken", len(d.Nodes), maxNodes)
	}
	for _, f := range []struct{ name, value string }{{"cluster", d.Cluster}, {"audience", d.Audience}} {
		if err := checkText(f.value, true); err != nil {
			return nil, at(f.name, -1, "%s %s", f.name, err)
		}
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(d.SigningKey))
	if err != nil {
		return nil, at("signingKey", -1, "signingKey is not base64: make one with: head -c 32 /dev/urandom | base64")
	}
	if len(key) < MinKeyBytes {
		return nil, at("signingKey", -1, "signingKey has %d bytes, at least %d are needed: make one with: head -c 32 /dev/urandom | base64", len(key), MinKeyBytes)
	}
	out := &file{cluster: d.Cluster, audience: d.Audience, key: key, nodes: d.Nodes, byName: make(map[string]Node, len(d.Nodes))}
	names, uids := map[string]int{}, map[string]int{}
	for i, n := range d.Nodes {
		for _, f := range []struct {
			name, value string
			required    bool
		}{
			{"name", n.Name, true}, {"uid", n.UID, true}, {"zone", n.Zone, false}, {"pool", n.Pool, false},
			{"instanceType", n.InstanceType, false}, {"kernel", n.Kernel, false}, {"image", n.Image, false},
		} {
			if err := checkText(f.value, f.required); err != nil {
				return nil, at("nodes", i, "node %q: %s %s", clip(n.Name), f.name, err)
			}
		}
		if first, dup := names[n.Name]; dup {
			return nil, at("nodes", i, "node name %q is used twice, first on line %d", n.Name, line("nodes", first))
		}
		if first, dup := uids[n.UID]; dup {
			return nil, at("nodes", i, "node uid %q is used twice, first on line %d", n.UID, line("nodes", first))
		}
		names[n.Name], uids[n.UID] = i, i
		out.byName[n.Name] = n
	}
	sort.Slice(out.nodes, func(i, j int) bool { return out.nodes[i].Name < out.nodes[j].Name })
	return out, nil
}

func checkText(s string, required bool) error {
	switch {
	case s == "" && required:
		return errors.New("is missing")
	case len(s) > maxField:
		return fmt.Errorf("has %d bytes, at most %d are taken", len(s), maxField)
	case !utf8.ValidString(s):
		return errors.New("is not UTF-8")
	case strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return errors.New("has control characters")
	}
	return nil
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

// lines finds where a top-level field, or one entry of its list, begins.
func lines(tree *yaml.Node) func(field string, index int) int {
	return func(field string, index int) int {
		if len(tree.Content) == 0 {
			return 1
		}
		m := tree.Content[0]
		for i := 0; i+1 < len(m.Content); i += 2 {
			if m.Content[i].Value != field {
				continue
			}
			if list := m.Content[i+1]; index >= 0 && index < len(list.Content) {
				return list.Content[index].Line
			}
			return m.Content[i].Line
		}
		return max(m.Line, 1)
	}
}

var goType = regexp.MustCompile(` in type [\w.]+| into [\w.\[\]]+`)

// oneLine takes the Go out of what the YAML library says.
func oneLine(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	var typed *yaml.TypeError
	if errors.As(err, &typed) {
		text = strings.Join(typed.Errors, "; ")
	}
	text = strings.Join(strings.Fields(goType.ReplaceAllString(text, "")), " ")
	return errors.New(strings.ReplaceAll(text, "not found", "is not known"))
}
