// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// An object is a YAML mapping.
type object struct {
	src  *source
	node *yaml.Node
	// what names the mapping in messages: "spec", "fault 2".
	what   string
	values map[string]*yaml.Node
	// names are where the keys stand.
	names map[string]*yaml.Node
	order []string
	// strange says that it has a field that it should not have.
	strange bool
}

// mapping reads a mapping with any keys. Merge keys (<<) are followed; a key of
// the mapping itself wins over a merged one.
func (s *source) mapping(n *yaml.Node, what string) (object, bool) {
	r := resolve(n)
	o := object{src: s, node: n, what: what, values: map[string]*yaml.Node{}, names: map[string]*yaml.Node{}}
	if r.Kind != yaml.MappingNode || r.ShortTag() != "!!map" {
		s.fail(n, what+" is not a mapping", "it is "+describe(r), "write it as key: value pairs")
		return o, false
	}
	var merges []*yaml.Node
	for i := 0; i+1 < len(r.Content); i += 2 {
		key, value := r.Content[i], r.Content[i+1]
		if key.ShortTag() == "!!merge" {
			merges = append(merges, value)
			continue
		}
		if key.Kind != yaml.ScalarNode {
			s.fail(key, "a key of "+what+" is not a word", "it is "+describe(key), "write a plain key")
			continue
		}
		if first, twice := o.names[key.Value]; twice {
			s.fail(key, fmt.Sprintf("field %s of %s appears twice", quote(key.Value), what), fmt.Sprintf("line %d has it already", first.Line), "remove one")
			continue
		}
		o.add(key.Value, key, value)
	}
	for _, m := range merges {
		from := []*yaml.Node{m}
		if r := resolve(m); r.Kind == yaml.SequenceNode {
			from = r.Content
		}
		for _, f := range from {
			merged, ok := s.mapping(f, what)
			if !ok {
				continue
			}
			for _, name := range merged.order {
				if !o.has(name) {
					o.add(name, merged.names[name], merged.values[name])
				}
			}
		}
	}
	return o, true
}

func (o *object) add(name string, key, value *yaml.Node) {
	o.values[name], o.names[name] = value, key
	o.order = append(o.order, name)
}

// object reads a mapping in which only the known keys may stand.
func (s *source) object(n *yaml.Node, what string, known ...string) (object, bool) {
	o, ok := s.mapping(n, what)
	for _, key := range o.order {
		if !slices.Contains(known, key) {
			s.fail(o.names[key], "unknown field "+quote(key), what+" has no such field", meant(key, known))
			o.strange = true
		}
	}
	return o, ok
}

func (o object) has(key string) bool { _, ok := o.values[key]; return ok }

// need reports a field that is missing. Beside a field that should not be there
// it stays silent: a misspelt name is reported as what it is.
func (o object) need(key, mend string) bool {
	if o.has(key) || o.strange {
		return o.has(key)
	}
	o.src.fail(o.node, fmt.Sprintf("%s has no %s", o.what, key), "it is required", mend)
	return false
}

// wrong reports a field that is there but has no good value.
func (o object) wrong(key, why, mend string) {
	o.src.fail(o.values[key], fmt.Sprintf("%s of %s is wrong", key, o.what), why, mend)
}

// word reads a scalar as it is written. Numbers are taken as text, so that a
// zone 1 or a kernel 6.1 needs no quotes; true, false and null are not, for YAML
// reads several spellings as these.
func (s *source) word(n *yaml.Node, what string) (string, bool) {
	r := resolve(n)
	switch {
	case r.Kind == yaml.ScalarNode && slices.Contains([]string{"!!str", "!!int", "!!float", "!!timestamp"}, r.ShortTag()):
	default:
		s.fail(n, what+" is not a text", "it is "+describe(r), "write one text, in quotes if it reads as something else")
		return "", false
	}
	if strings.TrimSpace(r.Value) == "" {
		s.fail(n, what+" is empty", "an empty text says nothing", "write it out or leave the field away")
		return "", false
	}
	return r.Value, true
}

// text reads an optional scalar; "" and false when it is missing or wrong.
func (o object) text(key string) (string, bool) {
	if !o.has(key) {
		return "", false
	}
	return o.src.word(o.values[key], key+" of "+o.what)
}

// choice reads an optional word that must be one of the known ones, and returns
// fallback when it is missing or wrong.
func (o object) choice(key, fallback string, known ...string) string {
	word, ok := o.text(key)
	if !ok {
		return fallback
	}
	if !slices.Contains(known, word) {
		o.src.fail(o.values[key], fmt.Sprintf("%s of %s is %s", key, o.what, quote(word)), "there is no such "+key, "write one of "+strings.Join(known, ", "))
		return fallback
	}
	return word
}

// flag reads an optional true or false.
func (o object) flag(key string, fallback bool) bool {
	if !o.has(key) {
		return fallback
	}
	r := resolve(o.values[key])
	var v bool
	if r.Kind != yaml.ScalarNode || r.ShortTag() != "!!bool" || r.Decode(&v) != nil {
		o.wrong(key, "it is "+describe(r), "write true or false")
		return fallback
	}
	return v
}

// items returns the elements of an optional list.
func (o object) items(key string) []*yaml.Node {
	if !o.has(key) {
		return nil
	}
	r := resolve(o.values[key])
	if key != "nodes" && r.Kind == yaml.ScalarNode && r.ShortTag() == "!!null" {
		return nil // a key with nothing behind it is an empty list
	}
	if r.Kind != yaml.SequenceNode || r.ShortTag() != "!!seq" {
		o.wrong(key, "it is "+describe(r)+", not a list", "write it as - items or [a, b]")
		return nil
	}
	return r.Content
}

// A name is a word of a list with the place where it stands.
type name struct {
	value string
	node  *yaml.Node
}

// nameList reads an optional list of different words. An empty one is as none for
// what is forbidden, and an error for what selects.
func (o object) nameList(key string) []name {
	items := o.items(key)
	if o.has(key) && key != "forbid" && len(items) == 0 && resolve(o.values[key]).Kind == yaml.SequenceNode {
		o.wrong(key, "the list is empty", "name at least one, or leave the field away")
	}
	var out []name
	for _, n := range items {
		word, ok := o.src.word(n, "an entry of "+key)
		if !ok {
			continue
		}
		if slices.ContainsFunc(out, func(other name) bool { return other.value == word }) {
			o.src.fail(n, fmt.Sprintf("%s of %s names %s twice", key, o.what, quote(word)), "it is a set", "remove one")
			continue
		}
		out = append(out, name{word, n})
	}
	return out
}

func resolve(n *yaml.Node) *yaml.Node {
	for i := 0; n.Kind == yaml.AliasNode && i < maxDepth; i++ {
		n = n.Alias
	}
	return n
}

// describe says what a value is, for a reader who wrote something else.
func describe(n *yaml.Node) string {
	n = resolve(n)
	tag := n.ShortTag()
	switch {
	case n.Kind == yaml.MappingNode && tag == "!!map":
		return "a mapping"
	case n.Kind == yaml.SequenceNode && tag == "!!seq":
		return "a list"
	case tag == "!!null":
		return "nothing (null)"
	case n.Kind == yaml.ScalarNode && tag == "!!str":
		return "the text " + quote(n.Value)
	case n.Kind == yaml.ScalarNode:
		return shorten(n.Value)
	}
	return "tagged " + quote(tag)
}
