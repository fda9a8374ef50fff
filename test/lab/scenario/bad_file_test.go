// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A badFile is a file with the whole line that is said about it, behind the file's
// name.
type badFile struct{ name, text, want string }

func (b badFile) check(t *testing.T) {
	t.Parallel()
	s, err := Parse("f.yaml", []byte(b.text))
	require.Nil(t, s)
	require.EqualError(t, err, "f.yaml:"+b.want)
}

func TestFilesWithABadClusterOrBadTrafficAreRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []badFile{
		{"empty", ``,
			`1:1: the file is empty: a scenario is a YAML mapping; start with apiVersion: plumb.dev/v1alpha1`},
		{"only a comment", `# only a comment`,
			`1:1: the file is empty: a scenario is a YAML mapping; start with apiVersion: plumb.dev/v1alpha1`},
		{"wrong indentation", `apiVersion: plumb.dev/v1alpha1
kind: Scenario
  metadata: {name: x}`,
			`3:1: malformed YAML: mapping values are not allowed in this context; check indentation, brackets and quotes`},
		{"another version, kind and a bad name", `apiVersion: plumb.dev/v1
kind: Scenaro
metadata: {name: X_y}
spec: {nodes: [{name: n}]}`,
			`1:13: apiVersion of the scenario is wrong: it is "plumb.dev/v1", this build reads plumb.dev/v1alpha1; write apiVersion: plumb.dev/v1alpha1 (and 2 more problems)`},
		{"unknown field in metadata", `apiVersion: plumb.dev/v1alpha1
kind: Scenario
metadata: {name: x, labels: {}}
spec: {nodes: [{name: n}]}`,
			`3:21: unknown field "labels": metadata has no such field; known: name`},
		{"no apiVersion", `kind: Scenario
metadata: {name: x}
spec: {nodes: [{name: n}]}`,
			`1:1: the scenario has no apiVersion: it is required; write apiVersion: plumb.dev/v1alpha1`},
		{"a list", `- a`,
			`1:1: the scenario is not a mapping: it is a list; write it as key: value pairs`},
		{"a field twice", `apiVersion: plumb.dev/v1alpha1
kind: Scenario
kind: Scenario
metadata: {name: x}
spec: {nodes: [{name: n}]}`,
			`3:1: field "kind" of the scenario appears twice: line 2 has it already; remove one`},
		{"two documents", `apiVersion: plumb.dev/v1alpha1
kind: Scenario
metadata: {name: x}
spec: {nodes: [{name: n}]}
---
second: 1`,
			`5:1: a second document: a file holds one scenario; move it to a file of its own`},
		{"an alias that contains itself", `a: &a [*a]`,
			`1:1: the file expands too far: it has more than 100000 values or 32 levels after aliases are followed; use fewer aliases`},
		{"an alias of nothing", `a: *b`,
			`1:1: malformed YAML: unknown anchor 'b' referenced; check indentation, brackets and quotes`},
		{"no spec", `apiVersion: plumb.dev/v1alpha1
kind: Scenario
metadata: {name: x}`,
			`1:1: the scenario has no spec: it is required; write the cluster, its traffic and its faults under spec:`},
		{"nodes misspelt", spec(`  nodez: [{name: n}]`),
			`5:3: unknown field "nodez": spec has no such field; did you mean nodes?`},
		{"no node", spec(`  nodes: []`),
			`5:10: nodes of spec is wrong: the list is empty; write nodes: [{name: n1, zone: a}, {name: n2, zone: b}]`},
		{"nodes is null", spec(`  nodes:`),
			`5:9: nodes of spec is wrong: it is nothing (null), not a list; write it as - items or [a, b]`},
		{"nodes is a mapping", spec(`  nodes: {name: n}`),
			`5:10: nodes of spec is wrong: it is a mapping, not a list; write it as - items or [a, b]`},
		{"nodes are words", spec(`  nodes: [n1, n2]`),
			`5:11: node 0 is not a mapping: it is the text "n1"; write it as key: value pairs (and 1 more problem)`},
		{"a name twice", spec(`  nodes: [{name: n1}, {name: n1}]`),
			`5:30: name of node 1 is wrong: "n1" is the name of the node on line 5 already; rename one`},
		{"a name that is no DNS label", spec(`  nodes: [{name: N1}]`),
			`5:18: name of node 0 is wrong: "N1" is no DNS label; use at most 63 lower-case letters, digits and - inside`},
		{"no name", spec(`  nodes: [{zone: a}]`),
			`5:11: node 0 has no name: it is required; write a name such as n1`},
		{"unknown field in a node", spec(`  nodes: [{name: n, zones: a}]`),
			`5:21: unknown field "zones": node 0 has no such field; did you mean zone?`},
		{"a truth value as a zone", spec(`  nodes: [{name: n, zone: true}]`),
			`5:27: zone of node 0 is not a text: it is true; write one text, in quotes if it reads as something else`},
		{"an empty zone", spec(`  nodes: [{name: n, zone: ''}]`),
			`5:27: zone of node 0 is empty: an empty text says nothing; write it out or leave the field away`},
		{"a zone with blanks around", spec(`  nodes: [{name: n, zone: ' a'}]`),
			`5:27: zone of node 0 is wrong: " a" is no label; use at most 63 printable characters without blanks around`},
		{"a zone too long", spec(`  nodes: [{name: n, zone: aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggg}]`),
			`5:27: zone of node 0 is wrong: "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff…" is no label; use at most 63 printable characters without blanks around`},
		{"a zone with a control character", spec(`  nodes: [{name: n, zone: "a\tb"}]`),
			`5:27: zone of node 0 is wrong: "a\tb" is no label; use at most 63 printable characters without blanks around`},
		{"a zone with a comma", spec(`  nodes: [{name: n, zone: 'a,pool=b'}]`),
			`5:27: zone of node 0 is wrong: "a,pool=b" has a comma; labels are handed on as a list that commas part; use another character`},
		{"a pool with a comma", spec(`  nodes: [{name: n, pool: 'a,b'}]`),
			`5:27: pool of node 0 is wrong: "a,b" has a comma; labels are handed on as a list that commas part; use another character`},
		{"an instance type with a comma", spec(`  nodes: [{name: n, instanceType: 'a,b'}]`),
			`5:35: instanceType of node 0 is wrong: "a,b" has a comma; labels are handed on as a list that commas part; use another character`},
		{"a kernel with a comma", spec(`  nodes: [{name: n, kernel: 'a,b'}]`),
			`5:29: kernel of node 0 is wrong: "a,b" has a comma; labels are handed on as a list that commas part; use another character`},
		{"an image with a comma", spec(`  nodes: [{name: n, image: 'a,b'}]`),
			`5:28: image of node 0 is wrong: "a,b" has a comma; labels are handed on as a list that commas part; use another character`},
		{"another YAML's truth", spec(`  nodes: [{name: n, controlPlane: yes}]`),
			`5:35: controlPlane of node 0 is wrong: it is the text "yes"; write true or false`},
		{"a truth in quotes", spec(`  nodes: [{name: n, controlPlane: "true"}]`),
			`5:35: controlPlane of node 0 is wrong: it is the text "true"; write true or false`},
		{"a duration without a unit", spec(`  nodes: [{name: n}]
  duration: 60`),
			`6:13: duration of spec is wrong: "60" is not a duration; write for example 500ms, 30s or 2m`},
		{"a duration of zero", spec(`  nodes: [{name: n}]
  duration: 0`),
			`6:13: duration of spec is wrong: "0" is not more than zero; write for example 500ms, 30s or 2m`},
		{"a negative duration", spec(`  nodes: [{name: n}]
  settle: -1s`),
			`6:11: settle of spec is wrong: "-1s" lies outside 0s to 24h; write a duration within`},
		{"more than a day", spec(`  nodes: [{name: n}]
  duration: 25h`),
			`6:13: duration of spec is wrong: "25h" lies outside 1ns to 24h; write a duration within`},
		{"unknown family", spec(`  nodes: [{name: n}]
  family: ipv5`),
			`6:11: family of spec is "ipv5": there is no such family; write one of ipv4, ipv6`},
		{"three aggregators", spec(`  nodes: [{name: n}]
  aggregators: 3`),
			`6:16: aggregators of spec is wrong: 3 lies outside 1 to 2; write a number within`},
		{"a number in quotes", spec(`  nodes: [{name: n}]
  aggregators: "2"`),
			`6:16: aggregators of spec is wrong: the text "2" is not a plain whole number; write a number from 1 to 2`},
		{"a number in hex", spec(`  nodes: [{name: n}]
  aggregators: 0x1`),
			`6:16: aggregators of spec is wrong: 0x1 is not a plain whole number; write a number from 1 to 2`},
		{"unknown cloud", spec(`  nodes: [{name: n}]
  cloud: AWS`),
			`6:10: cloud of spec is "AWS": there is no such cloud; write one of aws, azure, gcp, none`},
		{"neither true nor false", spec(`  nodes: [{name: n}]
  pending: maybe`),
			`6:12: pending of spec is wrong: it is the text "maybe"; write true or false`},
		{"forbid is no list", spec(`  nodes: [{name: n}]
  forbid: proven`),
			`6:11: forbid of spec is wrong: it is the text "proven", not a list; write it as - items or [a, b]`},
		{"unknown grade to forbid", spec(`  nodes: [{name: n}]
  forbid: [proven, prooven]`),
			`6:20: forbid names "prooven": there is no such grade; write some of suspected, likely, proven`},
		{"a grade to forbid twice", spec(`  nodes: [{name: n}]
  forbid: [proven, proven]`),
			`6:20: forbid of spec names "proven" twice: it is a set; remove one`},
		{"objects is a list", spec(`  nodes: [{name: n}]
  objects: [a]`),
			`6:12: objects of spec is not a text: it is a list; write one text, in quotes if it reads as something else`},
		{"a field in other letters", spec(`  nodes: [{name: n}]
  podMtu: 1400`),
			`6:3: unknown field "podMtu": spec has no such field; did you mean podMTU?`},
		{"several problems", spec(`  nodes: [{name: n}]
  podMtu: 1400
  Family: ipv4
  nonsense: 1`),
			`6:3: unknown field "podMtu": spec has no such field; did you mean podMTU? (and 2 more problems)`},
		{"a tag of one's own", spec(`  nodes: !mine [{name: n}]`),
			`5:10: nodes of spec is wrong: it is tagged "!mine", not a list; write it as - items or [a, b]`},
		{"a key that is no word", spec(`  nodes: [{name: n}]
  ? [a]
  : b`),
			`6:5: a key of spec is not a word: it is a list; write a plain key`},
		{"a merge of no mapping", spec(`  nodes: [{<<: 3, name: n}]`),
			`5:16: node 0 is not a mapping: it is 3; write it as key: value pairs`},
		{"an open bracket", small(`  traffic: [{from: n1
  faults: []`),
			`6:1: malformed YAML: did not find expected ',' or '}'; check indentation, brackets and quotes`},
		{"a list entry that is not indented", small(`  traffic:
    - {from: n1, to: n2, kind: tcp}
   - {from: n1}
  faults: []`),
			`8:1: malformed YAML: did not find expected key; check indentation, brackets and quotes`},
		{"an open quote", small(`  traffic:
    - {from: n1, to: n2, kind: tcp}
  description: "abc
  faults: []`),
			`8:1: malformed YAML: found unexpected end of stream; check indentation, brackets and quotes`},
		{"a tab", small("  traffic:\n\t- {from: n1, to: n2, kind: tcp}"),
			`7:1: malformed YAML: found character that cannot start any token; check indentation, brackets and quotes`},
		{"an unknown anchor behind good lines", small(`  traffic:
    - {from: n1, to: n2, kind: tcp}
    - {from: n1, to: *x, kind: tcp}
  faults: []`),
			`8:1: malformed YAML: unknown anchor 'x' referenced; check indentation, brackets and quotes`},
		{"traffic to itself", small(`  traffic: [{from: n1, to: n1, kind: tcp}]`),
			`6:28: to of traffic 0 is wrong: it is the node of from, and a node has one pod; name another node`},
		{"traffic to an unknown node", small(`  traffic: [{from: n1, to: n9, kind: tcp}]`),
			`6:28: unknown node "n9": the file has n1, n2, n3; name one of these`},
		{"traffic from an unknown node to nowhere", small(`  traffic: [{from: n0, kind: tcp}]`),
			`6:13: traffic 0 has no to: it is required; name the node whose pod answers (and 1 more problem)`},
		{"a destination for dns", small(`  traffic: [{from: n1, to: n2, kind: dns}]`),
			`6:24: traffic 0 has to: dns goes to the cluster's resolver; remove it`},
		{"bytes of http", small(`  traffic: [{from: n1, to: n2, kind: http, bytes: 4}]`),
			`6:44: traffic 0 has bytes: it does not belong to kind http; remove it`},
		{"unknown kind of traffic", small(`  traffic: [{from: n1, to: n2, kind: sctp}]`),
			`6:38: kind of traffic 0 is "sctp": there is no such kind; write one of tcp, http, udp, dns`},
		{"no kind of traffic", small(`  traffic: [{from: n1, to: n2}]`),
			`6:13: traffic 0 has no kind: it is required; write kind: tcp, http, udp or dns`},
		{"a datagram too large", small(`  traffic: [{from: n1, to: n2, kind: udp, bytes: 64KiB}]`),
			`6:50: bytes of traffic 0 is wrong: "64KiB" lies outside 1 to 65507; write a number within`},
		{"unknown unit", small(`  traffic: [{from: n1, to: n2, kind: tcp, bytes: 64kib}]`),
			`6:50: bytes of traffic 0 is wrong: "64kib" is not a whole number with an optional unit; the units are KiB MiB GiB kB MB`},
		{"half a byte", small(`  traffic: [{from: n1, to: n2, kind: tcp, bytes: 1.5}]`),
			`6:50: bytes of traffic 0 is wrong: "1.5" is not a whole number with an optional unit; the units are KiB MiB GiB kB MB`},
		{"a size beyond all bounds", small(`  traffic: [{from: n1, to: n2, kind: tcp, bytes: 99999999999GiB}]`),
			`6:50: bytes of traffic 0 is wrong: "99999999999GiB" lies outside 1 to 1073741824; write a number within`},
		{"a size that would wrap to zero", small(`  traffic: [{from: n1, to: n2, kind: http, responseBytes: 17179869184GiB}]`),
			`6:59: responseBytes of traffic 0 is wrong: "17179869184GiB" lies outside 0 to 1073741824; write a number within`},
		{"never a pause", small(`  traffic: [{from: n1, to: n2, kind: tcp, every: 0s}]`),
			`6:50: every of traffic 0 is wrong: "0s" is not more than zero; write for example 500ms, 30s or 2m`},
		{"a pause too short", small(`  traffic: [{from: n1, to: n2, kind: tcp, every: 1us}]`),
			`6:50: every of traffic 0 is wrong: "1us" lies outside 1ms to 24h; write a duration within`},
		{"unknown plane", small(`  traffic: [{from: n1, to: n2, kind: tcp, plane: pods}]`),
			`6:50: plane of traffic 0 is "pods": there is no such plane; write one of pod, node`},
		{"an MTU without an overlay", small(`  overlay: {kind: none, mtu: 1400}`),
			`6:25: overlay has mtu: with kind: none there is no overlay device; remove it, or use kind: vxlan`},
		{"unknown DF", small(`  overlay: {df: on}`),
			`6:17: df of overlay is "on": there is no such df; write one of unset, set, inherit`},
		{"unknown overlay", small(`  overlay: {kind: geneve}`),
			`6:19: kind of overlay is "geneve": there is no such kind; write one of vxlan, none`},
		{"an overlay beyond its underlay", small(`  overlay: {mtu: 1451}`),
			`6:18: the overlay MTU of n1 is 1451: with a lower device the kernel would clamp it to 1450, the underlay 1500 - 50; use lowerDevice: false or a lower MTU`},
		{"one node's underlay below the overlay", spec(`  overlay: {mtu: 1450}
  nodes: [{name: n1}, {name: n2, underlayMTU: 1400}]`),
			`6:47: the overlay MTU of n2 is 1450: with a lower device the kernel would clamp it to 1350, the underlay 1400 - 50; use lowerDevice: false or a lower MTU`},
		{"one node's overlay beyond its underlay", spec(`  nodes: [{name: n1}, {name: n2, overlayMTU: 1500}]`),
			`5:46: the overlay MTU of n2 is 1500: with a lower device the kernel would clamp it to 1450, the underlay 1500 - 50; use lowerDevice: false or a lower MTU`},
		{"no room for an overlay", spec(`  nodes: [{name: n1, underlayMTU: 117}]`),
			`5:35: the overlay MTU of n1 is 67: the default is the underlay 117 - 50, IPv4 needs at least 68; raise the underlay MTU or give an overlay MTU`},
		{"one node's underlay that IPv6 cannot use", spec(`  family: ipv6
  nodes: [{name: n1, underlayMTU: 1279}]`),
			`6:35: underlayMTU of node 0 is wrong: MTU 1279 is impossible, IPv6 needs at least 1280; raise it, or use family: ipv4`},
		{"an underlay beyond an IP packet", spec(`  underlay: {mtu: 70000}
  nodes: [{name: n1}]`),
			`5:19: mtu of underlay is wrong: MTU 70000 is impossible, an IP packet has at most 65535 bytes; lower it`},
		{"a bad overlay MTU on every node is told once", small(`  overlay: {mtu: 9000}`),
			`6:18: the overlay MTU of n1 is 9000: with a lower device the kernel would clamp it to 1450, the underlay 1500 - 50; use lowerDevice: false or a lower MTU`},
		{"a control character", small("  description: \"a\x01\""),
			`6:18: a control character: it is U+0001, which YAML forbids; remove it`},
		{"traffic is a mapping", small(`  overlay: {kind: none}
  traffic: {}`),
			`7:12: traffic of spec is wrong: it is a mapping, not a list; write it as - items or [a, b]`},
		{"an overlay MTU of a node without an overlay", spec(`  overlay: {kind: none}
  nodes: [{name: n1, overlayMTU: 1400}]`),
			`6:22: node 0 has overlayMTU: with overlay kind none there is no overlay device; remove it, or use kind: vxlan`},
		{"wrong nodes hide what refers to them", spec(`  nodes: [{name: n1, zoen: a}]
  traffic: [{from: n1, to: n2, kind: tcp}]
  faults: [{kind: path-cut, between: [a, b]}]`),
			`5:22: unknown field "zoen": node 0 has no such field; did you mean zone?`},
		{"unknown field in the underlay", small(`  underlay: {MTU: 1500}`),
			`6:14: unknown field "MTU": underlay has no such field; did you mean mtu?`},
		{"unknown field in the overlay", small(`  overlay: {vni: 1}`),
			`6:13: unknown field "vni": overlay has no such field; known: df, kind, lowerDevice, mtu`},
		{"unknown field in traffic", small(`  traffic: [{form: n1, to: n2, kind: tcp}]`),
			`6:14: unknown field "form": traffic 0 has no such field; did you mean from?`},
		{"unknown field at the top", `apiVersion: plumb.dev/v1alpha1
kind: Scenario
metadata: {name: x}
specs: {nodes: [{name: n}]}`,
			`4:1: unknown field "specs": the scenario has no such field; did you mean spec?`},
	} {
		t.Run(tt.name, tt.check)
	}
}

func TestBytesThatAreNoTextAreRefusedWhereTheyStand(t *testing.T) {
	badFile{text: "kind: Scenario\nä: \xff\n", want: "2:4: a byte that is no UTF-8: it is 0xff; save the file as UTF-8"}.check(t)
}

func TestAMessageStaysShortWhateverTheFileHolds(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("9", 1000)
	for _, tt := range []badFile{
		{text: small("  family: " + long), want: `6:11: family of spec is "` + long[:60] + `…": there is no such family; write one of ipv4, ipv6`},
		{text: small("  pending: " + long), want: "6:12: pending of spec is wrong: it is the text \"" + long[:60] + "…\"; write true or false"},
		{text: small("  " + long + ": 1"), want: `6:3: unknown field "` + long[:60] + `…": spec has no such field; known: aggregators, cloud, description, duration, expect, family, faults, forbid, nodes, objects, overlay, pending, podMTU, settle, traffic, underlay`},
		{text: spec("  nodes: [{name: n" + strings.Join(strings.Split("0123456789abcdefghijklmn", ""), "}, {name: n") + "}]\n  faults: [{kind: agent-kill, pool: p}, {kind: agent-kill, node: x}]\n"), want: `6:37: unknown pool "p": no node has a pool; give it to a node, or select in another way (and 1 more problem)`},
		{text: spec("  nodes: [{name: n" + strings.Join(strings.Split("0123456789abcdefghijklmn", ""), "}, {name: n") + "}]\n  faults: [{kind: agent-kill, node: x}]\n"), want: `6:37: unknown node "x": the file has n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, na, nb, nc, nd, ne, nf, ng, nh, ni, nj and 4 more; name one of these`},
	} {
		t.Run(tt.want[:20], tt.check)
	}
}

func TestTheLabKeepsTheNamesOfItsOwnMachines(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"services", "fabric", "spine", "aggregator-1", "aggregator-2"} {
		_, err := Parse("f.yaml", []byte(spec("  nodes: [{name: n1}, {name: "+name+"}]\n")))
		require.EqualError(t, err, `f.yaml:5:30: name of node 1 is wrong: "`+name+`" is what the lab calls a machine of its own; rename the node`)
	}
	require.Equal(t, "aggregator-3", read1(t, spec("  nodes: [{name: aggregator-3}]\n")).Nodes[0].Name)
	require.Equal(t, "a=b", read1(t, spec("  nodes: [{name: n1, image: a=b}]\n")).Nodes[0].Image)
}

func TestNamesMayHaveSixtyThreeLetters(t *testing.T) {
	t.Parallel()
	name := strings.Repeat("n", 63)
	require.Equal(t, name, read1(t, spec("  nodes: [{name: "+name+"}]\n")).Nodes[0].Name)
	_, err := Parse("f.yaml", []byte(spec("  nodes: [{name: n"+name+"}]\n")))
	require.ErrorContains(t, err, "f.yaml:5:18: name of node 0 is wrong: ")
}

func TestAFileThatExpandsTooFarIsRefused(t *testing.T) {
	t.Parallel()
	const refused = "f.yaml:1:1: the file expands too far: it has more than 100000 values or 32 levels after aliases are followed; use fewer aliases"
	deep := strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1)
	_, err := Parse("f.yaml", []byte(deep))
	require.EqualError(t, err, refused)
	_, err = Parse("f.yaml", []byte(deep[1:2*maxDepth+1]))
	require.ErrorContains(t, err, "f.yaml:1:1: the scenario is not a mapping")

	laughs := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 5 {
		laughs += fmt.Sprintf("a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	_, err = Parse("f.yaml", []byte(laughs))
	require.EqualError(t, err, refused)
}

func TestThereMayBeFiveHundredFaultsAndNotOneMore(t *testing.T) {
	t.Parallel()
	many := "  duration: 2h\n  faults:\n"
	for i := range maxEntries {
		many += fmt.Sprintf("  - {kind: path-cut, at: %ds, until: %ds}\n", 10*i, 10*i+10)
	}
	require.Len(t, read1(t, small(many)).Faults, maxEntries)
	_, err := Parse("f.yaml", []byte(small(many+"  - {kind: path-cut, at: 1h30m}\n")))
	require.EqualError(t, err, "f.yaml:508:5: spec has 501 faults: the limit is 500; remove some")
}
