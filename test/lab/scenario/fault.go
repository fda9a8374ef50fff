// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
)

const (
	// timeServers is how many the lab has, each in a group of its own.
	timeServers = 3
	// maxDeviceName is IFNAMSIZ - 1 (linux/if.h).
	maxDeviceName = 15
	// maxDrift is where a clock would stand still or run at twice its speed, in
	// parts per million.
	maxDrift = 1e6
	// maxIOPS is beyond any disk.
	maxIOPS = 10_000_000
)

// A faultSource is a fault with what is needed to say what is wrong with it.
type faultSource struct {
	object
	trait trait
	// whole says that it was read without a problem.
	whole bool
}

func (d *decoder) faultList(spec object) {
	for i, n := range d.entries(spec, "faults", maxEntries) {
		f := Fault{Line: n.Line, Column: n.Column, Server: -1, Until: -1}
		from := faultSource{}
		from.whole = d.clean(func() { from.object, from.trait = d.fault(n, fmt.Sprintf("fault %d", i), &f) })
		d.out.Faults = append(d.out.Faults, f)
		d.faults = append(d.faults, from)
	}
	if d.named {
		d.contradictions()
		d.faultMTUs()
	}
}

func (d *decoder) fault(n *yaml.Node, what string, f *Fault) (object, trait) {
	o, ok := d.mapping(n, what)
	if !ok {
		return o, trait{}
	}
	t, ok := d.faultKind(o)
	if !ok {
		return o, t
	}
	f.Kind = t.kind
	for _, key := range o.order {
		if !slices.Contains(t.fields(), key) {
			d.foreign(o, t, key)
			o.strange = true
		}
	}
	for _, key := range t.required {
		o.need(key, fmt.Sprintf("%s takes %s", t.kind, list(t.params)))
	}
	if len(t.needsOne) > 0 && !o.strange && !slices.ContainsFunc(t.needsOne, o.has) {
		d.fail(o.node, fmt.Sprintf("%s has none of %s", what, strings.Join(t.needsOne, ", ")), string(t.kind)+" would change nothing", "add at least one")
	}
	f.At = o.duration("at", 0, 0, maxDuration)
	f.Until = o.duration("until", -1, 0, maxDuration)
	if o.has("until") && f.Until >= 0 && f.Until <= f.At {
		o.wrong("until", fmt.Sprintf("%s is not after at, %s", short(f.Until), short(f.At)), "let it end later, or leave it away to stay to the end")
	}
	d.selection(o, t, f)
	if d.clean(func() { d.params(o, t, f) }) {
		d.changesNothing(o, t, f)
	}
	return o, t
}

func (d *decoder) faultKind(o object) (trait, bool) {
	all := traits()
	var kinds, fields []string
	for _, t := range all {
		kinds = append(kinds, string(t.kind))
		fields = append(fields, t.fields()...)
	}
	var word string
	if o.has("kind") {
		var ok bool
		if word, ok = o.text("kind"); !ok {
			return trait{}, false
		}
		if i := slices.Index(kinds, word); i >= 0 {
			return all[i], true
		}
		mend := "known: " + strings.Join(kinds, ", ")
		if near := nearest(word, kinds); near != "" {
			mend = "did you mean " + near + "?"
		}
		d.fail(o.values["kind"], o.what+" has an unknown kind "+quote(word), "no fault is called so", mend)
	}
	for _, key := range o.order {
		if !slices.Contains(fields, key) {
			d.fail(o.names[key], "unknown field "+quote(key), "no fault has such a field", meant(key, fields))
			o.strange = true
		}
	}
	o.need("kind", "write a kind such as path-loss")
	return trait{}, false
}

// foreign reports a field that a kind does not have: a way to select that it does
// not know, one of another kind, or one that no kind has.
func (d *decoder) foreign(o object, t trait, key string) {
	what := fmt.Sprintf("%s of %s does not belong to %s", key, o.what, t.kind)
	own := fmt.Sprintf("%s takes %s", t.kind, list(t.fields()))
	kinds := kindsWith(key)
	switch {
	case slices.Contains(onPaths.selectors(), key):
		d.fail(o.names[key], what, fmt.Sprintf("%s acts on %s", t.kind, t.reach), own)
	case kinds != "":
		d.fail(o.names[key], what, "it belongs to "+kinds, own)
	default:
		mend := own
		if near := nearest(key, t.fields()); near != "" {
			mend = "did you mean " + near + "?"
		}
		d.fail(o.names[key], "unknown field "+quote(key), fmt.Sprintf("%s of kind %s has no such field", o.what, t.kind), mend)
	}
}

// params reads what is particular to the kind.
func (d *decoder) params(o object, t trait, f *Fault) {
	for _, param := range t.params {
		switch param {
		case "bytes":
			f.Bytes = int(o.quantity(param, sizeUnits(), 0, 1, maxMTU))
		case "icmp":
			f.ICMP = o.flag(param, false)
		case "direction":
			d.direction(o, f)
		case "ratio":
			f.Ratio = d.ratio(o)
		case "bitsPerSecond":
			f.BitsPerSecond = o.quantity(param, rateUnits(), 0, 1, maxBitsPerSecond)
		case "every":
			f.Every = o.duration(param, 0, minEvery, maxDuration)
		case "in":
			f.In = o.choice(param, "node", "node", "pod")
		case "mtu":
			least := minIPv4MTU
			if t.kind == UnderlayMTU {
				least = d.minUnderlay()
			}
			f.MTU = d.packet(o, param, 0, least)
		case "device":
			f.Device = d.device(o)
		case "server":
			f.Server = o.integer(param, -1, 0, timeServers-1)
		case "offset":
			f.Offset = d.offset(o, t.kind)
		case "drift":
			f.Drift = d.drift(o)
		case "step":
			d.step(o, f)
		case "mode":
			f.Mode = o.choice(param, "", modes(t.kind)...)
		case "fsync":
			f.Fsync = o.duration(param, 0, 1, maxDuration)
		case "iops":
			f.IOPS = o.integer(param, 0, 1, maxIOPS)
		case "neighbour":
			f.Neighbour = o.flag(param, false)
		case "delay":
			f.Delay = o.duration(param, 0, 1, maxDuration)
		}
	}
}

// changesNothing reports a fault whose parameters are all there and all say
// nothing.
func (d *decoder) changesNothing(o object, t trait, f *Fault) {
	var idle bool
	switch t.kind {
	case DiskSlow:
		idle = f.Fsync == 0 && f.IOPS == 0 && !f.Neighbour
	case ClockOffset:
		idle = f.Offset == 0 && f.Drift == 0 && f.StepBy == 0
	case NTPLies, NTPSmear:
		idle = f.Offset == 0
	}
	for _, key := range o.order {
		if idle && slices.Contains(t.params, key) && key != "server" {
			o.wrong(key, string(t.kind)+" would change nothing", "give another value, or more of "+list(t.params))
			return
		}
	}
}

func (d *decoder) direction(o object, f *Fault) {
	f.Direction = Direction(o.choice("direction", string(Both), string(Both), string(Forward), string(Reverse)))
	selected := slices.ContainsFunc(onPaths.selectors(), o.has)
	if f.Direction != Both && !selected {
		o.wrong("direction", fmt.Sprintf("with nothing selected there is no %s", f.Direction), "add between: [from, to], or use direction: both")
	}
}

func (d *decoder) ratio(o object) float64 {
	v, ok := o.number("ratio")
	if ok && (v <= 0 || v > 1) {
		o.wrong("ratio", fmt.Sprintf("%v is not more than 0 and at most 1", v), "write for example 0.05 for 5 %")
	}
	return v
}

func (d *decoder) device(o object) string {
	v, ok := o.text("device")
	if !ok {
		return "eth0"
	}
	if len(v) > maxDeviceName || strings.ContainsFunc(v, func(r rune) bool { return r == '/' || r == ':' || !unicode.IsGraphic(r) || unicode.IsSpace(r) }) || v == "." || v == ".." {
		o.wrong("device", quote(v)+" is no name of a device", fmt.Sprintf("write at most %d letters, such as eth0", maxDeviceName))
	}
	return v
}

func (d *decoder) offset(o object, kind Kind) time.Duration {
	var fallback time.Duration
	if kind == NTPSmear {
		// A leap second.
		fallback = time.Second
	}
	return o.duration("offset", fallback, -maxOffset, maxOffset)
}

func (d *decoder) drift(o object) float64 {
	v, ok := o.number("drift")
	if ok && math.Abs(v) >= maxDrift {
		o.wrong("drift", fmt.Sprintf("%v ppm would stop or double the clock", v), "write parts per million, such as 200")
	}
	return v
}

// step is true, false, or the length of an additional jump.
func (d *decoder) step(o object, f *Fault) {
	f.Step = true
	if !o.has("step") {
		return
	}
	r := resolve(o.values["step"])
	if r.Kind == yaml.ScalarNode && r.ShortTag() == "!!bool" {
		f.Step = o.flag("step", true)
		return
	}
	if _, err := time.ParseDuration(r.Value); r.Kind == yaml.ScalarNode && err != nil {
		o.wrong("step", describe(r)+" is neither true, false nor a duration", "write true, false or a jump such as 2s")
		return
	}
	f.StepBy = o.duration("step", 0, -maxOffset, maxOffset)
}

// neverStart reports faults that the run would end before.
func (d *decoder) neverStart() {
	end := d.out.RunFor()
	for i, f := range d.out.Faults {
		if o := d.faults[i].object; d.faults[i].whole && f.At >= end {
			o.wrong("at", fmt.Sprintf("it would never start, the run ends after %s", short(end)), "let it start earlier, or raise duration")
		}
	}
}
