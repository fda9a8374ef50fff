// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package evidence

import (
	"strings"
	"time"
)

// Type is the type of an item's value.
type Type string

// Types of items.
const (
	TypeInteger Type = "integer"
	TypeNumber  Type = "number"
	TypeText    Type = "text"
	TypeFlag    Type = "flag"
)

// The four id types make it a compile error to report, say, a text for an item
// of bytes.
type (
	// IntegerID names an item whose value is an integer.
	IntegerID uint32
	// NumberID names an item whose value is a floating point number.
	NumberID uint32
	// TextID names an item whose value is a short text.
	TextID uint32
	// FlagID names an item whose value is true or false.
	FlagID uint32
)

// ItemID is any of the four id types.
type ItemID interface {
	IntegerID | NumberID | TextID | FlagID
}

// ItemInfo is one row of the catalogue.
type ItemInfo struct {
	// ID is the number on the wire; never reused.
	ID uint32
	// Name is "probe.fact_unit", as signatures spell it.
	Name string
	// Subject is the kind of thing that the item is about.
	Subject string
	Type    Type
	// Unit is empty for texts, flags and plain counts.
	Unit string
	// Kind is the kind of measurement; two different kinds make a proof.
	Kind string
	// Sources is true when the value counts independent sources that agree.
	Sources bool
	// TTL is the age after which a value counts as stale; 0 means three
	// intervals of the probe.
	TTL      time.Duration
	Obsolete bool
	Doc      string
}

// Probe is the part of the name before the dot.
func (i ItemInfo) Probe() string {
	probe, _, _ := strings.Cut(i.Name, ".")
	return probe
}

// Field is the part of the name after the dot.
func (i ItemInfo) Field() string {
	_, field, _ := strings.Cut(i.Name, ".")
	return field
}

// SubjectKind is a kind of thing that evidence is about.
type SubjectKind struct {
	Name string
	// Parent is the kind that such a thing belongs to; empty for the node.
	Parent string
	Doc    string
}

// Condition is a state of a subject that opens and closes episodes.
type Condition struct {
	Name    string
	Subject string
	Doc     string
}

// A Catalog answers questions about the table. It is immutable and safe for
// concurrent use.
type Catalog struct {
	items      []ItemInfo
	byID       map[uint32]*ItemInfo
	byName     map[string]*ItemInfo
	conditions map[string]*Condition
	subjects   map[string]*SubjectKind
}

// NewCatalog returns the built-in table.
func NewCatalog() *Catalog {
	return newCatalog(itemTable, conditionTable, subjectTable)
}

func newCatalog(items []ItemInfo, conditions []Condition, subjects []SubjectKind) *Catalog {
	c := &Catalog{
		items:      items,
		byID:       make(map[uint32]*ItemInfo, len(items)),
		byName:     make(map[string]*ItemInfo, len(items)),
		conditions: make(map[string]*Condition, len(conditions)),
		subjects:   make(map[string]*SubjectKind, len(subjects)),
	}
	for i := range items {
		c.byID[items[i].ID] = &items[i]
		c.byName[items[i].Name] = &items[i]
	}
	for i := range conditions {
		c.conditions[conditions[i].Name] = &conditions[i]
	}
	for i := range subjects {
		c.subjects[subjects[i].Name] = &subjects[i]
	}
	return c
}

// Items returns every row that is not obsolete, in the order of the table.
func (c *Catalog) Items() []ItemInfo {
	out := make([]ItemInfo, 0, len(c.items))
	for _, it := range c.items {
		if !it.Obsolete {
			out = append(out, it)
		}
	}
	return out
}

// ItemsOf returns the rows that a probe reports about one kind of subject.
func (c *Catalog) ItemsOf(probe, subject string) []ItemInfo {
	var out []ItemInfo
	for _, it := range c.items {
		if !it.Obsolete && it.Subject == subject && it.Probe() == probe {
			out = append(out, it)
		}
	}
	return out
}

// ByID finds a row by its number.
func (c *Catalog) ByID(id uint32) (ItemInfo, bool) {
	if it, ok := c.byID[id]; ok {
		return *it, true
	}
	return ItemInfo{}, false
}

// ByName finds a row by its name.
func (c *Catalog) ByName(name string) (ItemInfo, bool) {
	if it, ok := c.byName[name]; ok {
		return *it, true
	}
	return ItemInfo{}, false
}

// Condition finds a condition by its name.
func (c *Catalog) Condition(name string) (Condition, bool) {
	if k, ok := c.conditions[name]; ok {
		return *k, true
	}
	return Condition{}, false
}

// Subject finds a kind of subject by its name.
func (c *Catalog) Subject(name string) (SubjectKind, bool) {
	if s, ok := c.subjects[name]; ok {
		return *s, true
	}
	return SubjectKind{}, false
}

// Kinds returns the kinds of measurement in the order of the table.
func (c *Catalog) Kinds() []string {
	return append([]string(nil), kindTable...)
}
