// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/evidence"
)

// minimal is a signature that loads; tests break one thing of it at a time.
const minimal = `apiVersion: plumb.dev/v1alpha1
kind: FailureSignature
metadata: {name: small}
spec:
  id: network/small
  title: A small one
  severity: warning
  symptom: it hangs
  scope: Node
  each: device
  when: link.role == "overlay"
  evidence:
    - id: too_big
      expr: link.mtu_bytes > 1450
      bans: 1.5
      claim: "{subject.name} has {link.mtu_bytes}"
    - id: drops
      expr: oversize.encapsulated_drops_window > 0
      bans: 1.0
      claim: drops
    - id: quiet
      expr: link.up == false
      bans: -0.5
      claim: it is down
  families: [[too_big, drops]]
  proof:
    - {name: both, all: [too_big, drops]}
  refuters:
    - id: metadata
      expr: link.collect_metadata
      rival: per packet
      because: it takes its remote per packet
      exonerates: it has fixed remotes
  consequences: [network/not-shipped-yet]
  rungCaps: [{item: link.mtu_bytes, rungPrefix: "sysfs", grade: likely, because: sysfs is late}]
  zone: {minNodes: 3, minShare: 0.1, minRatio: 5, alpha: 1e-4}
  for: 10s
  keepFiringFor: 5m
  summary: "{subject.name} is too big"
  mitigation: make it smaller
  tests:
    - name: fires
      evidence:
        device a: {link.role: overlay, link.mtu_bytes: 1500, oversize.encapsulated_drops_window: 2, link.collect_metadata: false, link.up: true}
      expect: {grade: proven}
`

func load(t *testing.T, content string) ([]*signature.Signature, error) {
	t.Helper()
	return signature.Load(fstest.MapFS{"network/small.yaml": {Data: []byte(content)}, "README.md": {Data: []byte("# no signature")}}, evidence.NewCatalog())
}

func TestASmallSignatureLoads(t *testing.T) {
	list, err := load(t, minimal)
	require.NoError(t, err)
	require.Len(t, list, 1)
	s := list[0]
	require.Equal(t, "network", s.Loop)
	require.Equal(t, "device", s.Each)
	require.Equal(t, []string{"network/not-shipped-yet"}, s.Consequences)
	require.Equal(t, "network/small.yaml", s.Origin)
	require.Len(t, s.Hash, 16)
	require.Equal(t, &signature.Zone{MinNodes: 3, MinShare: 0.1, MinRatio: 5, Alpha: 1e-4}, s.Zone)
	require.Equal(t, 1, s.Tests())
	report := signature.RunTests(list)
	require.Empty(t, report.Failures)
}

func TestWhatDoesNotLoad(t *testing.T) {
	for _, tc := range []struct {
		name, old, new string
		// at is line:column; says is part of the message.
		at, says string
	}{
		{"an unknown field", "  symptom: it hangs", "  symptoms: it hangs\n  symptom: it hangs", "8:3", `unknown field "symptoms"`},
		{"an unknown field deep down", "      bans: 1.0", "      bans: 1.0\n      ban: 3", "20:7", `unknown field "ban"`},
		{"another version", "plumb.dev/v1alpha1", "plumb.dev/v9", "1:13", "apiVersion is plumb.dev/v9"},
		{"another kind", "FailureSignature", "Pod", "2:7", "kind is Pod"},
		{"a name that is no DNS name", "{name: small}", "{name: Small One}", "3:18", "is not a DNS name"},
		{"an id without a loop", "network/small", "small", "5:7", `id "small" is not loop/name`},
		{"a severity that does not exist", "severity: warning", "severity: bad", "7:13", `severity is "bad"`},
		{"no symptom", "  symptom: it hangs\n", "", "5:3", "spec has no symptom"},
		{"a subject that does not exist", "each: device", "each: disk", "10:9", `no kind of subject: "disk"`},
		{"a device scope on nodes", "scope: Node\n  each: device", "scope: Device\n  each: node", "10:9", "scope Device is weighed on each node"},
		{"an item that does not exist", "link.mtu_bytes > 1450", "link.mtu_byte > 1450", "14:17", "undefined field 'mtu_byte'"},
		{"a probe that does not exist", "link.mtu_bytes > 1450", "lnk.mtu_bytes > 1450", "14:13", "undeclared reference to 'lnk'"},
		{"a comparison of types", "link.mtu_bytes > 1450", `link.mtu_bytes > "big"`, "14:28", "found no matching overload"},
		{"malformed CEL", "link.mtu_bytes > 1450", "link.mtu_bytes > > 1450", "14:30", "clause too_big"},
		{"malformed CEL in a folded block", "expr: link.mtu_bytes > 1450", "expr: >-\n        link.mtu_bytes\n        > 1450 &&\n        link.nothing", "17:13", "undefined field 'nothing'"},
		{"malformed CEL in quotes", "expr: link.mtu_bytes > 1450", `expr: 'link.type == "it''s" && link.nothing'`, "14:42", "undefined field 'nothing'"},
		{"malformed CEL in a sentence", "{link.mtu_bytes}\"", "{link.mtu}\"", "16:39", "undefined field 'mtu'"},
		{"an expression that gives no truth", "link.mtu_bytes > 1450", "link.mtu_bytes + 1450", "14:13", "gives int, not bool"},
		{"a probe as a value", "link.mtu_bytes > 1450", "link == link", "14:13", `"link" is a probe and not an item`},
		{"has()", "link.mtu_bytes > 1450", "has(link.mtu_bytes)", "14:16", "has() is not allowed"},
		{"a list macro", "link.mtu_bytes > 1450", "\"[1, 2].exists(x, x > link.mtu_bytes)\"", "14:27", "macros over lists are refused"},
		{"dyn()", "link.mtu_bytes > 1450", "dyn(link.mtu_bytes) == 1450", "14:16", "dyn() is not allowed"},
		{"a map", "link.mtu_bytes > 1450", "\"{1: link.mtu_bytes}[1] > 1450\"", "14:14", "maps, messages and comprehensions"},
		{"an item of a subject that cannot be reached", "link.mtu_bytes > 1450", "oversize.site == \"x\"", "14:21", "is an item of a dropsite, and a device has none"},
		{"a clause that reads nothing", "link.mtu_bytes > 1450", "1 < 2", "14:13", "reads no item"},
		{"a clause over the cost limit", "link.mtu_bytes > 1450", `(link.type + link.type + link.type).contains(link.role + link.role)`, "14:13", "the limit is 50"},
		{"no weight", "      bans: 1.0\n", "", "17:7", "has no bans"},
		{"a weight of 0", "bans: 1.0", "bans: 0", "19:13", "bans is 0"},
		{"too great a weight", "bans: 1.0", "bans: 2.5", "19:13", "bans is 2.5"},
		{"a weight that is no number", "bans: 1.0", "bans: much", "19:13", "is not a number"},
		{"an empty claim", "claim: drops", `claim: ""`, "20:14", "claim of evidence clause is empty"},
		{"no claim", "      claim: drops\n", "", "17:7", "has no claim"},
		{"an id used twice", "id: drops", "id: too_big", "17:11", `id "too_big" is used twice`},
		{"a refuter with the id of a clause", "id: metadata", "id: drops", "29:11", `id "drops" is used twice`},
		{"a family with an unknown clause", "[[too_big, drops]]", "[[too_big, dropped]]", "25:24", `unknown clause "dropped"`},
		{"a clause in two families", "[[too_big, drops]]", "[[too_big, drops], [drops, quiet]]", "25:33", "in two families"},
		{"a proof that names an unknown clause", "all: [too_big, drops]", "all: [too_big, drop]", "27:35", `unknown clause "drop"`},
		{"a proof by what speaks against", "all: [too_big, drops]", "all: [too_big, drops, quiet]", "27:42", "speaks against"},
		{"a proof of one kind", "all: [too_big, drops]", "all: [too_big]", "27:7", "fewer than two independent measurements"},
		{"a proof of one kind behind ||", "oversize.encapsulated_drops_window > 0", "oversize.encapsulated_drops_window > 0 || link.mtu_bytes > 9000", "27:7", "fewer than two independent measurements"},
		{"sources that the catalogue does not mark", "all: [too_big, drops]}", "all: [too_big], sources: clock.groups_total}", "27:45", "does not mark it"},
		{"neither proof nor noProof", "  proof:\n    - {name: both, all: [too_big, drops]}\n", "", "5:3", "neither proof nor noProof"},
		{"both proof and noProof", "  proof:\n", "  noProof: managed\n  proof:\n", "26:12", "both proof and noProof"},
		{"a refuter without a sentence", "      because: it takes its remote per packet\n", "", "29:7", "refuter has no because"},
		{"a refuter without its acquittal", "      exonerates: it has fixed remotes\n", "", "29:7", "refuter has no exonerates"},
		{"a consequence that is no id", "network/not-shipped-yet", "dns", "34:18", "is not a signature id"},
		{"a signature that explains itself", "network/not-shipped-yet", "network/small", "34:18", "explains itself"},
		{"a rung cap on an unknown item", "item: link.mtu_bytes", "item: link.mtu", "35:21", `unknown item "link.mtu"`},
		{"a share over 1", "minShare: 0.1", "minShare: 10", "36:33", "minShare of zone is 10"},
		{"a duration without a unit", "for: 10s", "for: 10", "37:8", "is not a duration"},
		{"no mitigation", "  mitigation: make it smaller\n", "", "5:3", "spec has no mitigation"},
		{"a brace too many", `"{subject.name} is too big"`, `"{subject.name}} is too big"`, "39:27", "} without a { before it"},
		{"a brace too few", `"{subject.name} is too big"`, `"{subject.name is too big"`, "39:13", "{ without its }"},
		{"a field twice", "      bans: 1.0", "      bans: 1.0\n      bans: 1.2", "20:7", `field "bans" appears twice`},
		{"malformed YAML", "  title: A small one", "  title: \"A small one", "", "malformed YAML"},
		{"a second document", "  title: A small one", "  title: A small one\n---\nkind:\n  x: y", "7:1", "more than one document"},
		{"a test with an unknown item", "link.mtu_bytes: 1500", "link.mtu: 1500", "44:40", `has no item "link.mtu"`},
		{"a test with a value of the wrong type", "link.mtu_bytes: 1500", "link.mtu_bytes: big", "44:56", "link.mtu_bytes is no integer"},
		{"a test that expects an unknown grade", "grade: proven", "grade: sure", "45:23", `grade is "sure"`},
		{"a test that expects an unknown refuter", "grade: proven}", "grade: refuted, refuted: nobody}", "45:41", `unknown refuter "nobody"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			require.Equal(t, 1, strings.Count(minimal, tc.old), "the test replaces one place")
			_, err := load(t, strings.Replace(minimal, tc.old, tc.new, 1))
			require.Error(t, err)
			var problems signature.Problems
			require.ErrorAs(t, err, &problems)
			first := problems[0].Error()
			require.Contains(t, err.Error(), tc.says)
			require.NotContains(t, first, "\n")
			require.Regexp(t, `^network/small\.yaml:\d+:\d+: .+: .+: .+$`, first)
			if tc.at != "" {
				require.Contains(t, "\n"+err.Error(), "\nnetwork/small.yaml:"+tc.at+": ", "all problems: %v", err)
			}
		})
	}
}

func TestAProofSetMayRestOnOneKind(t *testing.T) {
	for name, set := range map[string]string{
		"with a reason":    "{name: both, all: [too_big], soleKind: configuration is the mechanism itself}",
		"with two sources": "{name: both, all: [too_big], sources: clock.groups_agreeing}",
	} {
		t.Run(name, func(t *testing.T) {
			content := strings.Replace(minimal, "{name: both, all: [too_big, drops]}", set, 1)
			_, err := load(t, content)
			require.NoError(t, err)
		})
	}
}

func TestATimeDaemonsWordIsNoSecondMeasurement(t *testing.T) {
	content := strings.Replace(minimal, "expr: oversize.encapsulated_drops_window > 0", "expr: clock.unsynchronised", 1)
	_, err := load(t, content)
	require.ErrorContains(t, err, "fewer than two independent measurements: all of it is configuration")
}

func TestAllProblemsOfAllFilesAreReported(t *testing.T) {
	broken := strings.NewReplacer("bans: 1.0", "bans: 9", "severity: warning", "severity: bad").Replace(minimal)
	_, err := signature.Load(fstest.MapFS{
		"a.yaml": {Data: []byte(broken)},
		"b.yaml": {Data: []byte("[]")},
		"c.yaml": {Data: nil},
	}, evidence.NewCatalog())
	var problems signature.Problems
	require.ErrorAs(t, err, &problems)
	require.Len(t, problems, 4)
	require.Equal(t, []string{"a.yaml", "a.yaml", "b.yaml", "c.yaml"}, []string{problems[0].File, problems[1].File, problems[2].File, problems[3].File})
}

func TestIDsAreUniqueAcrossLibraries(t *testing.T) {
	_, err := signature.Load(fstest.MapFS{"a.yaml": {Data: []byte(minimal)}, "b.yaml": {Data: []byte(minimal)}}, evidence.NewCatalog())
	require.ErrorContains(t, err, `b.yaml:1:1: signature id "network/small" is taken: a.yaml has it already`)

	builtin, err := load(t, minimal)
	require.NoError(t, err)
	dir := t.TempDir()
	file := filepath.Join(dir, "mine.yaml")
	require.NoError(t, os.WriteFile(file, []byte(minimal), 0o600))
	user, err := signature.LoadDir(dir, evidence.NewCatalog())
	require.NoError(t, err)
	_, err = signature.Merge(builtin, user)
	require.ErrorContains(t, err, file+`:1:1: signature id "network/small" is taken: network/small.yaml has it already`)

	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(minimal, "id: network/small", "id: network/mine", 1)), 0o600))
	user, err = signature.LoadDir(dir, evidence.NewCatalog())
	require.NoError(t, err)
	merged, err := signature.Merge(builtin, user)
	require.NoError(t, err)
	require.Equal(t, "network/mine", merged[0].ID)
	require.Len(t, merged, 2)
}

func TestBuiltinRulesAskForTestCases(t *testing.T) {
	_, err := signature.LoadBuiltin(fstest.MapFS{"a.yaml": {Data: []byte(minimal)}}, evidence.NewCatalog())
	require.ErrorContains(t, err, "keepFiringFor is 5m0s")
	require.ErrorContains(t, err, "tests lack a case in which the decisive evidence is unknown")
	require.ErrorContains(t, err, "tests lack a case that refuter metadata stops")
	require.NotContains(t, err.Error(), "that fires")
}

func TestCheckAndTestOfFiles(t *testing.T) {
	catalog := evidence.NewCatalog()
	dir := t.TempDir()
	file := filepath.Join(dir, "small.yaml")
	require.NoError(t, os.WriteFile(file, []byte(minimal), 0o600))
	require.Empty(t, signature.Check(file, catalog))
	report, err := signature.Test(dir, catalog)
	require.NoError(t, err)
	require.True(t, report.Passed())
	require.Equal(t, 1, report.Cases)
	require.Equal(t, 5, report.Generated)

	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(minimal, "grade: proven", "grade: likely", 1)), 0o600))
	report, err = signature.Test(file, catalog)
	require.NoError(t, err)
	require.False(t, report.Passed())
	require.Equal(t, fmt.Sprintf(`%s:45:15: network/small: case "fires": grade is proven (1.50 bans, ), expected likely`, file), report.Failures[0].String())

	require.NoError(t, os.WriteFile(file, []byte("x: 1\ny: ["), 0o600))
	problems := signature.Check(file, catalog)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].Error(), "malformed YAML")
	_, err = signature.Test(file, catalog)
	require.ErrorContains(t, err, "malformed YAML")

	_, err = signature.Test(filepath.Join(dir, "none"), catalog)
	require.ErrorContains(t, err, "none: cannot be read: no such file or directory: check the path")
	_, err = signature.Test(t.TempDir(), catalog)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestAliasesCannotBlowUp(t *testing.T) {
	bomb := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 10; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [", i, i) + strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", ") + "]\n"
	}
	_, err := load(t, bomb)
	require.ErrorContains(t, err, "file expands too far")
	_, err = load(t, "a: &a [*a]\n")
	require.Error(t, err)
	_, err = load(t, strings.Repeat("#", 1<<21))
	require.ErrorContains(t, err, "file is too large")
}

// The generated test has teeth: evidence against that is taken away raises the
// grade, and a reader of the file learns that the case hangs on it.
func TestTheGeneratedTestFindsAGradeThatRises(t *testing.T) {
	content := strings.NewReplacer(
		"link.up: true}", "link.up: false}",
		"{grade: proven}", "{grade: suspected}",
		"[[too_big, drops]]", "[]",
		"oversize.encapsulated_drops_window: 2", "oversize.encapsulated_drops_window: 0",
		"bans: 1.5", "bans: 2.0",
	).Replace(minimal)
	list, err := load(t, content)
	require.NoError(t, err)
	report := signature.RunTests(list)
	require.Len(t, report.Failures, 1)
	require.Contains(t, report.Failures[0].String(), `case "fires, without link.up": the grade went from suspected to likely`)
}
