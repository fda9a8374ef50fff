// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// An object is a YAML mapping whose keys were checked.
type object struct {
	src  *source
	node *yaml.Node
	// what names the mapping in messages: "spec", "evidence clause".
	what string
	keys map[string]*yaml.Node
	// names are where the keys themselves stand.
	names map[string]*yaml.Node
}

// A text is a scalar with the place where it stands.
type text struct {
	value string
	node  *yaml.Node
}

// mapping reads any mapping; merge keys (<<) are followed, and a key of the
// mapping itself wins over a merged one.
func (s *source) mapping(n *yaml.Node, what string) (object, []string, bool) {
	at := n
	n = resolve(n)
	o := object{src: s, node: n, what: what, keys: map[string]*yaml.Node{}, names: map[string]*yaml.Node{}}
	if n.Kind != yaml.MappingNode {
		s.fail(at, what+" is not a mapping", "it is a "+kindWord(n), "write it as key: value pairs")
		return o, nil, false
	}
	var order []string
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Tag == "!!merge" {
			merges = append(merges, value)
			continue
		}
		if key.Kind != yaml.ScalarNode {
			s.fail(key, "key in "+what+" is not a word", "it is a "+kindWord(key), "write a plain key")
			continue
		}
		if _, twice := o.keys[key.Value]; twice {
			s.fail(key, fmt.Sprintf("field %q appears twice in %s", key.Value, what), "which one counts would be chance", "remove one")
			continue
		}
		o.keys[key.Value], o.names[key.Value] = value, key
		order = append(order, key.Value)
	}
	for _, m := range merges {
		list := []*yaml.Node{m}
		if r := resolve(m); r.Kind == yaml.SequenceNode {
			list = r.Content
		}
		for _, from := range list {
			merged, names, ok := s.mapping(from, what)
			if !ok {
				continue
			}
			for _, name := range names {
				if _, own := o.keys[name]; !own {
					o.keys[name], o.names[name] = merged.keys[name], merged.names[name]
					order = append(order, name)
				}
			}
		}
	}
	return o, order, true
}

// object reads a mapping in which only the allowed keys may stand.
func (s *source) object(n *yaml.Node, what string, allowed ...string) (object, bool) {
	o, order, ok := s.mapping(n, what)
	for _, key := range order {
		if !slices.Contains(allowed, key) {
			s.fail(o.names[key], fmt.Sprintf("unknown field %q", key), "there is no such field in "+what, "use one of "+strings.Join(allowed, ", "))
		}
	}
	return o, ok
}

func (o object) has(key string) bool { _, ok := o.keys[key]; return ok }

// need reports a missing field.
func (o object) need(key, mend string) bool {
	if o.has(key) {
		return true
	}
	o.src.fail(o.node, fmt.Sprintf("%s has no %s", o.what, key), "it is required", mend)
	return false
}

// text reads an optional scalar; the zero text when it is missing or wrong.
func (o object) text(key string) text {
	n, ok := o.keys[key]
	if !ok {
		return text{}
	}
	return o.src.text(n, key+" of "+o.what)
}

func (s *source) text(n *yaml.Node, what string) text {
	r := resolve(n)
	if r.Kind != yaml.ScalarNode || r.Tag == "!!null" {
		s.fail(n, what+" is not a text", "it is a "+kindWord(r), "write one text, in quotes if it holds a colon")
		return text{}
	}
	if strings.TrimSpace(r.Value) == "" {
		s.fail(n, what+" is empty", "an empty text says nothing", "write it out or remove the field")
		return text{}
	}
	return text{value: r.Value, node: r}
}

// required reads a scalar that must be there.
func (o object) required(key, mend string) text {
	if !o.need(key, mend) {
		return text{}
	}
	return o.text(key)
}

func (o object) number(key string) (float64, bool) {
	n, ok := o.keys[key]
	if !ok {
		return 0, false
	}
	var v float64
	if r := resolve(n); r.Kind != yaml.ScalarNode || r.Decode(&v) != nil {
		o.src.fail(n, fmt.Sprintf("%s of %s is not a number", key, o.what), fmt.Sprintf("it reads %q", r.Value), "write a number such as 1.5")
		return 0, false
	}
	return v, true
}

func (o object) flag(key string) bool {
	n, ok := o.keys[key]
	if !ok {
		return false
	}
	var v bool
	if r := resolve(n); r.Kind != yaml.ScalarNode || r.Tag != "!!bool" || r.Decode(&v) != nil {
		o.src.fail(n, fmt.Sprintf("%s of %s is not true or false", key, o.what), fmt.Sprintf("it reads %q", r.Value), "write true or false")
	}
	return v
}

func (o object) duration(key string) time.Duration {
	t := o.text(key)
	if t.node == nil {
		return 0
	}
	d, err := time.ParseDuration(t.value)
	if err != nil || d < 0 {
		o.src.fail(t.node, fmt.Sprintf("%s of %s is not a duration", key, o.what), fmt.Sprintf("it reads %q", t.value), "write for example 30s or 2m")
		return 0
	}
	return d
}

// list returns the elements of an optional sequence.
func (o object) list(key string) []*yaml.Node {
	n, ok := o.keys[key]
	if !ok {
		return nil
	}
	r := resolve(n)
	if r.Kind != yaml.SequenceNode {
		o.src.fail(n, fmt.Sprintf("%s of %s is not a list", key, o.what), "it is a "+kindWord(r), "write it as - items or [a, b]")
		return nil
	}
	return r.Content
}

func (o object) texts(key string) []text {
	var out []text
	for _, n := range o.list(key) {
		if t := o.src.text(n, "entry of "+key); t.node != nil {
			out = append(out, t)
		}
	}
	return out
}

func resolve(n *yaml.Node) *yaml.Node {
	for i := 0; n.Kind == yaml.AliasNode && i < maxDepth; i++ {
		n = n.Alias
	}
	return n
}

func kindWord(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "mapping"
	case n.Kind == yaml.SequenceNode:
		return "list"
	case n.Tag == "!!null":
		return "nothing (null)"
	default:
		return "single value"
	}
}
