// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package plumb_test holds the rules of the house as tests: what may import
// what, who may run commands, which headers a file has.
package plumb_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/plumb-dev/plumb/"

// generated says whether a tool wrote the file; its author has other rules.
func generated(source []byte) bool {
	return regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`).Match(source[:min(len(source), 600)])
}

// A rule forbids imports to the files below a directory.
type rule struct {
	name string
	// under is the directory the rule holds for.
	under string
	// deny are import path prefixes; those of this module are written without it.
	deny []string
	// tests says whether the rule binds test files as well.
	tests bool
}

// rules are the directions in which data flows (ARCHITECTURE.md), and what the
// agent must never link.
func rules() []rule {
	return []rule{
		{name: "the agent runs no external commands", under: "agent", deny: []string{"os/exec"}},
		{name: "the agent has no access to the Kubernetes API", under: "agent", deny: []string{"k8s.io/", "sigs.k8s.io/"}, tests: true},
		{name: "the aggregator runs no external commands", under: "aggregator", deny: []string{"os/exec"}},
		{name: "the agent does not know the aggregator", under: "agent", deny: []string{module + "aggregator"}, tests: true},
		{name: "the aggregator does not know the agent", under: "aggregator", deny: []string{module + "agent", module + "bpf"}, tests: true},
		{name: "the vocabulary knows neither side", under: "evidence", deny: []string{module + "agent", module + "aggregator", module + "bpf", module + "signatures"}, tests: true},
		{name: "the library is data", under: "signatures", deny: []string{module + "agent", module + "aggregator"}},
		{name: "a probe does not know the uplink", under: "agent/probe", deny: []string{module + "agent/uplink", module + "agent/schedule"}},
		{name: "the uplink does not know the probes", under: "agent/uplink", deny: []string{module + "agent/probe", module + "agent/schedule"}},
		{name: "ingest comes before state", under: "aggregator/ingest", deny: []string{module + "aggregator/signature", module + "aggregator/verdict", module + "aggregator/api"}},
		{name: "state comes before matching", under: "aggregator/state", deny: []string{module + "aggregator/signature", module + "aggregator/verdict", module + "aggregator/api"}},
		{name: "matching comes before verdicts", under: "aggregator/signature", deny: []string{module + "aggregator/verdict", module + "aggregator/ingest", module + "aggregator/bus"}},
		{name: "verdicts do not know where batches come from and what keeps them", under: "aggregator/verdict", deny: []string{module + "aggregator/ingest", module + "aggregator/bus"}},
		{name: "the bus carries bytes and knows nobody", under: "aggregator/bus", deny: []string{module + "aggregator", module + "evidence"}},
		{name: "nothing that is shipped knows the lab", under: "agent", deny: []string{module + "test", module + "bpf/fabric"}, tests: true},
		{name: "nothing that is shipped knows the lab", under: "aggregator", deny: []string{module + "test", module + "bpf/fabric"}, tests: true},
		{name: "nothing that is shipped knows the lab", under: "internal", deny: []string{module + "test", module + "bpf/fabric"}},
		{name: "a judge sees what the API shows, and nothing else", under: "test/lab/judge", deny: []string{module + "agent", module + "aggregator"}},
		{name: "a scenario knows no product", under: "test/lab/scenario", deny: []string{module + "agent", module + "aggregator"}},
		{name: "helpers serve, they know nobody", under: "internal/testutils", deny: []string{module + "agent", module + "aggregator"}},
		{name: "tests use require", under: ".", deny: []string{"github.com/stretchr/testify/assert"}, tests: true},
	}
}

func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") {
			files = append(files, path)
		}
		return nil
	}))
	require.NotEmpty(t, files)
	return files
}

func parse(t *testing.T, path string, mode parser.Mode) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, mode)
	require.NoError(t, err)
	return f
}

// broken returns the imports of one file that a rule forbids.
func (r rule) broken(path string, f *ast.File) []string {
	if r.under != "." && !strings.HasPrefix(path, r.under+"/") {
		return nil
	}
	if strings.HasSuffix(path, "_test.go") && !r.tests {
		return nil
	}
	var out []string
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		for _, deny := range r.deny {
			if imported == deny || strings.HasPrefix(imported, strings.TrimSuffix(deny, "/")+"/") {
				out = append(out, imported)
			}
		}
	}
	return out
}

func TestImportsFollowTheFlowOfData(t *testing.T) {
	for _, path := range goFiles(t) {
		f := parse(t, path, parser.ImportsOnly)
		for _, r := range rules() {
			require.Empty(t, r.broken(path, f), "%s: %s", path, r.name)
		}
	}
}

func TestTheImportRuleCatchesWhatItForbids(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\nimport \"os/exec\"\n", parser.ImportsOnly)
	require.NoError(t, err)
	r := rules()[0]
	require.NotEmpty(t, r.broken("agent/probe/x/x.go", f))
	require.Empty(t, r.broken("agent/probe/x/x_test.go", f), "tests may run commands")
	require.Empty(t, r.broken("internal/local/x.go", f))
}

func TestEveryPackageSaysItsOneJob(t *testing.T) {
	documented := map[string]bool{}
	for _, path := range goFiles(t) {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		if generated(raw) {
			continue
		}
		dir := filepath.Dir(path)
		f := parse(t, path, parser.ParseComments|parser.PackageClauseOnly)
		documented[dir] = documented[dir] || f.Doc != nil && len(strings.TrimSpace(f.Doc.Text())) > 0
	}
	for dir, has := range documented {
		require.True(t, has, "package %s has no package comment", dir)
	}
}

func TestEveryFileHasItsLicenceHeader(t *testing.T) {
	for _, path := range goFiles(t) {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		if generated(raw) {
			continue
		}
		head := string(raw[:min(len(raw), 600)])
		require.Contains(t, head, "// Copyright The Plumb Authors.\n// SPDX-License-Identifier: Apache-2.0\n", "%s has no licence header", path)
	}
	for _, pattern := range []string{"Makefile", ".golangci.yaml", ".ci/run", "test/run", "evidence/*.yaml", "evidence/v1/*.proto", "aggregator/api/v1/*.proto", "signatures/*/*.yaml", "test/lab/scenarios/*.yaml"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, files, pattern)
		for _, path := range files {
			raw, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Regexp(t, `(?m)^(#|//) Copyright The Plumb Authors\.\n(#|//) SPDX-License-Identifier: Apache-2\.0$`, string(raw[:min(len(raw), 300)]), path)
		}
	}
	for _, pattern := range []string{"bpf/*.c", "bpf/include/*.h", "bpf/fabric/*.c", "bpf/fabric/*.h"} {
		sources, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, sources, pattern)
		for _, path := range sources {
			raw, err := os.ReadFile(path)
			require.NoError(t, err)
			head := string(raw[:min(len(raw), 300)])
			require.Contains(t, head, "SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)", path)
			if strings.HasSuffix(path, ".c") {
				require.True(t, strings.HasPrefix(head, "//go:build ignore\n"), "%s must begin with //go:build ignore", path)
			}
		}
	}
}

// The tree must not carry marks of unfinished work.
func TestNothingUnfinishedIsLeftInTheTree(t *testing.T) {
	marks := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b|(?i)\b(place` + `holder|for ` + `now|not ` + `implemented)\b`)
	texts := goFiles(t)
	for _, pattern := range []string{"*.md", "docs/*.md", "signatures/*.md", "Makefile", ".ci/run", "test/run", "bpf/*.c", "bpf/include/*.h", "bpf/fabric/*.c", "bpf/fabric/*.h", "test/lab/scenarios/*.yaml", "evidence/*.yaml", "evidence/v1/*.proto", "aggregator/api/v1/*.proto", "signatures/*/*.yaml"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, files, pattern)
		texts = append(texts, files...)
	}
	for _, path := range texts {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		if strings.HasSuffix(path, ".go") && generated(raw) {
			continue
		}
		require.Empty(t, marks.FindString(string(raw)), path)
	}
}

func TestLinksOfTheDocumentsResolve(t *testing.T) {
	links := regexp.MustCompile(`\]\(([^)#\s]+)`)
	for _, pattern := range []string{"*.md", "docs/*.md", "signatures/*.md"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, files, pattern)
		for _, path := range files {
			raw, err := os.ReadFile(path)
			require.NoError(t, err)
			for _, link := range links.FindAllStringSubmatch(string(raw), -1) {
				if !strings.Contains(link[1], "://") {
					_, err := os.Stat(filepath.Join(filepath.Dir(path), link[1]))
					require.NoError(t, err, "%s links to it", path)
				}
			}
		}
	}
}

// Package state is how one test leaks into another, and init functions are how
// it gets there unseen.
func TestNoInitFunctions(t *testing.T) {
	for _, path := range goFiles(t) {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		if generated(raw) {
			continue
		}
		for _, d := range parse(t, path, parser.SkipObjectResolution).Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function", path)
			}
		}
	}
}
