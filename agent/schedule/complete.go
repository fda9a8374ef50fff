// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"github.com/plumb-dev/plumb/evidence"
	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// complete turns a sample into wire form and fills in, as unknown, every
// catalogued item that the probe left out for a subject that it observed. It
// returns how many there were: an item is never silently absent.
//
// Two observations of one subject become one; the later value of an item wins.
func complete(catalog *evidence.Catalog, probe string, sample *evidence.Sample, now uint64) ([]*evidencev1.Observation, int) {
	type id struct{ kind, key string }
	index := map[id]*evidencev1.Observation{}
	var out []*evidencev1.Observation
	for _, o := range sample.Observations {
		k := id{o.Subject.Kind, o.Subject.Key}
		wire, known := index[k]
		if !known {
			wire = &evidencev1.Observation{Probe: probe, Subject: o.Subject.Proto(), ObservedBoottimeNanoseconds: now}
			index[k] = wire
			out = append(out, wire)
		}
		for _, it := range o.Items {
			wire.Items = put(wire.Items, it)
		}
	}
	missing := 0
	for _, o := range out {
		for _, info := range catalog.ItemsOf(probe, o.GetSubject().GetKind()) {
			if has(o.GetItems(), info.ID) {
				continue
			}
			missing++
			o.Items = append(o.Items, unknown(info.ID, evidence.Failed, "the probe did not report it, which is a defect of the probe"))
		}
	}
	return out, missing
}

// blank is an observation in which every catalogued item is unknown.
func blank(catalog *evidence.Catalog, probe string, subject evidence.Subject, reason evidencev1.Unknown_Reason, detail string, now uint64) *evidencev1.Observation {
	o := &evidencev1.Observation{Probe: probe, Subject: subject.Proto(), ObservedBoottimeNanoseconds: now}
	for _, info := range catalog.ItemsOf(probe, subject.Kind) {
		o.Items = append(o.Items, unknown(info.ID, reason, detail))
	}
	return o
}

func unknown(id uint32, reason evidencev1.Unknown_Reason, detail string) *evidencev1.Item {
	return &evidencev1.Item{Id: id, State: &evidencev1.Item_Unknown{Unknown: &evidencev1.Unknown{Reason: reason, Detail: detail}}}
}

func put(items []*evidencev1.Item, it *evidencev1.Item) []*evidencev1.Item {
	for i := range items {
		if items[i].GetId() == it.GetId() {
			items[i] = it
			return items
		}
	}
	return append(items, it)
}

func has(items []*evidencev1.Item, id uint32) bool {
	for _, it := range items {
		if it.GetId() == id {
			return true
		}
	}
	return false
}
