// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	apiVersion = "plumb.dev/v1alpha1"
	kindName   = "Scenario"
	// maxNodes is how many nodes a lab has: node i is 10.9.i.0/24, and one machine
	// has to carry them all.
	maxNodes = 60
	// maxEntries bounds traffic, faults and expectations, each.
	maxEntries = 500
)

// dnsLabel is RFC 1123 section 2.1, in lower case: at most 63 characters.
var dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Load reads and checks the scenario file at path. Its error is always a *Problem.
func Load(path string) (*Scenario, error) {
	data, err := read(path)
	if err != nil {
		var inner *fs.PathError
		if errors.As(err, &inner) {
			err = inner.Err
		}
		return nil, &Problem{File: path, What: "the file cannot be read", Why: err.Error(), Mend: "name a scenario file that exists and is readable"}
	}
	return Parse(path, data)
}

// read returns the file's content, at most one byte more than what Parse accepts.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	return data, errors.Join(err, f.Close())
}

// Parse reads and checks one scenario. The name is what positions in errors show;
// relative paths in the file start at its directory. The error is always a
// *Problem: the problem that stands first in the file.
func Parse(name string, data []byte) (*Scenario, error) {
	d := &decoder{source: &source{name: name}, out: &Scenario{File: name}}
	if root := d.parse(data); root != nil {
		d.scenario(root)
	}
	if err := d.problems.first(); err != nil {
		return nil, err
	}
	return d.out, nil
}

// A decoder turns one file into a Scenario.
type decoder struct {
	*source
	out *Scenario
	// named says that the nodes were read without a problem, so that a name that is
	// not among them is unknown indeed.
	named bool
	// faults are what was read of each fault, whole or not.
	faults []faultSource
}

func (d *decoder) scenario(root *yaml.Node) {
	top, ok := d.object(root, "the scenario", "apiVersion", "kind", "metadata", "spec")
	if !ok {
		return
	}
	d.exactly(top, "apiVersion", apiVersion)
	d.exactly(top, "kind", kindName)
	if top.need("metadata", "write metadata: {name: my-scenario}") {
		if meta, ok := d.object(top.values["metadata"], "metadata", "name"); ok && meta.need("name", "write a name such as fabric-black-hole") {
			d.out.Name = d.label(meta, "name")
		}
	}
	if !top.need("spec", "write the cluster, its traffic and its faults under spec:") {
		return
	}
	spec, ok := d.object(top.values["spec"], "spec", "description", "duration", "settle", "family", "aggregators", "cloud", "pending",
		"underlay", "overlay", "podMTU", "nodes", "traffic", "faults", "objects", "expect", "forbid")
	if !ok {
		return
	}
	whole := d.clean(func() { d.head(spec) })
	d.named = d.clean(func() { d.cluster(spec) })
	d.traffic(spec)
	d.faultList(spec)
	d.expectations(spec)
	if whole {
		d.neverStart()
	}
	d.forbidden(spec)
}

func (d *decoder) exactly(o object, key, want string) {
	if !o.need(key, "write "+key+": "+want) {
		return
	}
	if got, ok := o.text(key); ok && got != want {
		o.wrong(key, fmt.Sprintf("it is %s, this build reads %s", quote(got), want), "write "+key+": "+want)
	}
}

// label reads a name that is a DNS label.
func (d *decoder) label(o object, key string) string {
	v, ok := o.text(key)
	if ok && !dnsLabel.MatchString(v) {
		o.wrong(key, quote(v)+" is no DNS label", "use at most 63 lower-case letters, digits and - inside")
		return ""
	}
	return v
}

func (d *decoder) head(spec object) {
	s := d.out
	s.Description, _ = spec.text("description")
	s.Duration = spec.duration("duration", 60*time.Second, 1, maxDuration)
	s.Settle = spec.duration("settle", 5*time.Second, 0, maxDuration)
	s.Family = Family(spec.choice("family", string(IPv4), string(IPv4), string(IPv6)))
	s.Aggregators = spec.integer("aggregators", 1, 1, 2)
	s.Cloud = Cloud(spec.choice("cloud", string(AWS), string(AWS), string(Azure), string(GCP), string(NoCloud)))
	s.Pending = spec.flag("pending", false)
	if path, ok := spec.text("objects"); ok {
		s.Objects = path
		if !filepath.IsAbs(path) {
			s.Objects = filepath.Join(filepath.Dir(d.name), path)
		}
	}
}

// entries returns a list that is not longer than anybody means it to be.
func (d *decoder) entries(spec object, key string, most int) []*yaml.Node {
	items := spec.items(key)
	if len(items) > most {
		d.fail(items[most], fmt.Sprintf("spec has %d %s", len(items), key), fmt.Sprintf("the limit is %d", most), "remove some")
		items = items[:most]
	}
	return items
}

func grades() []string { return []string{"suspected", "likely", "proven"} }

func (d *decoder) forbidden(spec object) {
	for _, n := range spec.nameList("forbid") {
		if !slices.Contains(grades(), n.value) {
			d.fail(n.node, "forbid names "+quote(n.value), "there is no such grade", "write some of "+list(grades()))
			continue
		}
		d.out.Forbid = append(d.out.Forbid, n.value)
	}
}
