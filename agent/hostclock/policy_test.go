// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package hostclock_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	module = "github.com/plumb-dev/plumb"
	pair   = module + "/agent/hostclock/source"
)

// sources lists the Go files of the agent and its command, as "package/file".
func sources(t *testing.T, tags string) []string {
	t.Helper()
	patterns := []string{"./agent/..."}
	if files, err := filepath.Glob("../../cmd/plumb-agent/*.go"); err == nil && len(files) > 0 {
		patterns = append(patterns, "./cmd/plumb-agent/...")
	}
	args := append([]string{"list", "-e", "-tags", tags,
		"-f", `{{$p := .ImportPath}}{{range .GoFiles}}{{$p}}/{{.}}{{"\n"}}{{end}}{{range .Imports}}{{$p}} imports {{.}}{{"\n"}}{{end}}`}, patterns...)
	cmd := exec.Command("go", args...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

func without(all, some []string) []string {
	known := map[string]bool{}
	for _, s := range some {
		known[s] = true
	}
	var out []string
	for _, s := range all {
		if !known[s] && !strings.HasPrefix(s, module+"/agent/hostclock imports ") {
			out = append(out, s)
		}
	}
	sort.Strings(out)
	return out
}

// A scenario with a clock fault runs an agent that differs from the shipped one in
// the clock's source and in nothing else; otherwise it would prove nothing.
func TestTheLabBuildReplacesOneFile(t *testing.T) {
	shipped, lab := sources(t, ""), sources(t, "plumblab")
	require.Equal(t, []string{pair + ".go"}, without(shipped, lab))
	require.Equal(t, []string{pair + "_plumblab.go"}, without(lab, shipped))
}

// What an owner runs must not be able to lie about the clock, whatever its
// environment says.
func TestTheShippedAgentHasNoTraceOfTheLab(t *testing.T) {
	var bad []string
	for _, file := range sources(t, "") {
		path, ok := strings.CutPrefix(file, module+"/")
		if !ok || !strings.HasSuffix(path, ".go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join("../..", path))
		require.NoError(t, err)
		// The build tag itself must be spelled where it excludes the file.
		if bytes.Contains(bytes.ReplaceAll(text, []byte("//go:build !plumblab"), nil), []byte("PLUMBLAB")) {
			bad = append(bad, path)
		}
	}
	require.Empty(t, bad)

	if files, _ := filepath.Glob("../../cmd/plumb-agent/main.go"); len(files) == 0 {
		return
	}
	binary := filepath.Join(t.TempDir(), "plumb-agent")
	cmd := exec.Command("go", "build", "-o", binary, "./cmd/plumb-agent")
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	text, err := os.ReadFile(binary)
	require.NoError(t, err)
	require.False(t, bytes.Contains(text, []byte("PLUMBLAB")), "the shipped agent reads the lab's variable")
}
